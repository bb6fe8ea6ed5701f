"""A whole run, from images to a folder with encoder, export and report; and what must not change its bits."""

import contextlib
import io
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy
import pytest
import safetensors.torch
import timm
import torch
import yaml
from crash import KILLED
from families import FAMILIES
from runs import METHODS, STEPS, cache_at, child, left_by, made_images, pretrain, ran
from torch import Tensor

import lwcl
from lwcl.checkpoints.load import load_encoder
from lwcl.config.recipes import RECIPES, TESTED_ARCHS, recipes_for
from lwcl.data import decode_and_crop
from lwcl.methods.method import methods
from lwcl.models.encoder import Encoder
from lwcl.runs.folder import RunFolder
from lwcl.settings import field_names
from lwcl.training import build, resolve

CLASSES = ("cat", "dog")


def labelled(folder: Path) -> Path:
    """48 images to train on and 16 to judge with, of two classes."""
    made_images(folder / "train", 48, CLASSES)
    made_images(folder / "val", 16, CLASSES)
    return folder


@dataclass
class Finished:
    """A run that came to its end, what it said, and the backbone's parameters as they were before its first step."""

    data: Path
    out: Path
    words: list[str]
    stdout: str
    stderr: str
    untrained: dict[str, Tensor]

    def again(self, out: Path, *more: str) -> dict[str, bytes]:
        """What the same command with `more` words leaves in another folder."""
        assert ran([*self.words, *METHODS["light-moco"], "--out", str(out), *more]) == 0
        return left_by(out)


def finished_run(folder: Path, *words: str) -> Finished:
    """A run in a folder, told aloud."""
    data, out, untrained, built = labelled(folder / "data"), folder / "run", {}, build.build_net

    def watched(config, *more):
        net = built(config, *more)
        untrained.update({name: p.detach().clone() for name, p in net.student.backbone.named_parameters()})
        return net

    command = [word for word in pretrain(data, out, *words) if word != "--quiet"]
    said, told = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, cache_at(folder / "cache"):
        patch.setattr(build, "build_net", watched)
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(told):
            assert ran(command) == 0
    return Finished(data, out, command, said.getvalue(), told.getvalue(), untrained)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return finished_run(tmp_path_factory.mktemp("finished"), *METHODS["light-moco"])


def test_a_run_leaves_the_folder_that_is_promised(finished: Finished) -> None:
    names = {path.name for path in finished.out.iterdir()} - {".lock"}
    records = "config.yaml command.txt env.json metrics.jsonl metrics.csv elapsed.jsonl log.txt"
    files = f"{records} encoder.safetensors report.json report.html"
    assert names == {*files.split(), "checkpoints", "export", "plots"}
    assert sorted(path.name for path in (finished.out / "checkpoints").iterdir()) == ["step-000009", "step-000012"]
    assert {path.name for path in (finished.out / "export").iterdir()} == {
        "config.json",
        "model.safetensors",
        "README.md",
    }
    assert any((finished.out / "plots").glob("*loss.svg"))
    assert all(path.stat().st_size for path in finished.out.rglob("*") if path.is_file())


def test_a_run_says_how_it_was_made(finished: Finished) -> None:
    assert (finished.out / "command.txt").read_text() == f"lwcl {' '.join(finished.words)}\n"
    assert json.loads((finished.out / "env.json").read_text())["lwcl"] == lwcl.__version__
    settings = yaml.safe_load((finished.out / "config.yaml").read_text())
    report = json.loads((finished.out / "report.json").read_text())
    assert (settings["arch"], report["settings"]["arch"]["origin"]) == ("test_efficientnet", "flag")
    assert settings["key_momentum"] == report["settings"]["key_momentum"]["value"] > 0.5, "a rule has settled it"
    assert (report["schema_version"], report["kind"]) == (2, "pretrain")
    assert report["facts"]["steps"] == STEPS
    assert report["command"] == f"lwcl {' '.join(finished.words)}"
    assert all((finished.out / picture["file"]).exists() for picture in report["pictures"])
    assert "<script" not in (finished.out / "report.html").read_text()


