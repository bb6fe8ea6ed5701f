"""Two views of each image, and nothing after them: what the ways of `benchmarks/view_peers.py` have in common.

With the option "decoded", images are decoded before the first turn: those of `shrunk_folder`, kept in memory.
Times are CPU seconds of the process, all threads of it, so that other load on the machine counts as little as it can.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch.utils.data import Dataset

from peer_ways.turns import Work, random_batches, timed


class Viewed(Dataset[Any]):
    """What `views` makes of each of `items`: image files, or images in memory."""

    def __init__(self, items: Sequence[Any], views: Callable[[Any], Any]) -> None:
        self.items, self.views = items, views

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.views(self.items[index])


def rgb(file: Path) -> Image.Image:
    """An image file decoded by Pillow."""
    return Image.open(file).convert("RGB")


def shrunk_folder(work: Work) -> Path:
    """Where the images lie that are shrunk for views of this size."""
    return Path(work.folder).with_name(f"shrunk{work.size}")


def viewed(work: Work, opened: Callable[[Path], Any], views: Callable[[Any], Any]) -> Viewed:
    """What `views` makes of each image: opened each time, or, with that option, opened once and kept."""
    if "decoded" in work.options:
        return Viewed([opened(file) for file in sorted(shrunk_folder(work).iterdir())], views)
    return Viewed(sorted(Path(work.folder).iterdir()), lambda file: views(opened(file)))


def alone(work: Work, images: Dataset[Any]) -> Callable[[int], float]:
    """Makes so many batches of `images` and drops them; gives their CPU seconds."""

    def steps(count: int) -> None:
        for _ in random_batches(images, work, count):
            pass

    return timed(steps, time.process_time)
