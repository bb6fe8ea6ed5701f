"""Worker processes: they make the items of batches, which come in order whatever their number."""

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
    """What `dataset` gives for each batch, in order, made by worker processes (0: by this one).

    That is a list of items, or what its `__getitems__` returns. A lost worker is a `DataError`; an `LwclError` of a
    worker is raised here as it was there.
    """
    timeout = WORKER_TIMEOUT if workers else 0
    try:
        guarded = ErrorReturningDataset(dataset)
        for found in iterate_data_loader(
            guarded, batch_sampler=batches, num_workers=workers, collate_fn=keep_items, timeout=timeout
        ):
            if isinstance(found, LwclError):
                raise found
            yield found
    except RuntimeError as error:
        if "DataLoader" not in str(error):
            raise
        raise DataError(
            "A process that decodes images died or hangs.",
            " ".join(str(error).split())[:200],
            "Give the machine more memory, or fewer --workers.",
        ) from None


class ErrorReturningDataset(Dataset[Any]):
    """A data set that returns its errors: raised in a worker, they would come back as the text of a traceback."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __getitems__(self, places: list[Any]) -> Any:
        several = getattr(self.dataset, "__getitems__", lambda places: [self.dataset[place] for place in places])
        try:
            return several(places)
        except LwclError as error:
            return error


def iterate_data_loader(dataset: Dataset[Any], **options: Any) -> Iterator[Any]:
    """What a `DataLoader` gives, without its opinion on the number of workers: that is the user's, or a rule's."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")
        return iter(DataLoader(dataset, **options))


def keep_items(items: list[Any]) -> list[Any]:
    """Keeps the loader from stacking items itself."""
    return items
