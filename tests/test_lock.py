"""One process a run folder: the second is told who is there, and a killed one leaves nothing in the way."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from crash import ended, started

import lwcl
from lwcl.errors import UsageError
from lwcl.runs.folder import RunFolder
from lwcl.system.lock import folder_lock, is_locked


@contextmanager
def sleeper(folder: Path | None = None) -> Iterator[int]:
    """A child that sleeps, in a run folder if one is given; killed at the end."""
    child = started(lambda: (folder and RunFolder.open(folder, {"seed": 0}), time.sleep(60)))
    while folder and not (folder / "command.txt").exists():
        time.sleep(0.01)
    try:
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        ended(child)


def held_for_others(folder: Path) -> bool:
    """Whether a program of its own finds the folder held."""
    code = "import sys, pathlib, lwcl.system.lock; print(lwcl.system.lock.is_locked(pathlib.Path(sys.argv[1])))"
    command, home = [sys.executable, "-c", code, str(folder)], Path(lwcl.__file__).parents[1]
    done = subprocess.run(command, cwd=home, check=True, capture_output=True, text=True)
    return {"True\n": True, "False\n": False}[done.stdout]


def test_a_second_process_is_refused_and_told_who_is_there(tmp_path: Path) -> None:
    with sleeper(tmp_path) as child:
        for _ in range(20):
            with pytest.raises(UsageError, match=rf"in use by process {child} on .+\.") as caught:
                RunFolder.open(tmp_path, {"seed": 0})
            assert caught.value.exit_code == 2
            assert is_locked(tmp_path)
    with RunFolder.open(tmp_path, {"seed": 0}) as run:
        assert run.resumed


def test_the_same_process_cannot_hold_a_folder_twice_and_does_not_lose_it(tmp_path: Path) -> None:
    with folder_lock(tmp_path):
        with ExitStack() as stack, pytest.raises(UsageError, match=r"in use by process .* this one"):
            stack.enter_context(folder_lock(tmp_path / "." / ""))
        assert is_locked(tmp_path)
        assert held_for_others(tmp_path)
    assert not is_locked(tmp_path)
    assert not held_for_others(tmp_path)


def test_a_worker_that_outlives_its_parent_does_not_hold_the_folder(tmp_path: Path) -> None:
    with ExitStack() as parent:
        parent.enter_context(folder_lock(tmp_path))
        with sleeper():
            parent.close()
            assert not held_for_others(tmp_path)


def test_asking_whether_a_folder_is_held_makes_nothing(tmp_path: Path) -> None:
    assert not is_locked(tmp_path)
    assert os.listdir(tmp_path) == []
