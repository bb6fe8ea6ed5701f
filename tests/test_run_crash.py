"""A run whose process died without a word: the next one says how, where the trace is, and what to try."""

import contextlib
import faulthandler
import signal
from pathlib import Path

import pytest
from runs import METHODS, at_step, child, made_images, pretrain

from lwcl.runs.crash import describe_crash, marked_as_running


def died_at_step_five(tmp_path: Path, number: signal.Signals) -> str:
    """The log of a run that went on after a process that died of a signal."""
    words = pretrain(made_images(tmp_path / "data"), tmp_path / "run", *METHODS["moco"])

    def die() -> None:
        faulthandler._sigsegv() if number == signal.SIGSEGV else signal.raise_signal(number)

    def without_pytests_handler() -> None:
        faulthandler.disable()
        at_step(5, die)()

    assert child(words, tmp_path / "cache", before=without_pytests_handler) == -number
    assert child(words, tmp_path / "cache") == 0
    return (tmp_path / "run" / "log.txt").read_text()


def test_a_segmentation_fault_is_traced_in_the_log_and_told_at_the_next_start(tmp_path: Path) -> None:
    log = died_at_step_five(tmp_path, signal.SIGSEGV)
    assert "Fatal Python error: Segmentation fault" in log and "most recent call first" in log
    assert "died: Segmentation fault" in log and "--precision fp32" in log
    assert not (tmp_path / "run" / ".running").exists()


def test_a_kill_is_told_at_the_next_start_with_what_needs_less_memory(tmp_path: Path) -> None:
    log = died_at_step_five(tmp_path, signal.SIGKILL)
    assert "was killed." in log and "--batch-size" in log and "Fatal" not in log


def test_a_process_that_ends_by_itself_leaves_no_mark(tmp_path: Path) -> None:
    with contextlib.suppress(ValueError), marked_as_running(tmp_path, tmp_path / "log.txt"):
        assert "was killed" in describe_crash(tmp_path, tmp_path / "log.txt")
        raise ValueError
    assert describe_crash(tmp_path, tmp_path / "log.txt") == ""


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"pid": 1, "since": "x", "log_size": null}', "\0"])
def test_a_damaged_mark_still_tells_that_something_died(text: str, tmp_path: Path) -> None:
    (tmp_path / ".running").write_text(text)
    assert "was killed" in describe_crash(tmp_path, tmp_path / "log.txt")
