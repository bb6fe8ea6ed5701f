"""All images of a data set decoded in order, in this process or in workers, one chunk at a time.

Processes, not threads: two threads decoded no faster than one (CIFAR-10 0.6x, 224 px JPEG 0.95x), since most of
Pillow's work holds the interpreter's lock. Chunks are sent as bytes through a pipe, so a small /dev/shm is no problem.
"""

import os
import re
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from lwcl.data.cache.pixels import ImageIndex
from lwcl.data.dataset import ImageSet
from lwcl.data.decode import downscale, encode_jpeg
from lwcl.data.native import UnreadableImageError
from lwcl.data.workers import load_in_workers
from lwcl.errors import DataError
from lwcl.system.shared_memory import can_start_workers

CHUNK_SIZE_BYTES = 4 * 2**20
CHUNK_IMAGES = 256
IDLE = -1
PROCESS_ID, POSITION, STARTED_NS = range(3)  # what a worker reports: itself, the image it is decoding, since when

CacheFormat = Literal["pixels", "jpeg"]  # of an image's bytes: (height, width, channels), or a file
ProgressCallback = Callable[[int, int], None]  # called with the number of images done, and of all


class DecodedChunk(NamedTuple):
    """Consecutive images: their bytes, in the requested `CacheFormat`, and their records."""

    content: bytes
    records: ImageIndex


class ChunkDataset(Dataset[DecodedChunk]):
    """Chunk k holds the downscaled images from `first + k * length` on. Workers report their progress in `slots`."""

    def __init__(
        self,
        images: ImageSet,
        short_side: int | None,
        cache_format: CacheFormat,
        first: int,
        length: int,
        slots: Tensor,
    ) -> None:
        self.images, self.short_side, self.to_bytes = images, short_side, PIXEL_ENCODERS[cache_format]
        self.first, self.length, self.slots = first, length, slots

    def __len__(self) -> int:
        return -(-(len(self.images) - self.first) // self.length)

    def __getitem__(self, number: int) -> DecodedChunk:
        worker = get_worker_info()
        slot = self.slots[worker.id if worker else 0]
        slot[PROCESS_ID] = os.getpid()
        start = self.first + number * self.length
        pieces, index = [], ImageIndex.empty()
        for position in range(start, min(start + self.length, len(self.images))):
            slot[POSITION], slot[STARTED_NS] = position, time.monotonic_ns()
            try:
                image = downscale(self.images.image(position, self.short_side), self.short_side)
                content = self.to_bytes(image)
                pieces.append(content)
                index.extend(ImageIndex([(image.height, image.width)], [len(content)], [zlib.crc32(content)], []))
            except UnreadableImageError as error:
                index.extend(ImageIndex([(0, 0)], [0], [0], [(position, error.reason)]))
        slot[POSITION] = IDLE
        return DecodedChunk(b"".join(pieces), index)


PIXEL_ENCODERS: dict[CacheFormat, Callable[[Any], bytes]] = {
    "pixels": lambda image: image.tobytes(),
    "jpeg": encode_jpeg,
}


def decode_chunks(
    images: ImageSet,
    short_side: int | None,
    *,
    cache_format: CacheFormat,
    first: int,
    mean_bytes: int,
    workers: int,
    timeout: float,
) -> Iterator[DecodedChunk]:
    """Yield the chunks from image `first` on, in order, the same for any number of workers.

    `mean_bytes` per image determines the chunk length. Raises `DataError` that names the file at which a worker died
    or was silent for `timeout` seconds, and whatever the image set raises.
    """
    length = max(1, min(CHUNK_IMAGES, CHUNK_SIZE_BYTES // max(mean_bytes, 1)))
    slots = torch.full((max(workers, 1), 3), IDLE)
    if workers and can_start_workers():
        slots.share_memory_()  # type: ignore[no-untyped-call]
    dataset = ChunkDataset(images, short_side, cache_format, first, length, slots)

    def lost_worker(message: str) -> DataError:
        return lost_decoder_error(images, slots, message)

    batches = [[number] for number in range(len(dataset))]
    for (chunk,) in load_in_workers(dataset, batches, workers, timeout=timeout, lost_worker=lost_worker):
        yield chunk


def lost_decoder_error(images: ImageSet, slots: Tensor, message: str) -> DataError:
    """The error for a worker that died or hangs, naming its image: of several candidates, the longest at work first."""
    died = {int(number) for pids in re.findall(r"pid\(?s?\)? ([\d, ]+)", message) for number in pids.split(",")}
    busy = [slot for slot in slots.tolist() if slot[POSITION] != IDLE]
    suspects = [slot for slot in busy if slot[PROCESS_ID] in died] or sorted(busy, key=lambda slot: slot[STARTED_NS])
    names = " or ".join(repr(images.names[slot[POSITION]]) for slot in suspects) or "an unknown image"
    what = "did not respond" if "timed out" in message else "died"
    remedy = "Remove that file from the data, or give the machine more memory."
    return DataError(f"A worker process {what} while decoding {names}.", message, remedy)