def test_every_step_is_recorded_with_the_health_of_the_embedding(finished: Finished) -> None:
    records = [json.loads(line) for line in (finished.out / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == list(range(1, STEPS + 1))
    assert records[-1]["epoch"] == 2
    for name in ("loss", "lr", "grad_norm", "top1", "std", "effective_rank", "alignment", "uniformity"):
        assert all(numpy.isfinite(record[name]) for record in records)


def test_results_go_to_stdout_and_progress_to_stderr_without_escape_codes(finished: Finished) -> None:
    table = finished.stdout.splitlines()
    assert table[0] == "kNN"
    assert [line.split()[0] for line in table[2:]] == [str(finished.out), "random/test_efficientnet"]
    assert f"{STEPS}/{STEPS}" in finished.stderr
    assert "\x1b" not in finished.stdout + finished.stderr
    log = (finished.out / "log.txt").read_text()
    assert all(line in log for line in finished.stderr.splitlines())


def test_the_three_lines_that_a_run_ends_with_are_python_that_loads_the_encoder(finished: Finished) -> None:
    code = "\n".join(finished.stderr.splitlines()[-3:])
    place: dict[str, object] = {"images": torch.zeros(2, 3, 32, 32)}
    exec(code, place)  # noqa: S102  # our own
    assert list(place["features"].shape) == [2, 256]
    assert code.endswith("# (B, 256)")


def must_be_exported(out: Path, size: int) -> None:
    """Asserts that stock timm loads the export strictly, with the features of the encoder to the last bit."""
    encoder = load_encoder(str(out)).encoder.eval()
    model = timm.create_model(f"local-dir:{out / 'export'}", pretrained=True).eval()
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        features = model(images)
        assert torch.equal(features, encoder.features(images))
    assert features.shape == (2, encoder.width)
    assert json.loads((out / "export" / "config.json").read_text())["num_features"] == encoder.width
    exported = safetensors.torch.load_file(out / "export" / "model.safetensors")
    assert exported.keys() == model.state_dict().keys() == encoder.backbone.state_dict().keys()


def test_the_export_is_a_timm_model_with_the_features_of_the_encoder(finished: Finished) -> None:
    must_be_exported(finished.out, 32)
    model = timm.create_model(f"local-dir:{finished.out / 'export'}", pretrained=True)
    known = timm.get_pretrained_cfg("test_efficientnet")
    assert model.pretrained_cfg["input_size"] == (3, 32, 32)
    assert [tuple(model.pretrained_cfg[name]) for name in ("mean", "std")] == [known.mean, known.std]
    assert model.num_classes == 0


def test_an_output_stride_is_exported_too(finished: Finished, tmp_path: Path) -> None:
    words = ("--arch", "test_resnet", "--image-size", "64", "--output-stride", "16", "--fast-dev-run", "1")
    assert ran(pretrain(finished.data, tmp_path / "run", *words, *METHODS["light-moco"])) == 0
    must_be_exported(tmp_path / "run", 64)


def must_have_moved(run: Finished) -> None:
    """Asserts that each exported parameter is not what it was before the first step."""
    exported = safetensors.torch.load_file(run.out / "export" / "model.safetensors")
    assert run.untrained.keys() <= exported.keys()
    assert [name for name, before in run.untrained.items() if torch.equal(before, exported[name])] == []


def test_every_exported_parameter_was_trained(finished: Finished) -> None:
    must_have_moved(finished)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", recipes_for("pretrain"))
@pytest.mark.parametrize("arch", TESTED_ARCHS)
def test_every_exported_parameter_of_every_tested_architecture_is_trained(
    arch: str, recipe: str, tmp_path: Path
) -> None:
    more = ("--neighbours", "3") if "neighbours" in field_names(methods()[RECIPES[recipe].method]) else ()
    # ISD's first step has no anchors, and its second none behind the zeroed ends of residual branches.
    size = ("--image-size", "64", "--weight-decay", "0", "--fast-dev-run", "3")
    run = finished_run(tmp_path, "--arch", arch, "--recipe", recipe, *size, *more)
    must_be_exported(run.out, 64)
    must_have_moved(run)


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "size"), FAMILIES)
def test_a_model_of_every_family_of_timm_is_trained_and_exported(arch: str, size: int, tmp_path: Path) -> None:
    data = made_images(tmp_path / "data", 4)
    few = ("--batch-size", "4", "--epochs", "1", "--queue-size", "8", "--neighbours", "3", "--cache", "off")
    assert ran(pretrain(data, tmp_path / "run", "--arch", arch, "--image-size", str(size), *few)) == 0
    must_be_exported(tmp_path / "run", size)


