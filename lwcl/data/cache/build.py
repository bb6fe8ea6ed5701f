"""Makes a store of an image set, in memory or (see `disk`) in the cache folder, and ends it when too much is broken."""

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
from lwcl.data.cache.policy import SampledEstimate
from lwcl.data.dataset import BrokenImage, ImageSet, no_readable_image_error
from lwcl.errors import DataError


def no_progress(done: int, count: int) -> None:
    """Tells no one."""


@dataclass(frozen=True, kw_only=True)
class CacheBuilder:
    """All images decoded, the short side at most `short_side` pixels (None: any); the same for any `workers`.

    `tell` hears how many of how many images are done.
    """

    images: ImageSet
    short_side: int | None
    workers: int = 0
    max_bad: float = 0.05
    tell: ProgressCallback = no_progress
    timeout: float = 120.0

    def store(self, where: Literal["ram", "disk"]) -> PixelStore:
        """Their pixels, in memory or in a file; a store on disk is found again by the next call.

        Raises `DataError` when more than the share `max_bad` is broken, or a worker dies or is silent for `timeout`
        seconds; `StorageError` when the disk refuses.
        """
        if where == "disk":
            file, rows = self.on_disk("pixels")
            pixels = torch.from_file(str(file), shared=False, size=sum(rows.lengths), dtype=torch.uint8)
            return make_pixel_store(pixels, rows, self.images.names)
        rows = ImageIndex([], [], [], [])
        return make_pixel_store(concatenate_chunks(list(self.chunks(rows, "pixels"))), rows, self.images.names)

    def shrunk(self) -> tuple[ImageSet, list[BrokenImage]]:
        """The set with its images as JPEG in a file, found again as a store is, and the broken ones; raises as that."""
        file, rows = self.on_disk("jpeg")
        return with_jpeg_cache(self.images, file, rows), rows.broken(self.images.names)

    def on_disk(self, form: CacheFormat) -> tuple[Path, ImageIndex]:
        """A file of the bytes of all images, and their rows."""
        folder = disk.disk_cache_folder(self.images, self.short_side, form)
        file, rows = disk.open_or_build(folder, self.images, lambda done: self.chunks(done, form))
        check_broken_share(self.images, rows.bad, self.max_bad)
        return file, rows

    def chunks(self, done: ImageIndex, form: CacheFormat) -> Iterator[DecodedChunk]:
        """What follows the `done` images, noted there as it comes, until more than `max_bad` of all are broken."""
        fresh = decode_chunks(
            self.images,
            self.short_side,
            form=form,
            first=len(done.sizes),
            mean_bytes=SampledEstimate(self.images, self.short_side).pixels // len(self.images),
            workers=self.workers,
            timeout=self.timeout,
        )
        for chunk in fresh:
            done.extend(chunk.rows)
            check_broken_share(self.images, done.bad, self.max_bad)
            yield chunk
            self.tell(len(done.sizes), len(self.images))


def concatenate_chunks(chunks: list[DecodedChunk]) -> Tensor:
    """The pixels of all chunks, uint8 (bytes,); each chunk is freed when it is copied, so memory is needed once."""
    pixels = torch.empty(sum(len(chunk.content) for chunk in chunks), dtype=torch.uint8)
    whole, end = pixels.numpy(), len(pixels)
    while chunks:
        piece = chunks.pop().content
        whole[end - len(piece) : end] = np.frombuffer(piece, np.uint8)
        end -= len(piece)
    return pixels


def check_broken_share(images: ImageSet, bad: list[tuple[int, str]], max_bad: float) -> None:
    """Raises `DataError`, naming the first three, when more images are broken than allowed, or all."""
    if len(bad) == len(images):
        raise no_readable_image_error([BrokenImage(images.names[position], reason) for position, reason in bad])
    if len(bad) > max_bad * len(images):
        first = "; ".join(f"{images.names[position]!r}: {reason}" for position, reason in bad[:3])
        what = f"{len(bad)} of {len(images)} images are broken so far: more than --max-bad {max_bad:g} allows."
        raise DataError(what, f"{first}.", "Mend or remove them, or raise --max-bad.")
