"""All images of a data set decoded once, downscaled, and kept as bytes: in RAM, or in a memory-mapped file.

Decoding is most of the work of training a small encoder; with the pixels at hand, a batch is a single gather.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from lwcl.data.dataset import BrokenImage, replacement_positions
from lwcl.errors import DataError
from lwcl.models.pixel_format import RGB, PixelFormat
from lwcl.system.atomic_files import format_bytes

STORED_TYPES = {"uint8": torch.uint8, "uint16": torch.uint16}


MAX_DEVICE_SHARE = 0.5  # of an accelerator's free memory, for decoded images


class ImageIndex(NamedTuple):
    """Images decoded in order: each one's (height, width), bytes and CRC-32, all 0 if broken; and the broken ones."""

    sizes: list[tuple[int, int]]
    lengths: list[int]
    checksums: list[int]
    broken: list[tuple[int, str]]  # (position, reason)

    @classmethod
    def empty(cls) -> "ImageIndex":
        """An index of no images."""
        return cls([], [], [], [])

    def extend(self, more: "ImageIndex") -> None:
        """Appends the images that follow."""
        self.sizes.extend(more.sizes)
        self.lengths.extend(more.lengths)
        self.checksums.extend(more.checksums)
        self.broken.extend(more.broken)

    def locate(self) -> tuple[Tensor, Tensor]:
        """Which image to show at each position (a broken one is replaced), and each image's offset: int64 (N,) each."""
        ends = torch.tensor(self.lengths).cumsum(0)
        broken = {position for position, _ in self.broken}
        source = torch.arange(len(self.sizes))
        for position in broken:
            source[position] = next(i for i in replacement_positions(position, len(source)) if i not in broken)
        return source, torch.cat([ends.new_zeros(1), ends[:-1]])

    def broken_images(self, names: Sequence[str]) -> list[BrokenImage]:
        """The broken images by name."""
        return [BrokenImage(names[position], reason) for position, reason in sorted(self.broken)]


@dataclass(frozen=True, eq=False)
class PixelStore:
    """N images of any size, one behind the other: uint8 (bytes,), each (height, width, channels) from its offset on.

    `pixel_format` says how many channels, and whether a value is one byte or two.

    With channels last, crops are resized two to three times as fast, and OpenCV can use the memory as it is. A broken
    image shares the bytes of its replacement.
    """

    pixels: Tensor
    offsets: Tensor  # (N,) int64
    heights: Tensor  # (N,) int64
    widths: Tensor  # (N,) int64
    broken: list[BrokenImage]
    pixel_format: PixelFormat = RGB
    counts: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))  # (N,) frames, of videos
    uniform: bool = field(init=False)  # whether all images have the same size

    def __post_init__(self) -> None:
        same = all(bool((sides == sides[0]).all()) for sides in (self.heights, self.widths))
        object.__setattr__(self, "uniform", same)

    def __len__(self) -> int:
        return len(self.offsets)

    def on(self, device: torch.device) -> "PixelStore":
        """The store with its pixels in the memory of an accelerator. Raises `DataError` where they do not fit."""
        free = torch.accelerator.get_memory_info(device)[0]
        if self.pixels.nbytes > MAX_DEVICE_SHARE * free:
            raise DataError(
                f"{format_bytes(self.pixels.nbytes)} of decoded images do not fit on {device}.",
                f"They may take half of the {format_bytes(free)} that are free: a step needs the rest.",
                "Give --cache ram.",
            )
        return replace(self, pixels=self.pixels.to(device))

    def values(self, content: Tensor, height: int, width: int) -> Tensor:
        """Bytes (..., bytes of an image) as images (..., C, height, width), channels last in memory."""
        typed = content.view(STORED_TYPES[self.pixel_format.dtype])
        return typed.view(*typed.shape[:-1], height, width, self.pixel_format.channels).movedim(-1, -3)

    def image(self, index: int) -> Tensor:
        """One image (C, height, width): a view of the stored bytes."""
        offset, height, width = (int(column[index]) for column in (self.offsets, self.heights, self.widths))
        return self.values(self.pixels[offset : offset + self.pixel_format.bytes * height * width], height, width)

    def sample_bytes(self, index: int) -> Tensor:
        """The bytes of an image, or of all frames of a video."""
        offset, height, width = (int(column[index]) for column in (self.offsets, self.heights, self.widths))
        frames = int(self.counts[index]) if len(self.counts) else 1
        return self.pixels[offset : offset + frames * self.pixel_format.bytes * height * width]

    def rows(self, index: Tensor) -> "PixelStore":
        """The store of some of the images."""
        columns = {name: getattr(self, name)[index] for name in ("offsets", "heights", "widths")}
        return replace(self, **columns, counts=self.counts[index] if len(self.counts) else self.counts, broken=[])

    def clip(self, index: int, start: int) -> Tensor:
        """The clip (T, C, height, width) of a video that begins with frame `start`: a view of the stored bytes."""
        offset, height, width = (int(column[index]) for column in (self.offsets, self.heights, self.widths))
        frame, frames = self.pixel_format.bytes * height * width, self.pixel_format.frames
        offset += start * frame
        return self.values(self.pixels[offset : offset + frames * frame].view(frames, frame), height, width)

    def batch(self, index: Tensor, starts: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Images `index` (B,) as (B, C, H, W), channels last in memory, with heights (B,) and widths (B,).

        With `starts` (B,), their clips from these frames on: (B, T, C, H, W). Smaller images are padded with zeros at
        the bottom and on the right.
        """
        heights, widths = self.heights[index], self.widths[index]
        if starts is not None:
            sides, frames = (int(heights.max()), int(widths.max())), self.pixel_format.frames
            room = self.pixel_format.bytes * sides[0] * sides[1]
            clips = self.values(self.pixels.new_zeros(len(index), frames, room), *sides)
            for place, (row, start) in enumerate(zip(index.tolist(), starts.tolist(), strict=True)):
                clip = self.clip(row, start)
                clips[place, :, :, : clip.shape[2], : clip.shape[3]] = clip
            return clips, heights, widths
        if self.uniform:
            height, width = int(self.heights[0]), int(self.widths[0])
            rows = self.pixels.view(-1, self.pixel_format.bytes * height * width)
            places = self.offsets[index].div(rows.shape[1], rounding_mode="floor")
            return self.values(rows.index_select(0, places.to(rows.device)), height, width), heights, widths
        sides = int(heights.max()), int(widths.max())
        images = self.values(self.pixels.new_zeros(len(index), self.pixel_format.bytes * sides[0] * sides[1]), *sides)
        for place, row in enumerate(index.tolist()):
            image = self.image(row)
            images[place, :, : image.shape[1], : image.shape[2]] = image
        return images, heights, widths


def make_pixel_store(
    pixels: Tensor, index: ImageIndex, names: Sequence[str], pixel_format: PixelFormat = RGB
) -> PixelStore:
    """A store of images decoded in order; at least one must be readable."""
    source, offsets = index.locate()
    heights, widths = torch.tensor(index.sizes)[source].T
    counts = torch.tensor(index.lengths)[source] // (pixel_format.bytes * heights * widths)
    return PixelStore(pixels, offsets[source], heights, widths, index.broken_images(names), pixel_format, counts)
