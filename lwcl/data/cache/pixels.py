"""All images of a set decoded once, shrunk, and kept as bytes: in memory, or in a file that is mapped into memory.

Decoding is most of the work of a small encoder's training; a store makes a batch one gather of bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from lwcl.data.dataset import BrokenImage, replacement_positions

CHANNELS = 3


class ImageIndex(NamedTuple):
    """What is known of images decoded in order: (height, width), bytes and their CRC-32, 0 if broken; the broken."""

    sizes: list[tuple[int, int]]
    lengths: list[int]
    checksums: list[int]
    bad: list[tuple[int, str]]  # (position, reason)

    def extend(self, more: "ImageIndex") -> None:
        """Adds what is known of the images that follow."""
        self.sizes.extend(more.sizes)
        self.lengths.extend(more.lengths)
        self.checksums.extend(more.checksums)
        self.bad.extend(more.bad)

    def places(self) -> tuple[Tensor, Tensor]:
        """Which image each one is, itself or its stand-in, and where each image's bytes begin: int64 (N,) each."""
        ends = torch.tensor(self.lengths).cumsum(0)
        broken = {position for position, _ in self.bad}
        source = torch.arange(len(self.sizes))
        for position in broken:
            source[position] = next(
                other for other in replacement_positions(position, len(source)) if other not in broken
            )
        return source, torch.cat([ends.new_zeros(1), ends[:-1]])

    def broken(self, names: Sequence[str]) -> list[BrokenImage]:
        """The broken ones by their names."""
        return [BrokenImage(names[position], reason) for position, reason in sorted(self.bad)]


@dataclass(frozen=True, eq=False)
class PixelStore:
    """N images of any sizes in a row: `pixels` uint8 (bytes,), each image (height, width, 3) from its offset on.

    So a crop is scaled two to three times as fast as from planes, and OpenCV takes it as it is.
    A broken image shares the bytes of the one that stands in for it. `bad` are the broken ones.
    """

    pixels: Tensor
    offsets: Tensor  # (N,) int64
    heights: Tensor  # (N,) int64
    widths: Tensor  # (N,) int64
    bad: list[BrokenImage]
    uniform: bool = field(init=False)  # whether all have the same size

    def __post_init__(self) -> None:
        same = all(bool((sides == sides[0]).all()) for sides in (self.heights, self.widths))
        object.__setattr__(self, "uniform", same)

    def __len__(self) -> int:
        return len(self.offsets)

    def image(self, index: int) -> Tensor:
        """One image, uint8 (3, height, width): a view of the store."""
        offset, height, width = (int(column[index]) for column in (self.offsets, self.heights, self.widths))
        return self.pixels[offset : offset + CHANNELS * height * width].view(height, width, CHANNELS).permute(2, 0, 1)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images `index` (B,) as uint8 (B, 3, H, W), their channels last in memory, heights (B,), widths (B,).

        Smaller ones have zeros below and to the right.
        """
        heights, widths = self.heights[index], self.widths[index]
        if self.uniform:
            height, width = int(self.heights[0]), int(self.widths[0])
            rows = self.pixels.view(-1, CHANNELS * height * width)
            places = self.offsets[index].div(rows.shape[1], rounding_mode="floor")
            images = rows.index_select(0, places).view(-1, height, width, CHANNELS).permute(0, 3, 1, 2)
            return images, heights, widths
        sides = int(heights.max()), int(widths.max())
        images = torch.zeros(len(index), *sides, CHANNELS, dtype=torch.uint8).permute(0, 3, 1, 2)
        for place, row in enumerate(index.tolist()):
            image = self.image(row)
            images[place, :, : image.shape[1], : image.shape[2]] = image
        return images, heights, widths


def make_pixel_store(pixels: Tensor, rows: ImageIndex, names: Sequence[str]) -> PixelStore:
    """A store of images decoded in order; at least one must be good."""
    source, starts = rows.places()
    heights, widths = torch.tensor(rows.sizes)[source].T
    return PixelStore(pixels, starts[source], heights, widths, rows.broken(names))
