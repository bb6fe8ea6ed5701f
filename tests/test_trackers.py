"""Experiment trackers: what TensorBoard, wandb and MLflow get is what metrics.jsonl holds; metrics.csv is its table."""

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from runs import STEPS, made_images, pretrain, ran

from lwcl.reporting import trackers
from lwcl.reporting.trackers import Trackers, open_trackers


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of two classes in two splits."""
    folder = tmp_path_factory.mktemp("labelled")
    for split in ("train", "val"):
        made_images(folder / split, classes=("a", "b"))
    return folder


def records(out: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def events(out: Path) -> Any:
    """What TensorBoard reads in a run's event files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(out / "tensorboard"), size_guidance={"scalars": 0})
    return found.Reload()


def test_tensorboard_reads_every_number_and_the_samples_of_a_run(labelled: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    words = pretrain(labelled, tmp_path / "run", "--log", "tensorboard", "--monitor", str(labelled))
    assert ran(words) == 0
    found, lines = events(tmp_path / "run"), records(tmp_path / "run")
    for name in ("loss", "lr", "std", "effective_rank", "knn_top1"):
        wanted = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
        got = [(event.step, event.value) for event in found.Scalars(name)]
        assert [step for step, _ in got] == [step for step, _ in wanted]
        assert [value for _, value in got] == pytest.approx([value for _, value in wanted], rel=1e-6)
    assert [event.step for event in found.Scalars("final_knn_top1")] == [STEPS]
    assert any("samples" in tag for tag in found.Tags()["images"])


def test_a_resumed_run_has_each_step_once_in_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    data = made_images(tmp_path / "data")
    words = pretrain(data, tmp_path / "run", "--log", "tensorboard")
    assert ran([*words, "--fast-dev-run", "6"]) == 0
    (tmp_path / "run/report.json").unlink()
    assert ran(words) == 0
    assert [event.step for event in events(tmp_path / "run").Scalars("loss")] == list(range(1, STEPS + 1))


def test_the_table_of_metrics_has_the_lines_of_the_file(labelled: Path, tmp_path: Path) -> None:
    assert ran(pretrain(labelled, tmp_path / "run", "--monitor", str(labelled))) == 0
    with (tmp_path / "run/metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines = records(tmp_path / "run")
    assert [int(row["step"]) for row in rows] == [line["step"] for line in lines]
    assert [float(row["loss"]) for row in rows] == [line["loss"] for line in lines]
    assert [row["knn_top1"] != "" for row in rows] == ["knn_top1" in line for line in lines]


def test_wandb_writes_an_offline_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert ran(pretrain(made_images(tmp_path / "data"), tmp_path / "run", "--log", "wandb")) == 0
    assert list((tmp_path / "run/wandb").glob("offline-run-*/*.wandb"))


def test_mlflow_has_every_loss_and_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert ran(pretrain(made_images(tmp_path / "data"), tmp_path / "run", "--log", "mlflow")) == 0
    client = mlflow.MlflowClient((tmp_path / "run/mlruns").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("lwcl").experiment_id])
    found = {one.step: one.value for one in client.get_metric_history(run.info.run_id, "loss")}
    assert found == {line["step"]: line["loss"] for line in records(tmp_path / "run")}
    assert run.data.params["arch"] == "test_efficientnet"
    assert run.info.status == "FINISHED"


@pytest.mark.parametrize(
    ("name", "module"), [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb"), ("mlflow", "mlflow")]
)
def test_a_tracker_that_is_not_installed_is_named_before_the_run_starts(
    name: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for gone in {name, module}:
        monkeypatch.setitem(sys.modules, gone, None)
    assert ran(pretrain(made_images(tmp_path / "data"), tmp_path / "run", "--log", name)) == 2
    assert f"pip install 'lwcl[{name}]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_unknown_tracker_is_refused_with_those_that_exist(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ran(pretrain("digits", tmp_path / "run", "--log", "comet")) == 2
    assert "tensorboard, wandb, mlflow" in capsys.readouterr().err


class Failing:
    """A tracker that fails at its second step."""

    def __init__(self, folder: Path, settings: Any, step: int) -> None:
        self.steps: list[int] = []

    def scalars(self, values: Any, step: int) -> None:
        self.steps.append(step)
        if len(self.steps) > 1:
            raise OSError("disk full")

    def picture(self, name: str, pixels: Any, step: int) -> None:
        raise AssertionError("it was left out")

    def close(self) -> None:
        raise AssertionError("it was left out")


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Trackers, list[str]]]:
    """Trackers of which one fails, and the warnings."""
    warnings: list[str] = []
    monkeypatch.setitem(trackers.TRACKERS, "wandb", Failing)
    with open_trackers(("wandb",), Path(), {}, 0, warnings.append) as opened:
        yield opened, warnings


def test_a_tracker_that_fails_is_left_out_with_a_warning(failing: tuple[Trackers, list[str]]) -> None:
    opened, warnings = failing
    for step in (1, 2, 3):
        opened.scalars({"step": step, "loss": 1.0})
    assert opened.active == {}
    assert warnings == ["--log wandb failed and is left out from here on: OSError: disk full"]


def test_numbers_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    class Kept(Failing):
        def scalars(self, values: Any, step: int) -> None:
            assert (values, step) == ({"loss": 1.0}, 3)

    Trackers({"wandb": Kept(tmp_path, {}, 0)}, pytest.fail).scalars(
        {"step": 3, "loss": 1.0, "std": float("nan"), "k": None}
    )
