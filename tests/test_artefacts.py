"""`lwcl export` and `lwcl verify`, and the model card that goes with an export."""

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from crash import KILLED
from runs import METHODS, cache_at, child, copied, made_images, pretrain, ran
from test_crash import flip_a_bit

from lwcl.checkpoints.encoder_file import export_timm
from lwcl.checkpoints.load import load_encoder
from lwcl.models.loaded import InputSpec, random_encoder
from lwcl.reporting.knn import EncoderResult
from lwcl.reporting.model_card import escape_markdown, render_model_card
from lwcl.settings import recorded_value

KEPT = ("encoder.safetensors", "export/model.safetensors", "export/config.json")
CHECKPOINTS = ("step-000003", "step-000006")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on labelled images."""
    folder = tmp_path_factory.mktemp("exported")
    made_images(folder / "data" / "train", 24, ("cat", "dog"))
    made_images(folder / "data" / "val", 8, ("cat", "dog"))
    with cache_at(folder / "cache"):
        assert ran(pretrain(folder / "data", folder / "run", *METHODS["moco"])) == 0
    return folder / "run"


def must_be_exported(folder: Path, spec: str) -> None:
    """Asserts that stock timm gives the features of an encoder, to the last bit, and takes the same images."""
    loaded = load_encoder(spec)
    model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    images = torch.randn(
        3, 3, loaded.input_spec.size, loaded.input_spec.size, generator=torch.Generator().manual_seed(1)
    )
    with torch.inference_mode():
        assert torch.equal(model(images), loaded.encoder.eval().features(images))
    assert model.pretrained_cfg["input_size"] == (3, loaded.input_spec.size, loaded.input_spec.size)
    assert [tuple(model.pretrained_cfg[name]) for name in ("mean", "std")] == [
        loaded.input_spec.mean,
        loaded.input_spec.std,
    ]


@pytest.mark.parametrize("kind", ["run", "file", "timm"])
def test_an_export_is_a_timm_model_with_the_features_of_the_encoder(
    run: Path, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = {"run": str(run), "file": str(run / "encoder.safetensors"), "timm": "random/test_vit"}[kind]
    assert ran(["export", spec, "--out", str(tmp_path / "new" / "mine"), "--quiet"]) == 0
    must_be_exported(tmp_path / "new" / "mine", spec)
    place: dict[str, object] = {"images": torch.zeros(1, 3, 160, 160)}
    exec(capsys.readouterr().out, place)  # noqa: S102  # our own
    assert place["features"].shape == (1, load_encoder(spec).encoder.width)  # type: ignore[attr-defined]
    assert {path.name for path in (tmp_path / "new" / "mine").iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
    }


def test_a_runs_own_export_is_made_again_as_it_was(run: Path, tmp_path: Path) -> None:
    other = copied(run, tmp_path / run.name)
    shutil.rmtree(other / "export")
    assert ran(["export", str(other), "--quiet"]) == 0
    for name in ("README.md", "config.json", "model.safetensors"):
        assert (other / "export" / name).read_bytes() == (run / "export" / name).read_bytes()
    assert ran(["verify", str(other)]) == 0


def test_an_export_never_goes_where_something_is(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("used", "file", "link"):
        assert ran(["export", str(run), "--out", str(tmp_path / name)]) == 2
        assert capsys.readouterr().err.splitlines()[-2:] == [
            f"{tmp_path / name} exists and is not an empty folder.",
            "Give another --out.",
        ]
    assert os.listdir(tmp_path / "used") == ["mine.txt"]
    assert (tmp_path / "file").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    assert ran(["export", str(run), "--out", str(tmp_path / "empty"), "--quiet"]) == 0


def test_an_encoder_that_is_no_run_needs_a_place_for_its_export(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for spec in (str(run / "encoder.safetensors"), "random/test_vit"):
        assert ran(["export", spec]) == 2
        assert "is not a run folder.\nGive --out FOLDER." in capsys.readouterr().err


def test_an_export_that_the_disk_refuses_is_explained(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ran(["export", str(run), "--out", "/proc/mine"]) == 5
    assert capsys.readouterr().err.startswith("Cannot write /proc/mine")


def test_a_whole_run_is_whole(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ran(["verify", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    read = ("the encoder as read", "the export as timm reads it")
    assert [line.rpartition("  ")[0].strip() for line in lines] == [
        *(f"checkpoints/{name}" for name in CHECKPOINTS), "report.json", *KEPT, *read
    ]  # fmt: skip
    assert {line.rpartition("  ")[2] for line in lines} == {"intact"}
    assert ran(["verify", str(run), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["schema_version"], document["kind"], set(document["states"].values())) == (2, "verify", {"intact"})


def must_be_found(run: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Asserts that verifying tells of one thing that is not whole, and which."""
    capsys.readouterr()
    assert ran(["verify", str(run)]) == 5
    said = capsys.readouterr()
    told = name if not name.startswith("checkpoints") else name.rpartition("/")[0]
    assert any(line.startswith(told) and "damaged" in line for line in said.out.splitlines())
    assert "are damaged: " in said.err
    assert told in said.err


FLIPPED = [*KEPT, *(f"checkpoints/{CHECKPOINTS[1]}/{name}" for name in ("net.safetensors", "manifest.json"))]