def test_encoder_safetensors_says_what_it_is(finished: Finished) -> None:
    loaded = load_encoder(str(finished.out / "encoder.safetensors"))
    assert (loaded.encoder.arch, loaded.encoder.head_widths, loaded.input_spec.size) == (
        "test_efficientnet",
        (16, 8),
        32,
    )
    assert (loaded.metadata["origin"], loaded.metadata["steps"], loaded.metadata["images"]) == (
        "lwcl pretrain",
        STEPS,
        48,
    )
    state = safetensors.torch.load_file(finished.out / "checkpoints" / "step-000012" / "net.safetensors")
    student = {name.removeprefix("student."): t for name, t in state.items() if name.startswith("student.")}
    assert all(torch.equal(tensor, student[name]) for name, tensor in loaded.encoder.state_dict().items())


@pytest.fixture
def quietly(finished: Finished, capsys: pytest.CaptureFixture[str]) -> Iterator[pytest.CaptureFixture[str]]:
    """What is said from here on."""
    capsys.readouterr()
    return capsys


def test_knn_judges_a_run_beside_an_untrained_encoder(finished: Finished, quietly: pytest.CaptureFixture[str]) -> None:
    words = ["knn", str(finished.out), "--data", str(finished.data), "--workers", "0", "--threads", "1"]
    assert ran(words) == 0
    captured = quietly.readouterr()
    assert [line.split()[0] for line in captured.out.splitlines()[2:4]] == [
        str(finished.out),
        "random/test_efficientnet",
    ]
    assert "48 images of 2 classes" in captured.err
    assert "\x1b" not in captured.out + captured.err
    report = json.loads((finished.out / "knn" / "report.json").read_text())
    assert (finished.out / "knn" / "report.html").exists()
    assert ran([*words, "--json", "--quiet"]) == 0
    document = json.loads(quietly.readouterr().out)
    assert (document["schema_version"], document["kind"], document["facts"]["images"]) == (2, "knn", 16)
    assert document["facts"] == report["facts"], "judging twice gives the same"
    at_end = json.loads((finished.out / "report.json").read_text())["facts"]["knn"]
    assert [row["top1"] for row in document["facts"]["encoders"]] == [row["top1"] for row in at_end]


def test_knn_of_several_encoders_and_ways_to_vote(
    finished: Finished, tmp_path: Path, quietly: pytest.CaptureFixture[str]
) -> None:
    encoders = [str(finished.out), str(finished.out / "encoder.safetensors"), "random/test_resnet"]
    for more in (["--preset", "1nn"], ["--preset", "best"], ["--k", "3", "--image-size", "48"]):
        place = tmp_path / more[1]
        words = ["--data", str(finished.data), "--workers", "0", "--json", "--out", str(place), "--quiet"]
        assert ran(["knn", *encoders, *words, *more]) == 0
        rows = json.loads(quietly.readouterr().out)["facts"]["encoders"]
        assert [row["untrained"] for row in rows] == [False, True, False, True]
        assert rows[0]["top1"] == rows[2]["top1"]
        assert (place / "report.html").exists()


def test_config_yaml_given_back_makes_the_run_again(finished: Finished, tmp_path: Path) -> None:
    words = ["pretrain", "--config", str(finished.out / "config.yaml"), "--out", str(tmp_path / "again"), "--quiet"]
    assert ran(words) == 0
    assert left_by(tmp_path / "again") == left_by(finished.out)


class Decoded(NamedTuple):
    """What a run leaves that decodes images in every step."""

    cache: str
    left: dict[str, bytes]


