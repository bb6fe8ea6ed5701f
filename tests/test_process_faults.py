"""Several processes when one is killed, hangs, fails or is told to stop: the run ends, says why, and can go on."""

import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
from crash import KILLED
from processes import LIMIT, Before, Group, all_ended
from runs import STEPS, cache_at, left_by, made_images, pretrain, ran

from lwcl import engine
from lwcl.errors import ProcessLostError
from lwcl.system.ranks import current_ranks

DRAWN_STEPS = [int(step) for step in numpy.random.default_rng(0).integers(1, STEPS + 1, 10)]


def at_step(process: int, number: int, act: Callable[[], object]) -> Before:
    """Something to do before a run: in one process, `act` in the middle of a step."""

    def before(rank: int) -> None:
        check = engine.check_step_finite

        def watched(scalars: engine.StepScalars, step: int, batch: engine.Batch) -> None:
            if (rank, step) == (process, number):
                act()
            check(scalars, step, batch)

        engine.check_step_finite = watched

    return before


def killed() -> None:
    """Ends this process as the kernel does when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images."""
    return made_images(tmp_path_factory.mktemp("images"), 48)


@pytest.fixture(scope="module")
def unbroken(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a run of two processes leaves that nothing has interrupted."""
    folder = tmp_path_factory.mktemp("unbroken")
    with cache_at(folder / "cache"):
        assert Group(pretrain(images, folder / "run"), folder).ended(300) == [0, 0]
    return left_by(folder / "run")


def resumed(words: list[str], folder: Path) -> dict[str, bytes]:
    """What the run leaves when its command is given again."""
    again = Group(words, folder)
    assert again.ended(300) == [0, 0], again.said()
    return left_by(folder / "run")


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("process", "step"),
    [(1, 5), *(pytest.param(number % 2, step, marks=pytest.mark.slow) for number, step in enumerate(DRAWN_STEPS))],
)
def test_a_killed_process_ends_the_run_which_then_goes_on_as_if_nothing_had_been(
    process: int, step: int, images: Path, unbroken: dict[str, bytes], tmp_path: Path
) -> None:
    words = pretrain(images, tmp_path / "run")
    group, begun = Group(words, tmp_path, at_step(process, step, killed)), time.monotonic()
    codes = group.ended()
    print(f"process {process} killed at step {step}: exit codes {codes} after {time.monotonic() - begun:.1f} s")
    assert codes[process] == KILLED
    assert codes[1 - process] == ProcessLostError.exit_code
    said = group.said()
    assert f"Process {process} of 2 (pid {group.pids[process]} on" in said[1 - process], said
    assert "ended without a word" in said[1 - process]
    assert resumed(words, tmp_path) == unbroken


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "fault", ["checkpoint.file@2", "checkpoint.rename.before", "checkpoint.rename.after@2", "metrics.append@3"]
)
def test_the_first_process_killed_in_a_save_ends_the_run_which_then_goes_on(
    fault: str, images: Path, unbroken: dict[str, bytes], tmp_path: Path
) -> None:
    words = pretrain(images, tmp_path / "run")
    group = Group(words, tmp_path, lambda rank: os.environ.update({"LWCL_CRASH_AT": fault}))
    assert group.ended() == [KILLED, ProcessLostError.exit_code], group.said()
    assert resumed(words, tmp_path) == unbroken


def test_a_signal_to_one_process_stops_all_after_the_same_step(
    images: Path, unbroken: dict[str, bytes], tmp_path: Path
) -> None:
    words = pretrain(images, tmp_path / "run")
    group = Group(words, tmp_path, at_step(1, 4, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    assert group.ended() == [143, 143], group.said()
    assert resumed(words, tmp_path) == unbroken


def test_a_loss_that_is_not_finite_in_one_process_ends_all_and_is_told_once(images: Path, tmp_path: Path) -> None:
    def before(rank: int) -> None:
        loss = engine.LossModule.forward

        def spoiled(module: engine.LossModule, batch: engine.Batch, epoch: float) -> engine.Loss:
            result = loss(module, batch, epoch)
            return result._replace(total=result.total * float("nan")) if rank == 1 and epoch > 0.4 else result

        engine.LossModule.forward = spoiled  # type: ignore[method-assign]

    group = Group(pretrain(images, tmp_path / "run"), tmp_path, before)
    assert group.ended() == [3, 3]
    assert group.said()[0].startswith("The loss is nan at step 4 in process 1; the weights were not updated.")
    assert group.said()[1] == ""
    assert (tmp_path / "run" / "nonfinite" / "step-000004").is_dir()


def test_a_full_disk_under_the_first_process_ends_all(images: Path, tmp_path: Path) -> None:
    def before(rank: int) -> None:
        if rank == 0:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))

    group = Group(pretrain(images, tmp_path / "run"), tmp_path, before)
    codes = group.ended()
    assert codes == [5, 5], group.said()
    assert group.said()[0]
    assert group.said()[1] == ""


def test_processes_wait_for_one_that_hangs_as_long_as_they_were_told(images: Path, tmp_path: Path) -> None:
    stops = at_step(1, 3, lambda: os.kill(os.getpid(), signal.SIGSTOP))
    group = Group(pretrain(images, tmp_path / "run", "--wait-limit", "8"), tmp_path, stops)
    assert all_ended(group.pids[:1], LIMIT) == [ProcessLostError.exit_code]
    os.kill(group.pids[1], signal.SIGKILL)
    all_ended(group.pids[1:], LIMIT)
    assert "waited 8 s" in group.said()[0], group.said()


def test_weights_that_drift_apart_are_found_at_the_next_checkpoint(images: Path, tmp_path: Path) -> None:
    def before(rank: int) -> None:
        after = engine.Method.after_step

        def drifting(method: engine.Method, net: engine.Net, progress: engine.Progress) -> None:
            after(method, net, progress)
            if rank == 1 and progress.step == 2:
                next(net.parameters()).data.mul_(1.000001)

        engine.Method.after_step = drifting  # type: ignore[method-assign]

    group = Group(pretrain(images, tmp_path / "run"), tmp_path, before)
    assert group.ended() == [3, 3], group.said()
    assert group.said()[0].startswith("Processes 0 and 1 have different weights after step 3.")


def test_a_batch_that_cannot_be_shared_out_is_refused_before_anything_starts(images: Path, tmp_path: Path) -> None:
    group = Group(pretrain(images, tmp_path / "run", "--batch-size", "7"), tmp_path)
    assert group.ended() == [2, 2]
    assert "A batch of 7 cannot be divided evenly among 2 processes." in group.said()[0]
    assert "--batch-size 6 or 8" in group.said()[0]
    assert group.said()[1] == ""
    assert not (tmp_path / "run").exists()


@pytest.mark.timeout(600)
def test_a_run_goes_on_with_another_number_of_processes_and_says_what_may_differ(images: Path, tmp_path: Path) -> None:
    words = pretrain(images, tmp_path / "run")
    first = Group(words, tmp_path, at_step(1, 4, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    assert first.ended() == [143, 143]
    assert ran(words) == 0
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "different --devices: 2 before, 1 now" in log
    assert "batch norm" in log
    assert current_ranks().world_size == 1
