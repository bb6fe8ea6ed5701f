"""How a way takes turns: it gets its task once, then numbers of steps, and replies with the seconds that they took.

A turn makes its own batches from the first to the last: nothing is prepared before it begins, or left when it ends.
"""

import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset, RandomSampler


class Work(NamedTuple):
    """What a way is to train, and on what."""

    folder: str  # of images, no folders in it
    arch: str  # timm's name
    size: int  # pixels of a view
    batch: int
    queue: int
    threads: int
    workers: int  # processes that make batches
    options: dict[str, str]  # of this way only


def serve(start: Callable[[Work], Callable[[int], float]], *packages: str) -> None:
    """Begins the work that the command line tells, then does as many steps as each line of standard input says.

    `start` gives what does so many steps and gives their seconds. Replies: the versions of `packages`, then seconds.
    """
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not be taken for a reply
    work = Work(**json.loads(sys.argv[1]))
    torch.set_num_threads(work.threads)
    torch.manual_seed(0)
    turn = start(work)

    def reply(value: object) -> None:
        print(json.dumps(value), file=replies, flush=True)

    reply({name: importlib.metadata.version(name) for name in packages})
    for line in sys.stdin:
        reply(turn(int(line)))


def timed(steps: Callable[[int], None], clock: Callable[[], float] = time.perf_counter) -> Callable[[int], float]:
    """The seconds, by this clock, of what does so many steps."""

    def turn(count: int) -> float:
        begun = clock()
        steps(count)
        return clock() - begun

    return turn


def random_batches(dataset: Dataset[Any], work: Work, count: int) -> DataLoader[Any]:
    """`count` batches in random order, made by worker processes."""
    order = RandomSampler(dataset, num_samples=count * work.batch)  # type: ignore[arg-type]  # it has a length
    return DataLoader(dataset, work.batch, sampler=order, num_workers=work.workers, drop_last=True)
