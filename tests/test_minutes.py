"""`--minutes`: as many steps as a trial says that the time allows; recorded, so that the run is an ordinary one."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from crash import KILLED
from hypothesis import given
from hypothesis import strategies as st
from processes import Group
from runs import METHODS, child, left_by, made_images, pretrain, ran

from lwcl.config.auto import RunFacts, resolve_plan
from lwcl.config.plan import FOLLOW_EPOCHS, plan_run
from lwcl.config.recipes import RECIPES
from lwcl.errors import UsageError
from lwcl.methods.method import methods
from lwcl.settings import OriginKind
from lwcl.training import minutes
from lwcl.training.resolve import RunCost

TIMED = RunCost(1.0, 1 / 3, 3.0)  # of 8.5 seconds: 13 steps
STEPS, EPOCHS = 13, 13 / 6
MINUTES = ("--minutes", f"{8.5 / 60}")


def words(data: Path, out: Path, *more: str) -> list[str]:
    """The words of a small run, without its --epochs."""
    small = pretrain(data, out, *METHODS["light-moco"], *more)
    place = small.index("--epochs")
    return small[:place] + small[place + 2 :]


def known_cost() -> None:
    """Lets a trial run, and find what does not depend on the machine."""
    trial = minutes.run_cost

    def timed(*told: Any) -> RunCost:
        trial(*told)
        return TIMED

    minutes.run_cost = timed


def no_trial() -> None:
    """Lets a trial end the process."""
    minutes.run_cost = lambda *told: 1 / 0  # type: ignore[assignment,return-value]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_images(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def whole(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose trial says 13 steps."""
    folder = tmp_path_factory.mktemp("whole")
    assert child(words(images, folder / "run", *MINUTES), folder / "cache", before=known_cost) == 0
    return folder / "run"


@given(*[st.floats(0, 1e6)] * 2, st.floats(1e-3, 1e5), st.floats(0, 1e7))
def test_the_steps_end_in_time_and_fill_it(before: float, after: float, step: float, seconds: float) -> None:
    cost = RunCost(before, step, after)
    count = cost.steps(seconds)
    assert count == 1 or cost.total(count) <= seconds
    assert cost.total(count + 1) > 0.97 * (seconds - before - after), "another one would not fit"


def test_what_a_trial_settled_is_recorded_with_what_follows_from_it(whole: Path) -> None:
    recorded = yaml.safe_load((whole / "config.yaml").read_text())
    assert (recorded["epochs"], recorded["warmup"]) == (EPOCHS, round(EPOCHS / 10, 6))
    assert "minutes" in recorded["chosen"] and "epochs" not in recorded["chosen"]
    log = (whole / "log.txt").read_text()
    assert "epochs 2.16667 (auto: --minutes 0.141667: 1.0 s so far, 2.0 s an epoch, 3.0 s at the end)" in log


def test_the_run_equals_one_that_was_told_the_epochs(whole: Path, images: Path, tmp_path: Path) -> None:
    told = tmp_path / "told"
    assert child(words(images, told, "--epochs", str(EPOCHS)), tmp_path / "cache") == 0
    assert left_by(told, STEPS)["encoder.safetensors"] == left_by(whole, STEPS)["encoder.safetensors"]
    assert left_by(told, STEPS)["metrics.jsonl"] == left_by(whole, STEPS)["metrics.jsonl"]


def test_its_config_given_back_trains_as_many_epochs_without_a_trial(whole: Path, tmp_path: Path) -> None:
    again = ["pretrain", "--config", str(whole / "config.yaml"), "--out", str(tmp_path / "again"), "--quiet"]
    assert child(again, tmp_path / "cache", before=no_trial) == 0
    assert left_by(tmp_path / "again", STEPS)["encoder.safetensors"] == left_by(whole, STEPS)["encoder.safetensors"]


@pytest.mark.parametrize("resumed_by", [MINUTES, ("--epochs", str(EPOCHS))], ids=["the same words", "the epochs"])
def test_a_resumed_run_does_not_time_again(
    whole: Path, images: Path, tmp_path: Path, resumed_by: tuple[str, ...]
) -> None:
    run, cache = tmp_path / "run", tmp_path / "cache"
    assert child(words(images, run, *MINUTES), cache, "metrics.append@8", known_cost) == KILLED
    assert child(words(images, run, *resumed_by), cache, before=no_trial) == 0
    assert left_by(run, STEPS) == left_by(whole, STEPS)


