"""Embeddings as files: every format, interrupted and continued, broken images; search, duplicates and outliers."""

import contextlib
import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from crash import KILLED, ended
from PIL import Image
from runs import begun, made_images, picture, pretrain, ran

from lwcl.checkpoints.load import load_encoder
from lwcl.data.dataset import open_images
from lwcl.data.eval_loader import CenterCropDataset
from lwcl.errors import UsageError
from lwcl.evaluation.embedding_file import EmbeddingSet, read_embeddings, write_embeddings
from lwcl.metrics.similar import near_duplicates, outliers

ENCODER = ["random/test_efficientnet", "--image-size", "32"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images of two classes."""
    return made_images(tmp_path_factory.mktemp("data") / "photos", 12, ("cat", "dog"))


def embedded(data: Path, out: Path, *more: str) -> int:
    """The exit code of `lwcl embed` in batches of four."""
    words = ["embed", *ENCODER, "--data", str(data), "--out", str(out), "--batch-size", "4", "--quiet"]
    words += ["--threads", "1"]  # a forked child hangs in the threads of its parent
    return ran([*words, *more])


def wanted_rows(data: Path) -> numpy.ndarray[Any, Any]:
    """The embeddings computed image by image."""
    loaded, images = load_encoder(ENCODER[0], image_size=32), open_images([str(data)])
    crops = CenterCropDataset(images, loaded.input_spec)
    mean, std = (torch.tensor(values)[:, None, None] for values in (loaded.input_spec.mean, loaded.input_spec.std))
    with torch.inference_mode():
        rows = [loaded.encoder.eval().features(((crops[i][0] / 255 - mean) / std)[None]) for i in range(len(images))]
    array: numpy.ndarray[Any, Any] = torch.cat(rows).numpy()
    return array


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_a_file_has_a_row_an_image_in_the_order_of_their_names(suffix: str, data: Path, tmp_path: Path) -> None:
    out = tmp_path / f"e.{suffix}"
    assert embedded(data, out) == 0
    found = read_embeddings(out)
    assert found.filenames == sorted(str(path.relative_to(data)) for path in data.rglob("*.png"))
    assert found.labels == [name.partition("/")[0] for name in found.filenames]
    assert found.rows.dtype == numpy.float32
    assert numpy.allclose(found.rows, wanted_rows(data), rtol=1e-4, atol=1e-6)
    assert (found.metadata["encoder"], found.metadata["data"]) == (ENCODER[0], [str(data)])
    assert {path.name for path in tmp_path.iterdir()} <= {"e.npy", "e.names.csv", "e.json", "e.npz"}


def test_a_table_of_text_holds_the_same_numbers(data: Path, tmp_path: Path) -> None:
    assert embedded(data, tmp_path / "e.csv") == embedded(data, tmp_path / "e.npy") == 0
    with open(tmp_path / "e.csv", newline="") as file:
        head, *lines = csv.reader(file)
    assert head[:4] == ["filename", "label", "embedding_0", "embedding_1"]
    found = read_embeddings(tmp_path / "e.npy")
    assert [line[0] for line in lines] == found.filenames
    assert numpy.array_equal(numpy.array([line[2:] for line in lines], dtype=numpy.float32), found.rows)


def test_the_head_gives_unit_embeddings(data: Path, tmp_path: Path) -> None:
    assert ran(pretrain(data, tmp_path / "run", "--fast-dev-run", "1")) == 0
    words = ["embed", str(tmp_path / "run"), "--data", str(data), "--head", "--quiet", "--threads", "1"]
    assert ran([*words, "--out", str(tmp_path / "e.npy")]) == 0
    rows = read_embeddings(tmp_path / "e.npy").rows
    assert rows.shape == (12, 8)
    assert numpy.allclose(numpy.linalg.norm(rows, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("fault", ["chunk.written", "chunk.noted@2"])
def test_a_killed_command_continues_and_gives_the_same_bytes(fault: str, data: Path, tmp_path: Path) -> None:
    words = ["embed", *ENCODER, "--data", str(data), "--batch-size", "4", "--quiet", "--threads", "1"]
    assert ended(begun([*words, "--out", str(tmp_path / "e.npy")], tmp_path / "cache", fault)) == KILLED
    assert (tmp_path / ".e.npy.partial").is_dir()
    assert not (tmp_path / "e.npy").exists()
    assert ended(begun([*words, "--out", str(tmp_path / "e.npy")], tmp_path / "cache")) == 0
    assert ended(begun([*words, "--out", str(tmp_path / "whole.npy")], tmp_path / "cache")) == 0
    assert (tmp_path / "e.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
    assert not (tmp_path / ".e.npy.partial").exists()


def test_what_an_interrupted_command_kept_is_not_computed_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lwcl.evaluation.embedder import Embedder

    computed: list[int] = []
    rows_of = Embedder.rows_of

    def stopped(self: Embedder, items: Any) -> Any:
        computed.append(len(items))
        if len(computed) == 2:
            raise KeyboardInterrupt
        return rows_of(self, items)

    monkeypatch.setattr(Embedder, "rows_of", stopped)
    assert embedded(data, tmp_path / "e.npy") == 130
    assert embedded(data, tmp_path / "e.npy") == 0
    assert computed == [4, 4, 4, 4]
    assert numpy.allclose(read_embeddings(tmp_path / "e.npy").rows, wanted_rows(data), rtol=1e-4, atol=1e-6)


def test_chunks_of_other_images_are_not_used(data: Path, tmp_path: Path) -> None:
    other = made_images(tmp_path / "other", 12, ("cat", "dog"))
    picture(99).save(other / "cat" / "000.png")
    words = ["embed", *ENCODER, "--batch-size", "4", "--quiet", "--threads", "1", "--out", str(tmp_path / "e.npy")]
    assert ended(begun([*words, "--data", str(other)], tmp_path / "cache", "chunk.noted")) == KILLED
    assert ran([*words, "--data", str(data)]) == 0
    assert numpy.allclose(read_embeddings(tmp_path / "e.npy").rows, wanted_rows(data), rtol=1e-4, atol=1e-6)


def test_a_broken_image_has_no_embedding(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = shutil.copytree(data, tmp_path / "photos")
    (photos / "cat" / "000.png").write_bytes(b"broken")
    assert embedded(photos, tmp_path / "e.npy") == 0
    assert "1 image could not be read" in capsys.readouterr().err
    missing = numpy.isnan(read_embeddings(tmp_path / "e.npy").rows)
    assert missing[0].all()
    assert not missing[1:].any()
    assert ran(["search", "cat/002.png", "--in", str(tmp_path / "e.npy")]) == 0
    assert "cat/000.png" not in capsys.readouterr().out


def test_names_with_commas_quotes_and_broken_utf8_survive(tmp_path: Path) -> None:
    names = ['a,"b".png', "new\nline.png", "caf\udce9.png", "plain.png"]
    rows = numpy.arange(8, dtype=numpy.float32).reshape(4, 2)
    for suffix in ("npy", "npz"):
        write_embeddings(tmp_path / f"e.{suffix}", EmbeddingSet(rows, names, ["x"] * 4, {"kind": "embeddings"}))
        found = read_embeddings(tmp_path / f"e.{suffix}")
        assert found.filenames == names
        assert numpy.array_equal(found.rows, rows)


WRONG = {
    "no out": ([], 2, "--out is missing"),
    "format": (["--out", "OUT.h5"], 2, "unknown format"),
    "exists": (["--out", "OUT.npy"], 2, "exists already"),
    "head": (["--out", "NEW.npy", "--head"], 2, "no projection head"),
    "data": (["--out", "NEW.npy", "--data", "NOWHERE"], 2, "NOWHERE"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_uses_of_embed_say_what_to_do(
    case: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "OUT.npy").touch()
    more, code, noun = WRONG[case]
    words = [str(tmp_path / word) if word.startswith(("OUT", "NEW", "NOWHERE")) else word for word in more]
    words = words if "--data" in words else [*words, "--data", str(data)]
    assert ran(["embed", *ENCODER, *words]) == code
    assert noun in capsys.readouterr().err
    assert (tmp_path / "OUT.npy").read_bytes() == b""


def test_parquet_without_its_package_is_refused_before_anything_is_computed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    assert embedded(data, tmp_path / "e.parquet") == 2
    assert "pip install 'lwcl[parquet]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_parquet_file_holds_the_same_rows(data: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    assert embedded(data, tmp_path / "e.parquet") == embedded(data, tmp_path / "e.npy") == 0
    found, table = read_embeddings(tmp_path / "e.npy"), parquet.read_table(tmp_path / "e.parquet")
    assert table.column_names == ["filename", "label", "embedding"]
    assert table["filename"].to_pylist() == found.filenames
    assert numpy.array_equal(numpy.array(table["embedding"].to_pylist(), dtype=numpy.float32), found.rows)


@pytest.fixture(scope="module")
def searched(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Embeddings of the twelve images and a copy of one of them."""
    folder = tmp_path_factory.mktemp("searched")
    photos = shutil.copytree(data, folder / "photos")
    shutil.copy(photos / "cat" / "004.png", photos / "dog" / "copy.png")
    assert embedded(photos, folder / "e.npy") == 0
    return folder


def results(searched: Path, capsys: pytest.CaptureFixture[str], *words: str) -> list[list[Any]]:
    """The table of a search."""
    capsys.readouterr()
    assert ran(["search", *words, "--in", str(searched / "e.npy"), "--json"]) == 0
    rows: list[list[Any]] = json.loads(capsys.readouterr().out)["tables"][0]["rows"]
    return rows


@pytest.mark.parametrize("query", ["file", "name"])
def test_the_nearest_to_an_image_is_itself_then_its_copy(
    query: str, searched: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = str(searched / "photos" / "cat" / "004.png") if query == "file" else "cat/004.png"
    rows = results(searched, capsys, image, "--count", "3")
    assert len(rows) == 3
    assert {row[1] for row in rows[:2]} == {"cat/004.png", "dog/copy.png"}
    assert [row[0] for row in rows[:2]] == [1.0, 1.0]
    assert rows[2][0] <= 1.0


def test_a_copy_is_a_duplicate(searched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = results(searched, capsys, "--duplicates", "--threshold", "0.999999")
    assert ["cat/004.png", "dog/copy.png"] in [[row[1], row[3]] for row in rows]


def test_a_page_shows_thumbnails(searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, words in enumerate((["cat/004.png"], ["--duplicates"], ["--outliers"])):
        out = tmp_path / str(number)
        assert ran(["search", *words, "--in", str(searched / "e.npy"), "--out", str(out), "--quiet"]) == 0
        assert "data:image/jpeg;base64" in (out / "report.html").read_text()


def test_a_page_without_the_images_has_the_table(
    searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["search", "--outliers", "--in", str(searched / "e.npy"), "--data", str(tmp_path / "nowhere")]
    assert ran([*words, "--count", "20", "--out", str(tmp_path / "out")]) == 0
    assert "No thumbnails" in capsys.readouterr().err
    assert "cat/004.png" in (tmp_path / "out" / "report.html").read_text()


def test_rows_that_point_elsewhere_are_outliers_and_equal_rows_are_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.tensor([1.0, 0, 0, 0]) + 0.05 * torch.randn(30, 4, generator=generator)
    rows[7] = torch.tensor([0.0, -1, 0, 0])
    rows[20] = 3 * rows[3]
    values, index = outliers(rows)
    assert int(index[0]) == 7
    assert values.tolist() == sorted(values.tolist())
    cosines, pairs = near_duplicates(rows, 0.9999999)
    assert [3, 20] in pairs.tolist()
    assert bool((cosines >= 0.9999999).all())
    assert len({tuple(pair) for pair in pairs.tolist()}) == len(pairs)
    assert all(first < second for first, second in pairs.tolist())


def test_many_equal_rows_are_no_neighbours_of_themselves() -> None:
    _, pairs = near_duplicates(torch.ones(40, 3), 0.99)
    assert all(first < second for first, second in pairs.tolist())


WRONG_SEARCH = {
    "nothing": ([], "Nothing to search for"),
    "two": (["a.png", "--duplicates"], "Nothing to search for"),
    "unknown image": (["nowhere.png"], "nor an image in"),
    "other encoder": (["FILE", "--encoder", "random/test_vit"], "not the encoder that made"),
}


@pytest.mark.parametrize("case", WRONG_SEARCH)
def test_wrong_uses_of_search_say_what_to_do(case: str, searched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more, noun = WRONG_SEARCH[case]
    words = [str(searched / "photos/cat/000.png") if word == "FILE" else word for word in more]
    assert ran(["search", *words, "--in", str(searched / "e.npy")]) == 2
    assert noun in capsys.readouterr().err


def test_a_query_that_is_no_image_is_a_fault_of_the_data(searched: Path, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    assert ran(["search", str(tmp_path / "text.png"), "--in", str(searched / "e.npy")]) == 4


@pytest.mark.parametrize("damage", ["names", "rows", "suffix", "bit of a row", "bit of a name", "pipe"])
def test_damaged_embeddings_are_refused(damage: str, searched: Path, tmp_path: Path) -> None:
    for name in ("e.npy", "e.names.csv", "e.json"):
        shutil.copy(searched / name, tmp_path)
    if damage == "names":
        (tmp_path / "e.names.csv").unlink()
    elif damage == "rows":
        numpy.save(tmp_path / "e.npy", numpy.zeros((2, 3), numpy.float32))
    elif damage == "pipe":
        (tmp_path / "e.npy").unlink()
        os.mkfifo(tmp_path / "e.npy")
    elif damage.startswith("bit"):
        place = tmp_path / ("e.npy" if damage == "bit of a row" else "e.names.csv")
        place.write_bytes(place.read_bytes()[:-9] + b"7" + place.read_bytes()[-8:])
    path = tmp_path / ("e.txt" if damage == "suffix" else "e.npy")
    with pytest.raises(UsageError, match=r"embeddings|searched"):
        read_embeddings(path)


def test_an_archive_of_embeddings_is_refused_wherever_a_bit_is_flipped(searched: Path, tmp_path: Path) -> None:
    whole = read_embeddings(searched / "e.npy")
    write_embeddings(tmp_path / "e.npz", whole)
    data = (tmp_path / "e.npz").read_bytes()
    for at in (*range(0, len(data), len(data) // 9), len(data) - 12):
        (tmp_path / "e.npz").write_bytes(data[:at] + bytes([data[at] ^ 8]) + data[at + 1 :])
        with contextlib.suppress(UsageError):
            found = read_embeddings(tmp_path / "e.npz")
            assert numpy.array_equal(found.rows, whole.rows) and found.filenames == whole.filenames


def test_a_large_image_is_searched_as_it_was_embedded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = made_images(tmp_path / "photos", 6)
    Image.fromarray(numpy.random.default_rng(0).integers(0, 256, (300, 500, 3), dtype=numpy.uint8)).save(
        photos / "large.jpg"
    )
    assert embedded(photos, tmp_path / "e.npz") == 0
    assert ran(["search", str(photos / "large.jpg"), "--in", str(tmp_path / "e.npz"), "--count", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tables"][0]["rows"][0][:2] == [1.0, "large.jpg"]
