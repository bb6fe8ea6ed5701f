"""A way that trains for a budget of time: what it is told, and the weights it leaves at each mark of the clock.

The clock starts when the way's process does, so that what it imports and prepares counts too.
"""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset


class Task(NamedTuple):
    """What a way is to train, on what, and until when."""

    method: str
    folder: str  # of images, no folders in it
    arch: str  # timm's name
    size: int  # pixels of a view
    batch: int  # 0: the way's own
    threads: int
    workers: int  # processes that make batches
    seed: int
    started: float  # `time.time` at the start of the process
    marks: list[float]  # seconds after it at which weights are kept, rising
    out: str  # folder of the weights


def told() -> Task:
    """The task that the command line describes."""
    task = Task(**json.loads(sys.argv[1]))
    torch.set_num_threads(task.threads)
    torch.manual_seed(task.seed)
    return task


def endless(images: Dataset[Any], task: Task, batch: int) -> Iterator[tuple[int, list[Tensor]]]:
    """The epoch, from 0, and the views of each batch, for ever, in random order."""
    loader = DataLoader(images, batch, shuffle=True, drop_last=True, num_workers=task.workers)
    epoch = 0
    while True:
        for views, *_ in loader:
            yield epoch, views
        epoch += 1


class Marks:
    """Keeps a backbone's weights at the first step that ends at or after each mark."""

    def __init__(self, task: Task, batch: int) -> None:
        self.task, self.batch, self.left, self.steps = task, batch, list(task.marks), 0

    def passed(self, backbone: nn.Module) -> bool:
        """After a step: keeps what is due, and tells whether the last mark has passed."""
        self.steps += 1
        seconds = time.time() - self.task.started
        while self.left and seconds >= self.left[0]:
            self.keep(backbone, self.left.pop(0), seconds)
        return not self.left

    def keep(self, backbone: nn.Module, mark: float, seconds: float) -> None:
        """Writes the weights in timm's names, and beside them what they cost."""
        cost = {"mark": mark, "seconds": seconds, "steps": self.steps, "batch": self.batch}
        path = Path(self.task.out, f"{mark:g}")
        torch.save(backbone.state_dict(), path.with_suffix(".pth"))
        path.with_suffix(".json").write_text(json.dumps(cost))
