"""Makes a store of an image set, in memory or (see `disk`) in the cache folder, and ends it when too much is broken."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lwcl.data import disk
from lwcl.data.decoding import Chunk, Tell, decoded
from lwcl.data.images import Broken, ImageSet, all_broken
from lwcl.data.room import bytes_needed
from lwcl.data.store import Rows, Store, store_of
from lwcl.errors import DataError


def silent(done: int, count: int) -> None:
    """Tells no one."""


def fill(
    images: ImageSet,
    *,
    short_side: int | None,
    where: Literal["ram", "disk"],
    workers: int = 0,
    max_bad: float = 0.05,
    tell: Tell = silent,
    timeout: float = 120.0,
) -> Store:
    """All images decoded, the short side at most `short_side` pixels (None: any); the same for any `workers`.

    `tell` hears how many of how many images are done. A store on disk is found again by the next call. Raises
    `DataError` when more than the share `max_bad` is broken, or a worker dies or is silent for `timeout` seconds;
    `StorageError` when the disk refuses.
    """

    def chunks(done: Rows) -> Iterator[Chunk]:
        mean = bytes_needed(images, short_side) // len(images)
        first = len(done.sizes)
        fresh = decoded(images, short_side, first=first, mean_bytes=mean, workers=workers, timeout=timeout)
        return checked(fresh, done, images, max_bad, tell)

    if where == "disk":
        pixels, rows = disk.kept(disk.store_folder(images, short_side), images, chunks)
        check_bad(images, rows.bad, max_bad)
    else:
        rows = Rows([], [])
        pixels = joined(list(chunks(rows)))
    return store_of(pixels, rows, images.names)


def joined(chunks: list[Chunk]) -> Tensor:
    """The pixels of all chunks, uint8 (bytes,); each chunk is freed when it is copied, so memory is needed once."""
    pixels = torch.empty(sum(len(chunk.pixels) for chunk in chunks), dtype=torch.uint8)
    whole, end = pixels.numpy(), len(pixels)
    while chunks:
        piece = chunks.pop().pixels
        whole[end - len(piece) : end] = np.frombuffer(piece, np.uint8)
        end -= len(piece)
    return pixels


def checked(chunks: Iterator[Chunk], done: Rows, images: ImageSet, max_bad: float, tell: Tell) -> Iterator[Chunk]:
    """The chunks as they come, noted in `done`, until more than `max_bad` of all images are broken."""
    for chunk in chunks:
        done.sizes.extend(chunk.sizes)
        done.bad.extend(chunk.bad)
        check_bad(images, done.bad, max_bad)
        yield chunk
        tell(len(done.sizes), len(images))


def check_bad(images: ImageSet, bad: list[tuple[int, str]], max_bad: float) -> None:
    """Raises `DataError`, naming the first three, when more images are broken than allowed, or all."""
    if len(bad) == len(images):
        raise all_broken([Broken(images.names[position], reason) for position, reason in bad])
    if len(bad) > max_bad * len(images):
        first = "; ".join(f"{images.names[position]!r}: {reason}" for position, reason in bad[:3])
        what = f"{len(bad)} of {len(images)} images are broken so far: more than --max-bad {max_bad:g} allows."
        raise DataError(what, f"{first}.", "Mend or remove them, or raise --max-bad.")