@pytest.fixture(scope="module", params=["off", "jpeg"])
def decoded(finished: Finished, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Decoded:
    folder = tmp_path_factory.mktemp("decoded")
    with cache_at(folder):
        return Decoded(request.param, finished.again(folder / "run", "--cache", request.param, "--quiet"))


@pytest.mark.parametrize("workers", ["1", "2"])
def test_workers_change_no_bit_where_they_decode(
    finished: Finished, decoded: Decoded, workers: str, tmp_path: Path
) -> None:
    left = finished.again(tmp_path / "run", "--cache", decoded.cache, "--workers", workers, "--quiet")
    assert left == decoded.left


def test_how_many_decoded_images_are_held_changes_no_bit(
    finished: Finished, decoded: Decoded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode_and_crop, "MAX_PENDING_PIXELS", 1)
    assert finished.again(tmp_path / "run", "--cache", decoded.cache, "--quiet") == decoded.left


def test_a_run_that_decodes_and_is_killed_goes_on_as_if_it_had_not_been(
    finished: Finished, decoded: Decoded, tmp_path: Path
) -> None:
    more = [*METHODS["light-moco"], "--out", str(tmp_path / "run"), "--cache", decoded.cache, "--quiet"]
    assert child([*finished.words, *more], tmp_path / "cache", "metrics.append@8") == KILLED
    assert child([*finished.words, *more], tmp_path / "cache") == 0
    assert left_by(tmp_path / "run") == decoded.left


@pytest.mark.parametrize("more", [("--workers", "2"), ("--cache", "disk"), ("--save-every", "5m"), ("--max-bad", "0")])
def test_what_only_changes_how_a_run_is_made_changes_no_bit(
    finished: Finished, more: tuple[str, ...], tmp_path: Path
) -> None:
    assert finished.again(tmp_path / "run", *more, "--quiet") == left_by(finished.out)


@pytest.mark.slow
def test_compiled_backbones_learn_as_plain_ones_do(finished: Finished, tmp_path: Path) -> None:
    out = tmp_path / "compiled"
    finished.again(out, "--compile", "--quiet")
    plain, compiled = (RunFolder(path).metrics() for path in (finished.out, out))
    assert len(compiled) == len(plain)
    assert compiled[0]["loss"] == pytest.approx(plain[0]["loss"], rel=1e-4)
    names = [set(safetensors.torch.load_file(path / "encoder.safetensors")) for path in (finished.out, out)]
    assert names[0] == names[1]


def test_the_monitor_scores_every_epoch_and_changes_no_bit(finished: Finished, tmp_path: Path) -> None:
    left = finished.again(tmp_path / "run", "--monitor", str(finished.data), "--quiet")
    records = [json.loads(line) for line in left.pop("metrics.jsonl").splitlines()]
    assert [record["step"] for record in records if 0 <= record.get("knn_top1", -1) <= 1] == [6, 12]
    before = left_by(finished.out)
    assert before.pop("metrics.jsonl").splitlines() == [
        json.dumps({name: value for name, value in record.items() if name != "knn_top1"}).encode() for record in records
    ]
    assert left == before


@pytest.mark.parametrize("recipe", recipes_for("pretrain"))
@pytest.mark.parametrize("arch", ["test_resnet", "test_vit"])
def test_every_recipe_runs_in_parts_of_a_batch(finished: Finished, arch: str, recipe: str, tmp_path: Path) -> None:
    more = ("--neighbours", "3") if "neighbours" in field_names(methods()[RECIPES[recipe].method]) else ()
    words = ("--arch", arch, "--recipe", recipe, "--accumulate", "2", "--fast-dev-run", "2", *more)
    assert ran(pretrain(finished.data, tmp_path / "run", *words)) == 0
    must_be_exported(tmp_path / "run", 32)


def test_the_embedded_images_are_what_is_used_without_data(tmp_path: Path) -> None:
    words = [word for word in pretrain("", tmp_path / "run", "--fast-dev-run", "1") if word not in ("--data", "")]
    assert ran([*words, "--neighbours", "3"]) == 0
    facts = json.loads((tmp_path / "run" / "report.json").read_text())["facts"]
    assert facts["images"] == 3000
    assert [row["untrained"] for row in facts["knn"]] == [False, True]


def test_a_dry_run_tells_all_and_writes_nothing(
    finished: Finished, quietly: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [*finished.words, *METHODS["light-moco"], "--out", "run", "--dry-run"]
    assert ran(words) == 0
    said = quietly.readouterr().out
    assert all(word in said for word in ("key_momentum", "MACs of the backbone", "images per second"))
    assert ["batch_size", "8", "flag"] in [line.split() for line in said.splitlines()]
    assert ran([*words, "--json"]) == 0
    document = json.loads(quietly.readouterr().out)
    assert (document["schema_version"], document["cost"]["steps"]) == (2, STEPS)
    assert document["settings"]["batch_size"] == {"value": 8, "origin": "flag"}
    assert os.listdir(tmp_path) == []
    assert os.listdir(os.environ["LWCL_CACHE"]) == []


def test_a_fast_run_goes_through_everything(finished: Finished, tmp_path: Path) -> None:
    assert ran([*finished.words, "--out", str(tmp_path / "run"), "--quiet", "--fast-dev-run", "2"]) == 0
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000002"]
    assert json.loads((tmp_path / "run" / "report.json").read_text())["facts"]["steps"] == 2


def test_json_is_the_only_thing_on_stdout(
    finished: Finished, quietly: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert ran([*finished.words, "--out", str(tmp_path / "run"), "--fast-dev-run", "1", "--json"]) == 0
    assert json.loads(quietly.readouterr().out)["schema_version"] == 2


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ([], "Its settings are the same."),
        (["--lr", "0.02"], "Settings differ: lr: 0.01 -> 0.02."),
        (["--resume", "must"], "Its settings are the same."),
    ],
)
def test_a_finished_run_is_not_touched(
    finished: Finished, more: list[str], why: str, quietly: pytest.CaptureFixture[str]
) -> None:
    before = left_by(finished.out)
    assert ran([*finished.words, *more]) == 2
    assert quietly.readouterr().err.splitlines() == [
        f"The folder {finished.out} holds a finished run.",
        why,
        "Give --overwrite to replace it, or another --out.",
    ]
    assert left_by(finished.out) == before


def test_overwrite_replaces_a_run_and_nothing_else(finished: Finished, tmp_path: Path) -> None:
    out = tmp_path / "run"
    fast = [*finished.words, "--out", str(out), "--quiet", "--fast-dev-run"]
    assert ran([*fast, "2"]) == 0
    (out / "notes.txt").write_text("mine")
    (out / "knn").mkdir()
    assert ran([*fast, "1", "--overwrite", "--lr", "0.02"]) == 0
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-000001"]
    assert (out / "notes.txt").read_text() == "mine"
    assert not (out / "knn").exists(), "it told of the run that was replaced"


def test_without_out_each_run_gets_a_folder_and_overwrite_replaces_none(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    place = finished.words.index("--out")
    words = [*finished.words[:place], *finished.words[place + 2 :], "--quiet", "--fast-dev-run", "1"]
    assert ran(words) == 0
    first = tmp_path / "runs" / "pretrain-light-moco-test_efficientnet-1"
    (first / "report.json").unlink()  # as if it had been interrupted
    assert ran([*words, "--overwrite"]) == 0
    assert not (first / "report.json").exists()
    assert (first.with_name("pretrain-light-moco-test_efficientnet-2") / "report.json").exists()
    assert ran(words) == 0
    assert (first / "report.json").exists(), "it went on"


def test_the_untrained_encoder_that_knn_shows_is_the_one_that_training_began_with(finished: Finished) -> None:
    begun = load_encoder("random/test_efficientnet", image_size=32, seed=0).encoder
    assert isinstance(begun, Encoder)
    assert all(torch.equal(p, finished.untrained[name]) for name, p in begun.backbone.named_parameters())


@pytest.mark.parametrize(
    ("name", "began", "now", "flags"),
    [
        ("has_opencv", False, True, ["--view-backend", "tensor"]),
        ("own_cpus", 1, 2, ["--view-backend", "tensor"]),
    ],
)
def test_a_run_goes_on_with_what_the_machine_was_when_it_began(
    finished: Finished, name: str, began: object, now: object, flags: list[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    words = [*finished.words, "--out", str(tmp_path / "run"), "--quiet"]
    if name == "own_cpus":
        place = words.index("--threads")
        words[place : place + 2] = ["--view-backend", "tensor"]

    def on(answer: object) -> Callable[[], None]:
        return lambda: monkeypatch.setattr(resolve, name, lambda: answer)

    assert child(words, tmp_path / "cache", "metrics.append@8", before=on(began)) == KILLED
    assert child(words, tmp_path / "cache", before=on(now)) == 0
    assert "when the run started" in (tmp_path / "run" / "log.txt").read_text()
    assert left_by(tmp_path / "run") == finished.again(tmp_path / "unbroken", *flags, "--quiet")


def test_a_run_that_began_with_opencv_says_that_it_needs_it(
    finished: Finished, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [*finished.words, "--out", str(tmp_path / "run"), "--quiet"]
    assert child(words, tmp_path / "cache", "metrics.append@8") == KILLED
    capfd.readouterr()
    assert child(words, tmp_path / "cache", before=lambda: setattr(resolve, "has_opencv", lambda: False)) == 2
    assert "if the run started with it" in capfd.readouterr().err