def test_a_run_that_died_in_its_trial_times_again(whole: Path, images: Path, tmp_path: Path) -> None:
    run, cache = tmp_path / "run", tmp_path / "cache"
    assert child(words(images, run, *MINUTES), cache, before=no_trial) != 0
    assert yaml.safe_load((run / "config.yaml").read_text())["epochs"] is None
    assert child(words(images, run, *MINUTES), cache, before=known_cost) == 0
    assert left_by(run, STEPS) == left_by(whole, STEPS)


def test_another_time_is_another_run(images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run, cache = tmp_path / "run", tmp_path / "cache"
    assert child(words(images, run, *MINUTES), cache, "metrics.append@8", known_cost) == KILLED
    assert child(words(images, run, "--minutes", "7"), cache) == 2
    assert "minutes: 0.14" in capfd.readouterr().err


def test_several_processes_train_the_epochs_of_the_first(images: Path, tmp_path: Path) -> None:
    trial = minutes.run_cost

    def slower(rank: int) -> None:
        minutes.run_cost = lambda *told: trial(*told) and RunCost(1.0, (1 + rank) / 3, 3.0)

    group = Group(words(images, tmp_path / "run", *MINUTES), tmp_path / "cache", slower)
    assert group.ended() == [0, 0]
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["epochs"] == EPOCHS


@pytest.mark.parametrize(
    "more",
    [
        ["compress", "--teacher", "random/test_vit", "--method", "cluster-classify", "--teacher-cache", "center"],
        ["distill", "--teacher", "random/test_vit", "--teacher-cache", "views:2", "--html"],
        ["pretrain", "--fast-dev-run", "2"],
    ],
    ids=["clusters", "cached views", "shortened"],
)
def test_four_images_and_a_teacher_are_enough_for_a_trial(tmp_path: Path, more: list[str]) -> None:
    data = made_images(tmp_path / "photos", 4)
    small = "--arch test_efficientnet --image-size 32 --threads 1 --workers 0 --device cpu --quiet --minutes 0.01"
    assert child([*more, "--data", str(data), "--out", str(tmp_path / "run"), *small.split()], tmp_path / "cache") == 0
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["epochs"] == 0.5  # one step


def test_scores_and_a_monitor_count(tmp_path: Path) -> None:
    data = str(made_images(tmp_path / "photos", 24, ("train/a", "train/b", "val/a", "val/b")))
    small = "--arch test_efficientnet --image-size 32 --threads 1 --workers 0 --device cpu --minutes 0.01"
    told = ["pretrain", "--data", data, "--monitor", data, "--out", str(tmp_path / "run"), *small.split()]
    assert child(told, tmp_path / "cache") == 0
    assert "even one step makes the run take" in (tmp_path / "run" / "log.txt").read_text()


def test_a_dry_run_says_how_many_epochs(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ran([*words(images, tmp_path / "run", "--minutes", "5"), "--dry-run"]) == 0
    assert "auto: --minutes 5: " in capsys.readouterr().out


def test_a_warm_up_is_compared_with_the_epochs_that_fit(images: Path, tmp_path: Path, capsys: Any) -> None:
    long = [*words(images, tmp_path / "run", "--warmup", "900"), "--dry-run"]
    assert ran([*long, "--minutes", "1000"]) == 0
    assert ran([*long, "--minutes", "0.01"]) == 2
    assert "A warm-up of 900 epochs does not fit in a run of 0.16" in capsys.readouterr().err


@pytest.mark.parametrize(("flags", "file"), [({"epochs": 3}, {}), ({}, {"epochs": 3})], ids=["flag", "file"])
def test_minutes_and_epochs_contradict_each_other(flags: dict[str, Any], file: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="--epochs 3 is given too"):
        plan_run("pretrain", {"minutes": 5, **flags}, file)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_nothing_else_follows_from_the_epochs(name: str) -> None:
    kind = methods()[RECIPES[name].method]
    teacher = "random/resnet18" if kind.teacher_space else None
    one, many = (
        resolve_plan(
            plan_run(kind.command, {"recipe": name, "teacher": teacher, "epochs": epochs}), RunFacts(5000, 64, 4, False)
        ).values
        for epochs in (1, 10**6)
    )
    differing = {key for key in one if one[key].value != many[key].value} - {"epochs"}
    assert differing <= {*FOLLOW_EPOCHS}
    assert all(one[key].origin.kind is OriginKind.RULE for key in differing)
