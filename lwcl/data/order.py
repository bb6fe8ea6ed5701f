"""The order of the images in an epoch: a full shuffle, or one of blocks that keeps reads close together on the disk.

Both are functions of (seed, epoch), and any part of an order is computed without the images before it.
"""

import functools
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lwcl.rng import BLOCK_STREAM, epoch_permutation, permutation

BLOCKS_PER_WINDOW = 64
MAX_FULL_SHUFFLE = 10_000_000  # images; a permutation takes some 40 bytes an image while it is made
LARGE_BLOCK = 4096  # images of a block of more than that


class EpochOrder(Protocol):
    """The positions of the images in an order; a slice of it is int64 (count,)."""

    def __getitem__(self, places: slice, /) -> Tensor: ...


def epoch_order(count: int, seed: int, epoch: int, block: int = 0) -> EpochOrder:
    """The order of `count` images; `block` as `--shuffle-block`: 0 decides by their number, 1 is a full shuffle."""
    if block == 0:
        block = 1 if count <= MAX_FULL_SHUFFLE else LARGE_BLOCK
    return epoch_permutation(count, seed, epoch) if block == 1 else BlockOrder(count, seed, epoch, block)


@dataclass(frozen=True)
class BlockOrder:
    """Blocks of consecutive images in a random order; then 64 blocks at a time, a window, whose images are shuffled.

    Two neighbours meet in a batch as often as any two images of a window do: (batch - 1) / (images of a window - 1).
    """

    count: int
    seed: int
    epoch: int
    block: int  # images

    @functools.cached_property
    def blocks(self) -> Tensor:
        """The numbers of the blocks in their order."""
        return permutation(-(-self.count // self.block), self.seed, BLOCK_STREAM, self.epoch, 0)

    @functools.cached_property
    def starts(self) -> Tensor:
        """At which place of the order each window starts, and where the last one ends."""
        sizes = torch.full((len(self.blocks),), self.block)
        sizes[self.blocks == len(self.blocks) - 1] = self.count - (len(self.blocks) - 1) * self.block
        ends = [window.sum() for window in torch.split(sizes, BLOCKS_PER_WINDOW)]
        return torch.stack([torch.tensor(0), *ends]).cumsum(0)

    def window(self, number: int) -> Tensor:
        """The positions of a window's images in their order."""
        blocks = self.blocks[number * BLOCKS_PER_WINDOW : (number + 1) * BLOCKS_PER_WINDOW]
        positions = (blocks[:, None] * self.block + torch.arange(self.block)).flatten()
        positions = positions[positions < self.count]
        return positions[permutation(len(positions), self.seed, BLOCK_STREAM, self.epoch, 1, number)]

    @functools.cached_property
    def kept(self) -> dict[int, Tensor]:
        """The window that was last asked for."""
        return {}

    def __getitem__(self, places: slice) -> Tensor:
        start, stop, _ = places.indices(self.count)
        parts = [torch.empty(0, dtype=torch.int64)]
        first = int(torch.searchsorted(self.starts, start, right=True)) - 1
        for number in range(first, len(self.starts) - 1):
            begin = int(self.starts[number])
            if begin >= stop:
                break
            if number not in self.kept:
                self.kept.clear()
                self.kept[number] = self.window(number)
            parts.append(self.kept[number][max(0, start - begin) : stop - begin])
        return torch.cat(parts)
