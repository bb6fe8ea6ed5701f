"""What a user meets when something is wrong: the run goes on where it can, else three lines and an exit code."""

import hashlib
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from runs import METHODS, SAVE_EVERY, STEPS, child, made_images, picture, pretrain, ran

from lwcl import engine
from lwcl.checkpoints.encoder_file import read_description
from lwcl.metrics import health


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(side: int) -> bytes:
    """A small PNG whose header promises a huge image."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + rows + chunk(b"IEND", b"")


#: What may have happened to the bytes of a good PNG.
BREAKING: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda good: good[: len(good) // 2],
    "empty": lambda good: b"",
    "a page": lambda good: b"<html><body>404 Not Found</body></html>",
    "text": lambda good: b"a note\n" * 9,
    "a bomb": lambda good: bomb(60_000),
    "no header": lambda good: good[20:],
    "header only": lambda good: good[:33],
    "damaged rows": lambda good: good[:60] + bytes(40) + good[100:],
    "a wrong checksum": lambda good: good[:29] + b"\0\0\0\0" + good[33:],
    "noise": lambda good: bytes(range(256)) * 3,
}


def broken_images(folder: Path, count: int = 200, broken: int = 20) -> Path:
    """A folder of made images, some of them broken in all ways."""
    made_images(folder, count)
    for number, path in enumerate(sorted(folder.iterdir())[3 :: count // broken][:broken]):
        path.write_bytes(list(BREAKING.values())[number % len(BREAKING)](path.read_bytes()))
    return folder


def contents(folder: Path) -> dict[str, tuple[str, int]]:
    """What is in a folder, and when it was changed."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(p): (hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_mtime_ns) for p in files}


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return broken_images(tmp_path_factory.mktemp("broken") / "images")


def small(data: Path | str, out: Path, *more: str) -> list[str]:
    """A small run of the default method."""
    return pretrain(data, out, *METHODS["light-moco"], *more)


@pytest.mark.parametrize("cache", ["off", "ram", "disk", "jpeg"])
def test_broken_images_are_listed_and_replaced_and_left_as_they_are(broken: Path, cache: str, tmp_path: Path) -> None:
    before = contents(broken)
    assert ran(small(broken, tmp_path / "run", "--max-bad", "0.2", "--cache", cache, "--epochs", "1")) == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "bad_files.jsonl").read_text().splitlines()]
    assert sorted(row["name"] for row in rows) == [path.name for path in sorted(broken.iterdir())[3::10]]
    assert all(row.keys() == {"name", "reason"} and row["reason"] for row in rows)
    assert contents(broken) == before


def must_say(capsys: pytest.CaptureFixture[str], *words: str, lines: int = 3) -> None:
    """Asserts that the error was told in at most three lines, which hold these words, and without a traceback."""
    told = capsys.readouterr().err.splitlines()
    said = [line for line in told if not line.startswith("Warning")]
    assert 1 < len(said) <= lines, said
    text = "\n".join(said)
    assert [word for word in words if word not in text] == [], text
    assert "Traceback" not in text
    assert "\x1b" not in text


