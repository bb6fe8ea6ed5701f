"""Worker processes that load batches, in order for any number of workers."""

import warnings
from collections.abc import Iterable, Iterator
from typing import Any

from torch.utils.data import DataLoader, Dataset

from lwcl.errors import DataError, LwclError
from lwcl.system.cpu import usable_cpus

WORKER_TIMEOUT = 120.0  # seconds after which a worker counts as hung
MIN_IMAGES_FOR_WORKERS = 2000  # up to so many are decoded sooner than worker processes start


def worker_count(workers: int | None, images: int) -> int:
    """How many worker processes decode so many images: `workers`, or one per usable CPU; 0 for few images."""
    return (usable_cpus() if workers is None else workers) if images > MIN_IMAGES_FOR_WORKERS else 0


def load_in_workers(dataset: Dataset[Any], batches: Iterable[list[Any]], workers: int) -> Iterator[Any]:
    """The items of `dataset` for each batch, in order, loaded by worker processes (0: by this process).

    A batch is a list of items, or what `__getitems__` of the data set returns. Raises `DataError` if a worker died, and
    an `LwclError` of a worker as it was raised there.
    """
    timeout = WORKER_TIMEOUT if workers else 0
    try:
        guarded = ErrorReturningDataset(dataset)
        for items in iterate_data_loader(
            guarded, batch_sampler=batches, num_workers=workers, collate_fn=keep_items, timeout=timeout
        ):
            if isinstance(items, LwclError):
                raise items
            yield items
    except RuntimeError as error:
        if "DataLoader" not in str(error):
            raise
        raise DataError(
            "A worker process died or hangs.",
            " ".join(str(error).split())[:200],
            "Give the machine more memory, or fewer --workers.",
        ) from None


class ErrorReturningDataset(Dataset[Any]):
    """A data set that returns its errors: raised in a worker, they would arrive as the text of a traceback."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __getitems__(self, batch: list[Any]) -> Any:
        get = getattr(self.dataset, "__getitems__", lambda batch: [self.dataset[item] for item in batch])
        try:
            return get(batch)
        except LwclError as error:
            return error


def iterate_data_loader(dataset: Dataset[Any], **options: Any) -> Iterator[Any]:
    """The batches of a `DataLoader`, without its warning about the number of workers."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")
        return iter(DataLoader(dataset, **options))


def keep_items(items: list[Any]) -> list[Any]:
    """Collates nothing: items stay as they are."""
    return items