@pytest.mark.parametrize("name", FLIPPED)
def test_a_flipped_bit_is_found(run: Path, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = copied(run, tmp_path / "run")
    flip_a_bit(other / name, random.Random(name).getrandbits(40))  # noqa: S311  # no secret
    must_be_found(other, name, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_many_flipped_bits_are_all_found(
    run: Path, seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, chance = copied(run, tmp_path / "run"), random.Random(seed)  # noqa: S311  # no secret
    for name in FLIPPED:
        before = (other / name).read_bytes()
        flip_a_bit(other / name, chance.getrandbits(40))
        must_be_found(other, name, capsys)
        (other / name).write_bytes(before)


@pytest.mark.parametrize("name", KEPT)
def test_a_file_that_is_gone_is_missed(
    run: Path, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = copied(run, tmp_path / "run")
    (other / name).unlink()
    must_be_found(other, name, capsys)


def test_an_export_of_other_weights_is_found_without_checksums(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = copied(run, tmp_path / "run")
    report = json.loads((other / "report.json").read_text())
    del report["facts"]["SHA-256"]
    (other / "report.json").write_text(json.dumps(report))
    assert ran(["verify", str(other)]) == 0
    shutil.rmtree(other / "export")
    assert ran(["export", "random/test_efficientnet", "--out", str(other / "export"), "--quiet"]) == 0
    must_be_found(other, "the export as timm reads it", capsys)


def test_a_report_that_is_damaged_is_found(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = copied(run, tmp_path / "run")
    (other / "report.json").write_text('{"facts": [1], "settings": {}}')
    must_be_found(other, "report.json", capsys)


def test_an_interrupted_run_is_whole_as_far_as_it_came(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = pretrain(run.parent / "data", tmp_path / "run", *METHODS["moco"])
    assert child(words, tmp_path / "cache", "metrics.append@5") == KILLED
    assert ran(["verify", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["checkpoints/step-000003  intact"]


def test_what_is_no_run_cannot_be_verified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ran(["verify", str(tmp_path)]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"{tmp_path} is not a run of lwcl.", "It has no config.yaml.", "Give a run folder."
    ]  # fmt: skip


def test_a_card_has_method_data_scores_limitations_and_settings(run: Path) -> None:
    text = (run / "export" / "README.md").read_text()
    facts = load_encoder(str(run)).metadata
    assert text.startswith("---\nlibrary_name: timm\n")
    assert text.splitlines()[4] == "# run"
    assert {f"* method: {facts['method']}", f"* data: {facts['data']}", "* images: 24"} <= set(text.splitlines())
    assert "\n## Limitations\n\n* The features" in text
    rows = json.loads((run / "report.json").read_text())["facts"]["knn"]
    assert f"| {100 * rows[0]['top1']:.1f}% |" in text
    assert "| lr | 0.01 | flag |" in text


HOSTILE = "x\n# <script>alert(1)</script> [a](http://b) ![c](d) | e `f` *g* _h_ www.i.org &lt; \x1b[31m\u202ecod"


def test_names_from_strangers_mean_nothing_in_a_card() -> None:
    judged = EncoderResult(HOSTILE, "arch", 0.5, (0.4, 0.6), 1.0, (1.0, 1.0), 20, gain=(0.1, (0.0, 0.2)))
    text = render_model_card(
        HOSTILE, HOSTILE, {HOSTILE: HOSTILE, "list": [HOSTILE]}, [judged], {"data": recorded_value(HOSTILE, HOSTILE)}
    )
    lines = text.splitlines()
    assert [line for line in lines if line.startswith("#")] == [
        f"# {escape_markdown(HOSTILE)}",
        *("## Training", "## Licences", "## Evaluation", "## Feature maps", "## Limitations", "## Settings"),
    ]  # fmt: skip
    assert text.isascii()
    for sign in ("<script", "](", "![", "://", "www.", "`f", "*g", "_h", "&lt"):
        assert sign in HOSTILE
        assert sign not in text.replace("`lwcl", "").replace(f"\\{sign[0]}", "")
    for line in (line for line in lines if line.startswith("|")):
        assert line.replace("\\|", "").count("|") in (4, 5), "a cell ends where it is meant to"


def test_an_export_claims_no_origin_that_its_weights_do_not_have(run: Path) -> None:
    config = json.loads((run / "export" / "config.json").read_text())
    assert config["pretrained_cfg"]["tag"] == "lwcl"
    assert not {"license", "paper_ids", "origin_url", "hf_hub_id", "url"} & config["pretrained_cfg"].keys()
    assert config["lwcl"]["origin"] == "lwcl pretrain"
    assert config["lwcl"]["images"] and config["lwcl"]["data"], "how many images, and their fingerprint"


def test_an_export_of_timms_own_weights_keeps_what_timm_says_of_them(tmp_path: Path) -> None:
    encoder = random_encoder("resnet18", InputSpec.for_arch("resnet18", 64), 0)
    export_timm(tmp_path / "own", encoder.encoder, encoder.input_spec, encoder.metadata)
    export_timm(tmp_path / "timm", encoder.encoder, encoder.input_spec, {"origin": "timm"})
    own, timms = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("own", "timm"))
    assert timms["pretrained_cfg"]["license"] == "apache-2.0" and "lwcl" not in timms
    assert "license" not in own["pretrained_cfg"] and own["lwcl"]["origin"] == "untrained"
