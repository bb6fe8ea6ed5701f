"""Scores are told with the images they are from: nothing flatters them, and nothing is left out in silence."""

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import METHODS, made_images, picture, pretrain, ran

from lwcl.data.copies import find_copies
from lwcl.data.labelled import open_labelled_pair
from lwcl.errors import DataError
from lwcl.metrics.bootstrap import mean_top1
from lwcl.metrics.knn import best_knn, knn_score

KNN = ["knn", "random/test_efficientnet", "--image-size", "32", "--threads", "1", "--workers", "0", "--device", "cpu"]


def judged(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The document of `lwcl knn`."""
    capsys.readouterr()
    assert ran([*words, "--json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def one_each(folder: Path, names: tuple[str, ...], start: int = 0, count: int = 4) -> Path:
    for place, name in enumerate(names):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            picture(start + place * count + number).save(folder / name / f"{number}.png")
    return folder


def test_images_of_a_class_that_the_bank_lacks_count_as_wrong_and_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bank, val = one_each(tmp_path / "bank", ("ant", "bee")), one_each(tmp_path / "val", ("ant", "bee", "emu"), 50)
    words = [*KNN, "--data", str(bank), "--val", str(val)]
    whole, known = judged(words, capsys), judged([*words, "--known-classes"], capsys)
    assert (whole["facts"]["images"], known["facts"]["images"]) == (12, 8)
    scores = [document["facts"]["encoders"][0]["top1"] for document in (whole, known)]
    assert scores[0] == pytest.approx(scores[1] * 8 / 12)
    note = "4 of 12 images to classify, of classes that the bank lacks (emu), count as wrong"
    assert note in whole["facts"]["notes"][0]
    assert note in whole["verdict"]
    assert note in whole["tables"][0]["note"]
    assert "were left out" in known["verdict"]


def test_classes_that_differ_by_case_or_blanks_are_named(tmp_path: Path) -> None:
    bank, val = one_each(tmp_path / "bank", ("cat", "dog")), one_each(tmp_path / "val", ("Cat ", "dog"), 50)
    pair = open_labelled_pair([str(bank)], [str(val)], seed=0)
    assert any("'cat' and 'Cat ' differ by case or blanks only" in note for note in pair.notes)
    assert any("No image to classify is of 1 class of the bank: cat" in note for note in pair.notes)
    other = one_each(tmp_path / "other", ("CAT", "DOG"))
    with pytest.raises(DataError, match="no class in common") as caught:
        open_labelled_pair([str(bank)], [str(other)], seed=0)
    assert "'cat' and 'CAT'" in caught.value.remedy


def test_one_image_a_class_cannot_be_split_and_the_message_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="None of the 3 classes has two images"):
        open_labelled_pair([str(one_each(tmp_path, ("a", "b", "c"), count=1))], [], seed=0)


def test_images_without_a_label_are_left_out_and_counted(tmp_path: Path) -> None:
    bank, val = one_each(tmp_path / "bank", ("a", "b")), one_each(tmp_path / "val", ("a", "b"), 50)
    for folder in (bank, val):
        picture(99).save(folder / "alone.png")
    pair = open_labelled_pair([str(bank)], [str(val)], seed=0)
    assert (len(pair.bank), len(pair.queries)) == (8, 8)
    assert [note.split(".")[0] for note in pair.notes] == [
        "Left out: 1 image of the bank without a label",
        "Left out: 1 image of the images to classify without a label",
    ]


def test_an_image_does_not_find_itself_and_the_overlap_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bank = one_each(tmp_path / "bank", ("a", "b"))
    shutil.copytree(bank, tmp_path / "copy")
    document = judged([*KNN, "--data", str(bank), "--val", str(tmp_path / "copy"), "--k", "1"], capsys)
    assert "8 of 8 test images are pixel-identical" in document["verdict"]
    assert document["facts"]["encoders"][0]["top1"] < 1, "each would find itself"


def test_leaving_out_copies_equals_searching_a_bank_without_them() -> None:
    torch.manual_seed(0)
    bank, labels = torch.randn(40, 8), torch.arange(40) % 3
    queries, asked = bank[:5], labels[:5]
    copies = {number: [number] for number in range(5)}
    together = knn_score(queries, asked, bank, labels, k=3, copies=copies).accuracy
    for number in range(5):
        others = torch.arange(40) != number
        alone = knn_score(queries[number : number + 1], asked[number : number + 1], bank[others], labels[others], k=3)
        assert together.top1[number] == alone.accuracy.top1[0]
    assert mean_top1(best_knn(queries, asked, bank, labels).accuracy) == 1, "each finds itself"
    assert mean_top1(best_knn(queries, asked, bank, labels, copies).accuracy) < 1


def test_copies_are_found_by_the_hashes_of_their_pixels() -> None:
    assert find_copies([b"x", b"y", b"x"], [b"x", b"z"]) == {0: [0, 2]}


def test_a_query_whose_neighbours_are_all_its_copies_is_wrong() -> None:
    bank, labels = torch.ones(3, 4), torch.tensor([0, 0, 0])
    score = knn_score(bank[:1], labels[:1], bank, labels, k=3, temperature=0.1, copies={0: [0, 1, 2]})
    assert not score.accuracy.top1.any()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on labelled images, in a folder of its own."""
    folder = tmp_path_factory.mktemp("own")
    one_each(folder / "photos", ("a", "b"), count=12)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("LWCL_CACHE", str(folder / "cache"))
        assert ran(pretrain("photos", Path("run"), *METHODS["light-moco"], "--epochs", "1")) == 0
    return folder / "run"


def test_a_run_without_data_is_judged_on_its_own_images(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # its command said `photos`, from another folder
    words = ["knn", str(run), *KNN[2:]]
    document = judged([*words, "--out", str(tmp_path / "report")], capsys)
    assert document["facts"]["evaluated on"] == [str(run.parent / "photos")]
    assert f"Evaluated on {run.parent / 'photos'}: 2 classes, 32 px." in document["verdict"]
    judged([*words, "--no-random-init"], capsys)
    first = (run / "knn" / "report.json").read_bytes()
    other = one_each(tmp_path / "other", ("a", "b"), 70)
    judged([*words, "--data", str(other), "--no-random-init"], capsys)
    assert (run / "knn" / "report.json").read_bytes() == first, "the report on other images is kept apart"
    assert str(other) in (run / "knn-2" / "report.json").read_text()


def test_runs_on_different_images_need_data_to_be_judged_together(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copytree(run, tmp_path / "run")
    config = (other / "config.yaml").read_text().replace("- photos", f"- {made_images(tmp_path / 'else', 4)}")
    (other / "config.yaml").write_text(config)
    assert ran(["knn", str(run), str(other)]) == 2
    assert "trained on different images" in capsys.readouterr().err


def test_links_of_an_archive_that_are_not_read_are_said_where_labels_are_missing(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(made_images(tmp_path / "images", 1) / "000.png", "cat/0.png")
        link = zipfile.ZipInfo("dog/0.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "../cat/0.png")
    with pytest.raises(DataError, match=r"without labels(.|\n)*not read: 1 link"):
        open_labelled_pair([str(tmp_path / "a.zip")], [], seed=0)


def test_an_untrained_encoder_that_is_named_beside_a_run_is_shown_once(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = one_each(tmp_path, ("a", "b"))
    document = judged(["knn", str(run), "random/test_efficientnet", "--image-size", "32", "--data", str(data)], capsys)
    assert [row[0] for row in document["tables"][0]["rows"]] == [str(run), "random/test_efficientnet"]
