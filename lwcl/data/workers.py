"""Worker processes that make the items of batches; batches come in order whatever the number of workers."""

import functools
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch.utils.data import DataLoader, Dataset

from lwcl.errors import DataError, LwclError
from lwcl.system.limits import usable_cpus
from lwcl.system.shared_memory import (
    SHARED_MEMORY_REMEDY,
    can_start_workers,
    pack_tensors,
    pipes_reason,
    unpack_tensors,
)

WORKER_TIMEOUT = 120.0  # seconds after which a silent worker counts as hung
MIN_IMAGES_FOR_WORKERS = 2000  # fewer are decoded before worker processes have started


def worker_count(workers: int | None, images: int) -> int:
    """The number of worker processes: `workers`, or one per usable CPU; 0 for few images."""
    return (usable_cpus() if workers is None else workers) if images > MIN_IMAGES_FOR_WORKERS else 0


def lost_worker_error(message: str) -> DataError:
    """The error for a worker that died or hangs; `message` is torch's."""
    remedy = f"Give the machine more memory, or fewer --workers. {SHARED_MEMORY_REMEDY}"
    return DataError("A worker process died or hangs.", message, remedy)


def load_in_workers(
    dataset: Dataset[Any],
    batches: Iterable[list[Any]],
    workers: int,
    *,
    timeout: float = WORKER_TIMEOUT,
    lost_worker: Callable[[str], DataError] = lost_worker_error,
) -> Iterator[Any]:
    """What `dataset` returns for each batch, in order, from worker processes (0: from this one).

    That is a list of items, or what its `__getitems__` returns. Raises `lost_worker(message)` if a worker dies or is
    silent for `timeout` seconds, and an `LwclError` of a worker as it was raised there. Where the system lets no worker
    be started, this process does the work.
    """
    workers = workers if can_start_workers() else 0
    guarded = ErrorReturningDataset(dataset, packs=workers > 0 and bool(pipes_reason()))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This DataLoader will create")  # torch's advice on the number of workers
            loader = DataLoader(
                guarded,
                batch_sampler=batches,
                num_workers=workers,
                collate_fn=keep_items,
                timeout=timeout if workers else 0,
                worker_init_fn=functools.partial(exit_with_parent, os.getpid()) if workers else None,
            )
            items = iter(loader)
        for item in items:
            if isinstance(item, LwclError):
                raise item
            yield unpack_tensors(item) if guarded.packs else item
    except RuntimeError as error:
        if "DataLoader" not in str(error):
            raise
        raise lost_worker(" ".join(str(error).split())[:200]) from None


def exit_with_parent(parent: int, worker: int) -> None:
    """Ends this process once its parent is gone: torch's own check waits for a batch that nobody reads to be sent."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, name=f"parent of worker {worker}", daemon=True).start()


class ErrorReturningDataset(Dataset[Any]):
    """A data set that returns its errors: raised in a worker, they would arrive as the text of a traceback.

    `packs`: it returns arrays in the place of tensors, which would be sent through shared memory.
    """

    def __init__(self, dataset: Dataset[Any], *, packs: bool = False) -> None:
        self.dataset, self.packs = dataset, packs

    def __getitems__(self, batch: list[Any]) -> Any:
        get_items = getattr(self.dataset, "__getitems__", lambda batch: [self.dataset[item] for item in batch])
        try:
            return pack_tensors(get_items(batch)) if self.packs else get_items(batch)
        except LwclError as error:
            return error


def keep_items(items: list[Any]) -> list[Any]:
    """A `collate_fn` that leaves the items as they are."""
    return items
