"""Shared memory (/dev/shm), which worker processes need: containers have 64 MB of it, some have none or may not write.

Without any, no worker can be started; where it is small, batches come through pipes, which a full one cannot stop.
"""

import multiprocessing
import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108
MAX_SOCKET_NAME = 107  # unix(7)
MIN_FREE_BYTES = 2**30  # a few batches of large images of each worker
SHARED_MEMORY_REMEDY = "A container gets more by --shm-size 2g (Docker, Podman); --workers 0 needs none."


def no_workers_reason() -> str:
    """Why this process can start no workers; "" if it can. They talk by semaphores."""
    if multiprocessing.current_process().daemon:
        return "A daemonic process may start no others (multiprocessing.Pool, celery)"
    try:
        multiprocessing.get_context().Semaphore(1)
    except OSError:
        return f"{SHARED_MEMORY} cannot be used"
    return ""


def can_start_workers() -> bool:
    """Whether this process can start workers."""
    return not no_workers_reason()


def pipes_reason() -> str:
    """Why batches come through pipes; "" where they come through shared memory.

    A tensor is shared through a socket in the folder of temporary files, whose name can be too long for one.
    """
    if is_shared_memory_small():
        return f"{SHARED_MEMORY} is small"
    if len(os.fsencode(tempfile.gettempdir())) + len("/pymp-12345678/listener-12345678") > MAX_SOCKET_NAME:
        return "The name of the folder of temporary files (TMPDIR) is too long for sockets"
    return ""


def is_shared_memory_small() -> bool:
    """Whether batches of images may not fit into the shared memory that is free; where it is no folder, they do."""
    try:
        free = os.statvfs(SHARED_MEMORY)
    except OSError:
        return False
    return free.f_bavail * free.f_frsize < MIN_FREE_BYTES


def shared_memory_warning() -> str:
    """What keeps workers from sharing memory, what is done instead, and what to do; "" if nothing does."""
    if reason := no_workers_reason():
        return f"{reason}: images are decoded without workers. {SHARED_MEMORY_REMEDY}"
    reason = pipes_reason()
    return reason and f"{reason}: workers send their batches through pipes. {SHARED_MEMORY_REMEDY}"


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
