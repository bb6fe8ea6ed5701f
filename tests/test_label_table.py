"""`--labels labels.csv`: the classes of images from a table of its own, whatever holds the images."""

import zipfile
from pathlib import Path

import pytest
from runs import made_images, picture, ran

from lwcl.data.dataset import ImageSet, open_images
from lwcl.data.labelled import open_labelled_pair
from lwcl.errors import DataError, UsageError

NAMES = ("train/a/0.png", "train/b/0.png", "train/b/1.png", "val/a/2.png")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder whose class folders are not the classes."""
    for number, name in enumerate(NAMES):
        file = tmp_path / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(file)
    return tmp_path / "photos"


def table(photos: Path, text: str) -> str:
    """A table beside the folder."""
    (photos.parent / "labels.csv").write_text(text)
    return str(photos.parent / "labels.csv")


def classes(images: ImageSet) -> dict[str, str]:
    """The class of each image."""
    return {
        name: images.classes[label] if label >= 0 else ""
        for name, label in zip(images.names, images.labels.tolist(), strict=True)
    }


@pytest.mark.parametrize(
    "text",
    [
        "path,label\ntrain/a/0.png,cat\ntrain/b/0.png,dog\ntrain/b/1.png,cat\nval/a/2.png,dog\n",
        "label;path\ncat;photos/train/a/0.png\ndog;photos/train/b/0.png\ncat;1.png\ndog;2.png\n",
        "image_id\tbreed\na\\0.png\tcat\nb\\0.png\tdog\n1\tcat\n2\tdog\n",
        "/home/other/photos/train/a/0.png,cat,7\n/home/other/photos/train/b/0.png,dog,8\nb/1.png,cat,9\n2.png,dog,1\n",
    ],
    ids=["paths", "other columns and names", "backslashes, no suffixes", "another machine"],
)
def test_every_image_has_the_class_of_its_row(photos: Path, text: str) -> None:
    images = open_images([str(photos)], labels=table(photos, text))
    assert classes(images) == dict(zip(NAMES, ("cat", "dog", "cat", "dog"), strict=True))
    assert images.notes == (f"--labels {photos.parent}/labels.csv: 2 classes, of 4 of 4 images.",)


def test_archives_and_several_sources_have_the_classes_too(photos: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.write(photos / NAMES[0], "9.png")
    labels = table(photos, "path,label\nmore.zip/9.png,fox\nphotos/train/a/0.png,cat\n")
    images = open_images([str(photos), str(tmp_path / "more.zip")], labels=labels)
    assert {name: one for name, one in classes(images).items() if one} == {
        "photos/train/a/0.png": "cat",
        "more.zip/9.png": "fox",
    }


def test_rows_and_images_without_the_other_are_counted(photos: Path) -> None:
    rows = "path,label\ntrain/a/0.png,cat\ntrain/a/0.png,dog\n0.png,dog\n77.png,dog\n2.png,dog\n"
    notes = " ".join(open_images([str(photos)], labels=table(photos, rows)).notes)
    assert "2 classes, of 2 of 4 images" in notes
    assert "no image, or more than one, for 2 of 5 rows" in notes, "0.png is two images, 77.png none"
    assert "another label of the same image in 1 row is ignored" in notes


def test_a_column_of_splits_wins_over_the_folders(photos: Path) -> None:
    labels = table(photos, "path,label,split\na/0.png,cat,test\nb/0.png,dog,train\n1.png,cat,train\n2.png,dog,train\n")
    assert open_images([str(photos)], "val", labels=labels).names == ["train/a/0.png"]
    plain = table(photos, "path,label\na/0.png,cat\n2.png,dog\n")
    assert open_images([str(photos)], "val", labels=plain).names == ["val/a/2.png"]


def test_folders_can_be_no_classes(photos: Path) -> None:
    assert not open_images([str(photos)], labels="none").labelled


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,label\nx.png,cat\n", "It has 'x.png'; the images have 'train/a/0.png'."),
        ("a/0.png\nb/0.png\n", "no row of it has a label"),
        ("", "no row of it has a label"),
    ],
)
def test_a_table_of_other_images_or_without_labels_is_refused(photos: Path, text: str, said: str) -> None:
    with pytest.raises(DataError) as caught:
        open_images([str(photos)], labels=table(photos, text))
    assert said in str(caught.value)


def test_a_table_that_is_not_there_is_refused(photos: Path) -> None:
    with pytest.raises(UsageError, match="table of path,label that exists"):
        open_images([str(photos)], labels="labels.cvs")


def test_an_encoder_is_judged_by_the_classes_of_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = made_images(tmp_path / "photos", 12)
    rows = (f"{number:03}.png,{'ab'[number % 2]}\n" for number in range(12))
    labels = table(photos, "".join(rows))
    assert len(open_labelled_pair([str(photos)], (), seed=0, labels=labels).bank.classes) == 2
    words = ["knn", "random/test_efficientnet", "--data", str(photos), "--labels", labels, "--image-size", "32"]
    assert ran([*words, "--threads", "1", "--device", "cpu"]) == 0
    assert "2 classes, of 12 of 12 images" in "".join(capsys.readouterr())
