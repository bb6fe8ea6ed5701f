"""Decoded batches kept in memory, so that the next encoder that is evaluated needs no decoding."""

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Generic, TypeVar

from lwcl.system.limits import available_memory

MAX_MEMORY_SHARE = 0.25  # of the available memory

B = TypeVar("B")


class BatchCache(Generic[B]):
    """Batches by key, kept where they take less than `MAX_MEMORY_SHARE` of the available memory."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, list[B]] = {}

    def batches(self, key: Hashable, size: int, decode: Callable[[], Iterable[B]]) -> Iterator[B]:
        """The batches of a key, `size` bytes together, from memory or decoded anew."""
        if key in self._kept:
            yield from self._kept[key]
            return
        fits = size < MAX_MEMORY_SHARE * available_memory()
        kept: list[B] = []
        for batch in decode():
            if fits:
                kept.append(batch)
            yield batch
        if fits:
            self._kept[key] = kept
