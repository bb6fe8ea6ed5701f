"""Builds the image cache, in RAM or on disk (see `disk`), and stops when too many images are broken."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lwcl.data.cache import disk
from lwcl.data.cache.decode_all import CacheFormat, DecodedChunk, ProgressCallback, decode_chunks
from lwcl.data.cache.jpeg import with_jpeg_cache
from lwcl.data.cache.pixels import ImageIndex, PixelStore, make_pixel_store
from lwcl.data.cache.policy import CacheEstimate
from lwcl.data.dataset import BrokenImage, ImageSet, no_readable_image_error
from lwcl.errors import DataError
from lwcl.formatting import plural


def no_progress(done: int, count: int) -> None:
    """A `ProgressCallback` that does nothing."""


@dataclass(frozen=True, kw_only=True)
class CacheBuilder:
    """Decodes all images, the short side at most `short_side` pixels (None: full size); equal for any `workers`.

    All methods raise `DataError` when more than the share `max_bad` is broken, or a worker dies or is silent for
    `timeout` seconds, and `StorageError` when the disk refuses.
    """

    images: ImageSet
    short_side: int | None
    workers: int = 0
    max_bad: float = 0.05
    progress: ProgressCallback = no_progress
    timeout: float = 120.0

    def pixel_store(self, where: Literal["ram", "disk"]) -> PixelStore:
        """The pixels, in RAM or in a memory-mapped file; later calls find the file again."""
        if where == "disk":
            file, index = self.on_disk("pixels")
            pixels = torch.from_file(str(file), shared=False, size=sum(index.lengths), dtype=torch.uint8)
            return make_pixel_store(pixels, index, self.images.names, self.images.pixel_format)
        index = ImageIndex.empty()
        pixels = concatenate_chunks(list(self.decode_rest(index, "pixels")))
        return make_pixel_store(pixels, index, self.images.names, self.images.pixel_format)

    def jpeg_set(self) -> tuple[ImageSet, list[BrokenImage]]:
        """The image set with its images cached as JPEG in one file, and the broken ones; later calls find the file."""
        file, index = self.on_disk("jpeg")
        return with_jpeg_cache(self.images, file, index), index.broken_images(self.images.names)

    def on_disk(self, cache_format: CacheFormat) -> tuple[Path, ImageIndex]:
        """A file of the bytes of all images, and their index."""
        folder = disk.disk_cache_folder(self.images, self.short_side, cache_format)
        file, index = disk.open_or_build(folder, len(self.images), lambda done: self.decode_rest(done, cache_format))
        check_broken_share(self.images, index.broken, self.max_bad)
        return file, index

    def decode_rest(self, done: ImageIndex, cache_format: CacheFormat) -> Iterator[DecodedChunk]:
        """Decode the images after those in `done`, to which each chunk is added."""
        chunks = decode_chunks(
            self.images,
            self.short_side,
            cache_format=cache_format,
            first=len(done.sizes),
            mean_bytes=CacheEstimate(self.images, self.short_side).pixel_bytes // len(self.images),
            workers=self.workers,
            timeout=self.timeout,
        )
        for chunk in chunks:
            done.extend(chunk.records)
            check_broken_share(self.images, done.broken, self.max_bad)
            yield chunk
            self.progress(len(done.sizes), len(self.images))


def concatenate_chunks(chunks: list[DecodedChunk]) -> Tensor:
    """The bytes of all chunks, uint8 (bytes,); each chunk is freed once copied, so memory is needed only once."""
    pixels = torch.empty(sum(len(chunk.content) for chunk in chunks), dtype=torch.uint8)
    target, end = pixels.numpy(), len(pixels)
    while chunks:
        piece = chunks.pop().content
        target[end - len(piece) : end] = np.frombuffer(piece, np.uint8)
        end -= len(piece)
    return pixels


def check_broken_share(images: ImageSet, broken: list[tuple[int, str]], max_bad: float) -> None:
    """Raises `DataError`, naming the first three, when all images or more than the share `max_bad` are broken."""
    if len(broken) == len(images):
        raise no_readable_image_error([BrokenImage(images.names[position], reason) for position, reason in broken])
    if len(broken) > max_bad * len(images):
        first = "; ".join(f"{images.names[position]!r}: {reason}" for position, reason in broken[:3])
        what = (
            f"{len(broken):,} of {plural(len(images), 'image')} broken so far, more than --max-bad {max_bad:g} allows."
        )
        raise DataError(what, f"{first}.", "Fix or remove them, or raise --max-bad.")