@pytest.mark.parametrize("cache", ["off", "ram", "jpeg"])
def test_too_many_broken_images_end_a_run_and_more_can_be_allowed(
    broken: Path, cache: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = small(broken, tmp_path / "run", "--cache", cache, "--epochs", "1")
    assert ran(words) == 4
    must_say(capsys, "of 200 images", "--max-bad 0.05", ".png'", "raise --max-bad")
    assert ran([*words, "--max-bad", "0.2"]) == 0, "as it advises, in the same folder"


def test_an_interruption_forgets_no_broken_image(broken: Path, tmp_path: Path) -> None:
    words = small(broken, tmp_path / "run", "--cache", "off", "--max-bad", "0.2", "--epochs", "1")
    assert child(words, tmp_path / "cache", "metrics.append@24") == -9
    met = (tmp_path / "run" / "bad_files.jsonl").read_text()
    assert ran(words) == 0
    assert (tmp_path / "run" / "bad_files.jsonl").read_text().startswith(met)
    assert len((tmp_path / "run" / "bad_files.jsonl").read_text().splitlines()) == 20


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_images(tmp_path_factory.mktemp("few") / "images", 16)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("--smothing 1", ["--smothing", "--smoothing"]),
        ("--arch resnet81", ["'resnet81'", "resnet18", "lwcl list archs"]),
        ("--batch-size 512", ["a batch of 512", "--batch-size 16 or less"]),
        ("--hidden wide", ["--hidden", "'wide'", "2x"]),
        ("--save-every soon", ["--save-every: got 'soon'.", "500", "10m"]),
        ("--save-every 0", ["--save-every: got '0'."]),
        ("--arch test_vit --output-stride 16", ["timm cannot build", "output_stride=16"]),
        ("--save-every infm", ["--save-every: got 'infm'."]),
        ("--neighbours 30", ["30 neighbours", "20 keys", "--queue-size 30 or more"]),
        ("--target wide-groups --queue-size 12", ["20 neighbours", "12 keys"]),
        ("--target groups --neighbours 7", ["5, 10, 20, 30", "--neighbours", "7"]),
        ("--accumulate 3", ["3 equal micro-batches", "divides --batch-size"]),
        ("--accumulate 8", ["fewer than 2 images", "--batch-size 16"]),
        ("--bn-splits 8", ["fewer than 2 images"]),
        ("--arch test_vit --image-size 50", ["test_vit", "50 px", "patch size", "--image-size"]),
        ("--output-stride 5", ["--output-stride", "8, 16 or 32"]),
        ("--device cuda", ["--device"]),
        ("--resume must", ["no run to resume"]),
        ("--data nowhere", ["nowhere"]),
        ("--monitor nowhere", ["nowhere"]),
        ("--config nowhere.yaml", ["nowhere.yaml"]),
    ],
)
def test_a_wrong_setting_is_told_with_its_remedy_and_can_be_put_right(
    images: Path, more: str, said: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if more == "--device cuda" and torch.cuda.is_available():
        pytest.skip("there is one")
    words = small(images, tmp_path / "run")
    if "--data" in more:
        words = [word for word in words if word not in ("--data", str(images))]
    assert ran([*words, *more.split()]) == 2
    must_say(capsys, *said)
    if more.startswith(("--hidden", "--neigh", "--batch", "--save-every soon", "--monitor")):
        assert ran([*words, "--fast-dev-run", "1"]) == 0, "in the same folder"


def test_running_out_of_memory_tells_the_settled_batch_and_a_command_that_works(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def too_much(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    place = (words := small(images, tmp_path / "run")).index("--batch-size")
    words = [*words[:place], *words[place + 2 :]]
    with monkeypatch.context() as patch:
        patch.setattr(engine, "check_step_finite", too_much)
        assert ran(words) == 2
    advice = f"Try: lwcl {' '.join(words)} --accumulate 2"
    must_say(capsys, "batch 8 and images of 32 px", advice)
    assert ran([*advice.split()[2:], "--fast-dev-run", "1"]) == 0


def empty(folder: Path) -> None:
    """No images."""
    (folder / "inside").mkdir(parents=True)


def one(folder: Path) -> None:
    """One image."""
    made_images(folder, 1)


def all_broken(folder: Path) -> None:
    """Images none of which is good."""
    broken_images(folder, 20, 20)


def notes(folder: Path) -> None:
    """Files that are no images."""
    folder.mkdir()
    (folder / "notes.txt").write_text("notes")


@pytest.mark.parametrize(("make", "code"), [(empty, 4), (notes, 4), (one, 4), (all_broken, 4)])
@pytest.mark.parametrize("cache", ["off", "ram", "jpeg"])
def test_a_folder_without_enough_images(
    make: Callable[[Path], None], code: int, cache: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "images")
    assert ran(small(tmp_path / "images", tmp_path / "run", "--cache", cache)) == code
    must_say(capsys)


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_out_must_be_a_run_or_new(images: Path, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    if kind == "folder":
        out.mkdir()
        (out / "thesis.tex").write_text("mine")
    elif kind == "file":
        out.write_text("mine")
    else:
        out.symlink_to(tmp_path / "nowhere")
    for more in ([], ["--overwrite"]):
        assert ran(small(images, out, *more)) == 2
        must_say(capsys, str(out), "Give another --out")
    assert [path.read_text() for path in (out, out / "thesis.tex") if path.is_file()] == ["mine"] * (kind != "link")


def test_a_full_disk_ends_a_run_and_leaves_the_checkpoint_before(
    images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource

    from runs import at_step

    def fill_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))

    words, cache = small(images, tmp_path / "run", "--cache", "ram", "--epochs", "6"), tmp_path / "cache"
    assert child(words, cache, before=at_step(SAVE_EVERY + 1, fill_disk)) == 5
    must_say(capfd, "Cannot write", "step-000006", "larger than this process or file system may write", "needed")
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000003"]
    assert ran(words) == 0
    assert "after step 3 of 12" in (tmp_path / "run" / "log.txt").read_text()
    assert ran(small(images, tmp_path / "unbroken", "--cache", "ram", "--epochs", "6")) == 0
    final = [tmp_path / name / "encoder.safetensors" for name in ("run", "unbroken")]
    assert final[0].read_bytes() == final[1].read_bytes()


HOSTILE = ("<script>alert(1)", "\x1b[31mred\x1b]0;me\x07", "[red]bold[", "two\nlines", "\u202egpj.exe", "\udcff\udcfe")


def test_names_from_strangers_steer_neither_terminal_nor_page(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data, out = tmp_path / "data\n<b>", tmp_path / "run\n\x1b[31m[red]<i>"
    for split in ("train", "val"):
        for number, name in enumerate(HOSTILE * 4):
            (data / split / name).mkdir(parents=True, exist_ok=True)
            picture(number).save(data / split / name / f"{number}{name}.png")
    (data / "train" / HOSTILE[0] / f"bad{HOSTILE[1]}.png").write_bytes(b"no")
    assert ran([word for word in small(data, out) if word != "--quiet"]) == 0
    said = capfd.readouterr()
    page, table = (out / "report.html").read_text(), (out / "bad_files.jsonl").read_text()
    for text in (said.out, said.err, page, table, (out / "report.json").read_text()):
        assert not [c for c in text if not c.isprintable() and c not in "\n\t"]
    assert not any(tag in page for tag in ("<script", "<i>", "<b>"))
    assert json.loads(table)["name"].endswith(f"bad{HOSTILE[1]}.png")
    assert all("run\\n\\x1b[31m[red]<i>" in line for line in said.err.splitlines() if "report.html" in line)
    assert ran(["knn", str(out), "--data", str(data), "--workers", "0"]) == 0
    assert ran(small(data, out)) == 2
    must_say(capfd, "holds a finished run", lines=40)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    assert ran(small(made_images(folder / "images", 16), folder / "run", "--fast-dev-run", "1", "--cache", "ram")) == 0
    return folder / "run" / "encoder.safetensors"


def test_knn_needs_labels_of_two_classes(encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for classes in ((), ("cat",)):
        data = made_images(tmp_path / f"of-{len(classes)}", 16, classes)
        assert ran(["knn", str(encoder), "--data", str(data), "--quiet"]) == 4
        must_say(capsys, "--data: 16 images", "two class folders")


def test_knn_of_classes_that_the_bank_does_not_have(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, val = (str(made_images(tmp_path / name, 8, (name, name * 2))) for name in ("a", "b"))
    assert ran(["knn", str(encoder), "--data", data, "--val", val, "--quiet"]) == 4
    must_say(capsys, "no class in common")


def text_file(place: Path, encoder: Path) -> None:
    place.write_text("not weights")


def cut_file(place: Path, encoder: Path) -> None:
    place.write_bytes(encoder.read_bytes()[:-100])


def foreign_file(place: Path, encoder: Path) -> None:
    safetensors.torch.save_file({"w": torch.zeros(2)}, place)


def a_tensor_less(place: Path, encoder: Path) -> None:
    tensors = safetensors.torch.load_file(encoder)
    tensors.pop("head.0.weight")
    safetensors.torch.save_file(tensors, place, {"lwcl": json.dumps(read_description(encoder) | {"sha256": None})})


def no_file(place: Path, encoder: Path) -> None:
    """Nothing is there."""


def unfinished(place: Path, encoder: Path) -> None:
    place.mkdir()


@pytest.mark.parametrize("make", [text_file, cut_file, foreign_file, a_tensor_less, no_file, unfinished])
def test_knn_of_what_is_no_encoder(
    encoder: Path, make: Callable[[Path, Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "encoder", encoder)
    assert ran(["knn", str(tmp_path / "encoder"), "--quiet"]) == 2
    must_say(capsys, str(tmp_path / "encoder"))


@pytest.mark.parametrize("spec", ["random/resnet81", "timm/nothing", "timm/test_resnet.nothing"])
def test_knn_of_models_that_timm_does_not_have(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ran(["knn", spec, "--quiet"]) == 2
    must_say(capsys)


def test_knn_of_weights_that_are_not_finite_is_refused(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = safetensors.torch.load_file(encoder)
    tensors["backbone.conv_stem.weight"][0] = torch.nan
    place = tmp_path / "sick.safetensors"
    safetensors.torch.save_file(tensors, place, {"lwcl": json.dumps(read_description(encoder) | {"sha256": None})})
    data = made_images(tmp_path / "data", 16, ("a", "b"))
    assert ran(["knn", str(place), "--data", str(data), "--quiet", "--workers", "0"]) == 3
    must_say(capsys, "not finite")


@pytest.mark.parametrize("strict", [True, False])
def test_a_collapsing_run_says_so_and_with_strict_ends_as_diverged(
    images: Path, strict: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(health.losses, "embedding_std", lambda x: torch.tensor(0.01))
    words = small(images, tmp_path / "run", "--epochs", "6", "--quiet")
    assert ran([*words, "--strict"] if strict else words) == 3 * strict
    warnings = [
        line for line in capsys.readouterr().err.splitlines() if line.startswith("Warning") and "collapse" in line
    ]
    assert len(warnings) == 1, "once is enough"
    assert "collapse" in warnings[0]


def test_a_measure_that_is_not_finite_does_not_keep_a_run_from_going_on(images: Path, tmp_path: Path) -> None:
    def not_finite() -> None:
        health.losses.embedding_std = lambda x: torch.tensor(torch.nan)

    words = small(images, tmp_path / "run", "--epochs", "6", "--cache", "ram")
    assert child(words, tmp_path / "cache", "metrics.append@10", before=not_finite) == -9
    assert '"std": null' in (tmp_path / "run" / "metrics.jsonl").read_text()
    assert ran(words) == 0
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == STEPS
