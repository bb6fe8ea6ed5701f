"""Images in columns of tables: Parquet files, and Hugging Face's data sets on the disk or in their cache."""

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from test_images import reds

from lwcl.data.dataset import open_images
from lwcl.data.native import UnreadableImageError
from lwcl.errors import DataError, UsageError

arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
datasets = pytest.importorskip("datasets")


def picture(red: int) -> bytes:
    """A PNG whose red is given."""
    content = io.BytesIO()
    Image.new("RGB", (4, 4), (red, 0, 0)).save(content, "png")
    return content.getvalue()


def made_set(labels: list[int]) -> Any:
    """A data set of Hugging Face with an image and a label column, red the number of the row."""
    features = datasets.Features(
        {"id": datasets.Value("int64"), "img": datasets.Image(), "fine": datasets.ClassLabel(names=["cat", "dog"])}
    )
    images = [{"bytes": picture(number), "path": None} for number in range(len(labels))]
    return datasets.Dataset.from_dict({"id": list(labels), "img": images, "fine": labels}, features=features)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A data set with two splits, as `save_to_disk` writes it."""
    datasets.disable_progress_bars()
    both = datasets.DatasetDict({"train": made_set([0, 1, -1, 1]), "validation": made_set([1, 0])})
    both.save_to_disk(str(tmp_path / "saved"))
    return tmp_path / "saved"


def test_a_saved_data_set_is_read_with_its_splits_and_labels(saved: Path) -> None:
    train, val = (open_images([f"hf/{saved}"], split) for split in ("train", "val"))
    assert train.names == [f"train/{row:09d}" for row in range(4)]
    assert (train.classes, train.labels.tolist(), reds(train)) == (("cat", "dog"), [0, 1, -1, 1], [0, 1, 2, 3])
    assert (val.labels.tolist(), val.has_splits) == ([1, 0], True)
    assert any("'img', labels are those of 'fine'" in note for note in train.notes)


def test_one_split_of_a_saved_data_set_can_be_named(saved: Path) -> None:
    images = open_images([f"hf/{saved}:validation"], "train")
    assert (len(images), images.has_splits) == (2, False)
    with pytest.raises(UsageError, match="no split 'test', only train, validation"):
        open_images([f"hf/{saved}:test"])


def test_a_name_in_the_cache_is_read_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {}
    for split, labels in (("train", [0, 1, 1]), ("test", [1, 0])):
        files[split] = [str(tmp_path / f"{split}.parquet")]
        made_set(labels).to_parquet(files[split][0])
    cache = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    builder = datasets.packaged_modules.parquet.Parquet
    builder(dataset_name="birds", cache_dir=str(cache), hash="0123abcd", data_files=files).download_and_prepare()
    (cache / "nobody___birds").mkdir()  # the place of a set from the Hub
    next((cache / "birds").glob("default-*")).rename(cache / "nobody___birds" / "default")
    train, val = (open_images(["hf/nobody/birds"], split) for split in ("train", "val"))
    assert (train.classes, train.labels.tolist(), reds(train)) == (("cat", "dog"), [0, 1, 1], [0, 1, 2])
    assert (val.labels.tolist(), val.has_splits) == ([1, 0], True)
    assert open_images(["hf/nobody/birds:test"], "train").labels.tolist() == [1, 0]


def test_a_name_that_is_not_in_the_cache_is_an_error_without_network(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be opened[\s\S]*--download"):
        open_images(["hf/nobody/nothing"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="cannot be opened as a data set"):
        open_images([f"hf/{tmp_path / 'empty'}"])


def test_parquet_as_hugging_face_writes_it_is_read(tmp_path: Path) -> None:
    for name, labels in (("train-00000-of-00002", [0, 1]), ("train-00001-of-00002", [1]), ("test-00000", [1, 0])):
        made_set(labels).to_parquet(str(tmp_path / f"{name}.parquet"))
    train, val = (open_images([f"{tmp_path}/*.parquet"], split) for split in ("train", "val"))
    assert (train.classes, train.labels.tolist(), reds(train)) == (("cat", "dog"), [0, 1, 1], [0, 1, 0])
    assert train.names[2] == "train-00001-of-00002/000000000"
    assert reds(val) == [0, 1]


@pytest.fixture
def plain(tmp_path: Path) -> str:
    """A Parquet file of another program: binary images in row groups of two, text labels, one image missing."""
    cells = [picture(number) for number in range(5)]
    table = arrow.table({"photo": [*cells[:4], None], "label": ["owl", "hen", "owl", None, "hen"]})
    parquet.write_table(table, tmp_path / "birds.parquet", row_group_size=2)
    return str(tmp_path / "birds.parquet")


def test_parquet_of_other_programs_is_read_by_type_and_name(plain: str) -> None:
    images = open_images([plain])
    assert images.classes == ("hen", "owl")
    assert [images.classes[label] if label >= 0 else "" for label in images.labels] == ["owl", "hen", "owl", "", "hen"]
    assert [images.image(row).getpixel((0, 0))[0] for row in (3, 0, 2, 1)] == [3, 0, 2, 1]
    with pytest.raises(UnreadableImageError, match="no image in this row"):
        images.image(4)


def test_parquet_that_is_none_or_has_no_images_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="not a complete Parquet file"):
        open_images([str(tmp_path / "bad.parquet")])
    parquet.write_table(arrow.table({"text": ["a"], "x": [1.5]}), tmp_path / "texts.parquet")
    with pytest.raises(DataError, match=r"no column of images[\s\S]*text, x"):
        open_images([str(tmp_path / "texts.parquet")])
    with pytest.raises(UsageError, match="does not exist"):
        open_images([str(tmp_path / "none.parquet")])


def test_parquet_that_changes_in_use_is_an_error(plain: str) -> None:
    images = open_images([plain])
    assert images.image(0).size == (4, 4)
    parquet.write_table(arrow.table({"photo": [picture(1)]}), plain)
    with pytest.raises(DataError, match="changed while"):
        images.image(2)
