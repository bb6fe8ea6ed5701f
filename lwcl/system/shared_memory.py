"""Shared memory (/dev/shm), which worker processes need: containers have 64 MB of it, some have none or may not write.

Without any, no worker can be started; where it is small, batches come through pipes, which a full one cannot stop.
"""

import multiprocessing
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108
MIN_FREE_BYTES = 2**30  # a few batches of large images of each worker
SHARED_MEMORY_REMEDY = "A container gets more by --shm-size 2g (Docker, Podman); --workers 0 needs none."


def can_start_workers() -> bool:
    """Whether this process can make the semaphores by which it talks with workers."""
    try:
        multiprocessing.get_context().Semaphore(1)
    except OSError:
        return False
    return True


def is_shared_memory_small() -> bool:
    """Whether batches of images may not fit into the shared memory that is free; where it is no folder, they do."""
    try:
        free = os.statvfs(SHARED_MEMORY)
    except OSError:
        return False
    return free.f_bavail * free.f_frsize < MIN_FREE_BYTES


def shared_memory_warning() -> str:
    """What is wrong with the shared memory, what is done instead, and what to do; "" if nothing is."""
    if not can_start_workers():
        return f"{SHARED_MEMORY} cannot be used: images are decoded without workers. {SHARED_MEMORY_REMEDY}"
    if not is_shared_memory_small():
        return ""
    return f"{SHARED_MEMORY} is small: workers send their batches through pipes. {SHARED_MEMORY_REMEDY}"


class PackedTensor(NamedTuple):
    """A tensor in the order of its memory, as an array: sent as bytes, where a tensor would be shared."""

    array: npt.NDArray[Any]
    order: tuple[int, ...]  # of the dimensions


def pack_tensors(value: Any) -> Any:
    """The value with every tensor in its tuples, lists and dicts packed."""
    if isinstance(value, Tensor):
        order = tuple(sorted(range(value.ndim), key=value.stride, reverse=True))
        return PackedTensor(value.permute(order).numpy(), order)
    return map_items(value, pack_tensors)


def unpack_tensors(value: Any) -> Any:
    """What was packed, with tensors of the same values and layout."""
    if isinstance(value, PackedTensor):
        return torch.from_numpy(value.array).permute(tuple(np.argsort(value.order)))
    return map_items(value, unpack_tensors)


def map_items(value: Any, change: Any) -> Any:
    """A tuple, list or dict with `change` of each item; anything else as it is."""
    if isinstance(value, dict):
        return {key: change(item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(change, value))
    return type(value)(map(change, value)) if isinstance(value, list | tuple) else value
