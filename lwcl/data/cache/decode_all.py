"""All images of a set decoded in order, by this process or by workers, a chunk at a time.

Processes, not threads: two threads decoded no faster than one (CIFAR-10 0.6x, 224 px JPEG 0.95x), since most of
Pillow's work holds the interpreter's lock. A chunk comes back as bytes through a pipe, so a small /dev/shm is no
danger.
"""

import os
import re
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from lwcl.data.cache.pixels import ImageIndex
from lwcl.data.dataset import ImageSet
from lwcl.data.decode import UnreadableImageError, downscale, encode_jpeg
from lwcl.data.workers import iterate_data_loader
from lwcl.errors import DataError, LwclError

CHUNK_BYTES = 4 * 2**20
CHUNK_IMAGES = 256
IDLE = -1
PROCESS, IMAGE, SINCE = range(3)  # what a worker says of itself: its id, the image it is at, since when (ns)
CacheFormat = Literal["pixels", "jpeg"]  # of an image's bytes: (height, width, 3), or a file
ProgressCallback = Callable[[int, int], None]  # is told how many of how many images are done


class DecodedChunk(NamedTuple):
    """Images in order: their bytes, in the `Form` that was asked for, and what is known of them."""

    content: bytes
    rows: ImageIndex
    failure: LwclError | None = None


class ChunkDataset(Dataset[DecodedChunk]):
    """Chunk k: the images from `first + k * length` on, shrunk. A worker notes in `slots` which image it is at."""

    def __init__(
        self, images: ImageSet, short_side: int | None, form: CacheFormat, first: int, length: int, slots: Tensor
    ) -> None:
        self.images, self.short_side, self.form = images, short_side, PIXEL_ENCODERS[form]
        self.first, self.length, self.slots = first, length, slots

    def __len__(self) -> int:
        return -(-(len(self.images) - self.first) // self.length)

    def __getitem__(self, number: int) -> DecodedChunk:
        worker = get_worker_info()
        slot = self.slots[worker.id if worker else 0]
        slot[PROCESS] = os.getpid()
        start = self.first + number * self.length
        pieces, rows = [], ImageIndex([], [], [], [])
        for position in range(start, min(start + self.length, len(self.images))):
            slot[IMAGE], slot[SINCE] = position, time.monotonic_ns()
            try:
                image = downscale(self.images.image(position, self.short_side), self.short_side)
                pieces.append(self.form(image))
                rows.extend(ImageIndex([(image.height, image.width)], [len(pieces[-1])], [zlib.crc32(pieces[-1])], []))
            except UnreadableImageError as error:
                rows.extend(ImageIndex([(0, 0)], [0], [0], [(position, error.reason)]))
            except LwclError as error:  # raised in a worker it would come back as a traceback
                return DecodedChunk(b"", ImageIndex([], [], [], []), error)
        slot[IMAGE] = IDLE
        return DecodedChunk(b"".join(pieces), rows)


PIXEL_ENCODERS: dict[CacheFormat, Callable[[Image.Image], bytes]] = {"pixels": Image.Image.tobytes, "jpeg": encode_jpeg}


def decode_chunks(
    images: ImageSet,
    short_side: int | None,
    *,
    form: CacheFormat = "pixels",
    first: int,
    mean_bytes: int,
    workers: int,
    timeout: float,
) -> Iterator[DecodedChunk]:
    """Yield the chunks from image `first` on, in order, the same for any number of workers.

    `mean_bytes` an image sets how many make a chunk. Raises `DataError` that names the file at which a worker died
    or was silent for `timeout` seconds, and what the set itself raises.
    """
    length = max(1, min(CHUNK_IMAGES, CHUNK_BYTES // max(mean_bytes, 1)))
    slots: Tensor = torch.full((max(workers, 1), 3), IDLE).share_memory_()  # type: ignore[no-untyped-call]
    chunks = ChunkDataset(images, short_side, form, first, length, slots)
    wait = timeout if workers else 0
    try:
        for chunk in iterate_data_loader(
            chunks, batch_size=None, num_workers=workers, collate_fn=uncollated, timeout=wait
        ):
            if chunk.failure:
                raise chunk.failure
            yield chunk
    except RuntimeError as error:
        if "DataLoader" not in str(error):
            raise
        raise lost_worker_error(images, slots, str(error)) from None


def uncollated(chunk: Any) -> Any:
    """Keeps the loader from turning bytes into tensors."""
    return chunk


def lost_worker_error(images: ImageSet, slots: Tensor, message: str) -> DataError:
    """The error for a worker that died or hangs: the images it, or all of them, were at, the longest at work first."""
    died = {int(number) for pids in re.findall(r"pid\(?s?\)? ([\d, ]+)", message) for number in pids.split(",")}
    busy = [slot for slot in slots.tolist() if slot[IMAGE] != IDLE]
    at_fault = [slot for slot in busy if slot[PROCESS] in died] or sorted(busy, key=lambda slot: slot[SINCE])
    names = " or ".join(repr(images.names[slot[IMAGE]]) for slot in at_fault) or "an unknown image"
    what = "was silent for too long" if "timed out" in message else "died"
    remedy = "Take that file out of the data, or give the machine more memory."
    return DataError(f"A worker {what} while it decoded {names}.", " ".join(message.split())[:200], remedy)
