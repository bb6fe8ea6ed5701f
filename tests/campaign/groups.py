"""Two processes that train together, of which one is killed or asked to stop: the run ends, and goes on the same."""

import os
import random
import signal
import time
from pathlib import Path

from crash import KILLED
from kills import without_pictures
from processes import Before, Group
from runs import STEPS, left_by, made_images, pretrain
from test_process_faults import at_step, killed
from trials import trial

from lwcl.errors import ProcessLostError

MOST_SECONDS = 60


def prepared(folder: Path) -> tuple[Path, dict[str, bytes]]:
    """Images, and what a run of two processes leaves that nothing disturbs."""
    os.environ["LWCL_CACHE"] = str(folder / "cache")
    data = made_images(folder / "images")
    assert Group(pretrain(data, folder / "run"), folder, quick(bool)).ended(300) == [0, 0]
    return data, left_by(folder / "run")


def quick(before: Before) -> Before:
    """Something to do before a run, and no pictures."""

    def both(rank: int) -> None:
        without_pictures()
        before(rank)

    return both


def must_go_on(words: list[str], folder: Path, left: dict[str, bytes]) -> None:
    """Asserts that the same command ends the run as if nothing had been."""
    again = Group(words, folder, quick(bool))
    assert again.ended(300) == [0, 0], again.said()
    assert left_by(folder / "run") == left


@trial("T22", "two processes, a signal to one at a random step: both stop after the same step, same bits", 12, prepared)
def asked(case: int, folder: Path, given: tuple[Path, dict[str, bytes]]) -> None:
    """Ask one of two processes to stop."""
    number = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)[case % 3]
    words, step = pretrain(given[0], folder / "run"), random.Random(case).randrange(1, STEPS)  # noqa: S311  # no secret
    group = Group(words, folder, quick(at_step(case % 2, step, lambda: os.kill(os.getpid(), number))))
    assert group.ended() == [128 + number] * 2, group.said()
    must_go_on(words, folder, given[1])


@trial(
    "T24", f"two processes, one killed at a random step: the other ends in {MOST_SECONDS} s, same bits", 12, prepared
)
def lost(case: int, folder: Path, given: tuple[Path, dict[str, bytes]]) -> None:
    """Kill one of two processes."""
    words, step = pretrain(given[0], folder / "run"), random.Random(case).randrange(1, STEPS)  # noqa: S311  # no secret
    group, begun = Group(words, folder, quick(at_step(case % 2, step, killed))), time.monotonic()
    codes = group.ended()
    assert time.monotonic() - begun < MOST_SECONDS
    assert (codes[case % 2], codes[1 - case % 2]) == (KILLED, ProcessLostError.exit_code), group.said()
    must_go_on(words, folder, given[1])
