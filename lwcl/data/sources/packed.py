"""Names, classes and table rows of many images in a few arrays: some 30 bytes an image, where lists need 300.

The arrays may be memory-mapped from an index on disk (see `index_file`): then processes share them, and no more of
them is in memory than is used.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
IndexArray = npt.NDArray[np.int64]


def smallest(values: Array) -> Array:
    """Integers in the smallest type that holds them all."""
    if not len(values):
        return values.astype(np.uint8)
    return values.astype(np.result_type(np.min_scalar_type(int(values.min())), np.min_scalar_type(int(values.max()))))


def encoded(text: str) -> bytes:
    """A name as bytes; what was no UTF-8 on the disk is what it was there."""
    return text.encode("utf-8", "surrogateescape")


class Coded(Sequence[str]):
    """Strings of which many are equal: a number into `values` for each."""

    def __init__(self, codes: Array, values: tuple[str, ...]) -> None:
        self.codes, self.values = codes, values

    @classmethod
    def of(cls, strings: Sequence[str]) -> "Coded":
        """The packed form of these strings."""
        if isinstance(strings, Coded):
            return strings
        numbers: dict[str, int] = {}
        codes = np.fromiter((numbers.setdefault(one, len(numbers)) for one in strings), np.int64, len(strings))
        return cls(smallest(codes), tuple(numbers))

    @classmethod
    def constant(cls, value: str, count: int) -> "Coded":
        """The same string for all."""
        return cls(np.zeros(count, np.uint8), (value,))

    @classmethod
    def joined(cls, parts: Sequence["Coded"]) -> "Coded":
        """The strings of all parts, one part after the other."""
        numbers: dict[str, int] = {}
        tables = [np.array([numbers.setdefault(one, len(numbers)) for one in part.values] or [0]) for part in parts]
        codes = [smallest(table)[part.codes] for table, part in zip(tables, parts, strict=True)]
        return cls(np.concatenate(codes), tuple(numbers))

    @functools.cached_property
    def present(self) -> frozenset[str]:
        """The strings that occur."""
        counts = np.bincount(self.codes, minlength=len(self.values))
        return frozenset(value for value, count in zip(self.values, counts, strict=False) if count)

    def taken(self, positions: Array) -> "Coded":
        """The strings at these positions."""
        return Coded(self.codes[positions], self.values)

    def mask(self, *values: str) -> npt.NDArray[np.bool_]:
        """Which of the strings (N,) are one of these."""
        return np.array([value in values for value in self.values] or [False])[self.codes]

    def count(self, value: str) -> int:
        """How many are this string."""
        return int(self.mask(value).sum())

    def __len__(self) -> int:
        return len(self.codes)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> "Coded": ...
    def __getitem__(self, index: int | slice) -> "str | Coded":
        if isinstance(index, slice):
            return Coded(self.codes[index], self.values)
        value: str = self.values[self.codes[index]]
        return value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


class PackedNames(Sequence[str]):
    """Relative paths: the folder of each is a number into `folders`, its last part lies in one text, ended by a zero.

    `codes`, `starts` (in `text`) and `lengths` (in bytes) are integer arrays (N,); `folders` end in `/`.
    """

    def __init__(self, folders: tuple[str, ...], codes: Array, text: Array, starts: Array, lengths: Array) -> None:
        self.folders, self.codes, self.text, self.starts, self.lengths = folders, codes, text, starts, lengths

    @classmethod
    def of(cls, names: Sequence[str]) -> "PackedNames":
        """The packed form of these names."""
        if isinstance(names, PackedNames):
            return names
        parts = [name.rpartition("/") for name in names]
        folders = Coded.of([above + slash for above, slash, _ in parts])
        pieces = [encoded(last) for _, _, last in parts]
        lengths = np.fromiter(map(len, pieces), np.int64, len(pieces))
        text = np.frombuffer(b"\0".join([*pieces, b""]), np.uint8)
        starts = np.cumsum(lengths + 1) - lengths - 1
        return cls(folders.values, folders.codes, text, smallest(starts), smallest(lengths))

    @classmethod
    def joined(cls, parts: Sequence["PackedNames"]) -> "PackedNames":
        """The names of all parts, one part after the other."""
        if len(parts) == 1:
            return parts[0]
        folders = Coded.joined([Coded(part.codes, part.folders) for part in parts])
        offsets = np.cumsum([0, *(len(part.text) for part in parts)])
        starts = [part.starts.astype(np.int64) + offset for part, offset in zip(parts, offsets, strict=False)]
        text, lengths = (np.concatenate([getattr(part, name) for part in parts]) for name in ("text", "lengths"))
        return cls(folders.values, folders.codes, text, smallest(np.concatenate(starts)), lengths)

    def below(self, prefix: str) -> "PackedNames":
        """The names with a prefix that ends in `/`."""
        folders = tuple(prefix + folder for folder in self.folders)
        return PackedNames(folders, self.codes, self.text, self.starts, self.lengths)

    def without_first_folder(self) -> "PackedNames":
        """The names without their first folder."""
        folders = tuple(folder.partition("/")[2] for folder in self.folders)
        return PackedNames(folders, self.codes, self.text, self.starts, self.lengths)

    def select(self, positions: Array) -> "PackedNames":
        """The names at these positions, in this order; they share the text."""
        columns = (self.starts[positions], self.lengths[positions])
        return PackedNames(self.folders, self.codes[positions], self.text, *columns)

    def ending_in(self, suffixes: Iterable[str]) -> IndexArray:
        """The positions of the names with one of these endings, in lower case or not."""
        found = np.zeros(len(self), np.bool_)
        ends = self.starts.astype(np.int64) + self.lengths
        for suffix in map(encoded, suffixes):
            here = np.flatnonzero(self.lengths >= len(suffix))
            for place, letter in enumerate(suffix):
                letters = self.text[ends[here] - len(suffix) + place]
                here = here[np.isin(letters, list({letter, ord(chr(letter).upper())}))]
            found[here] = True
        return np.flatnonzero(found)

    def last_part(self, index: int) -> str:
        """A name without its folder."""
        start = int(self.starts[index])
        return self.text[start : start + int(self.lengths[index])].tobytes().decode("utf-8", "surrogateescape")

    def text_pieces(self) -> Iterator[bytes]:
        """The bytes of all names, each ended by a zero: a piece for each run of names of one folder."""
        if not len(self):
            return
        starts, lengths = self.starts.astype(np.int64), self.lengths.astype(np.int64)
        apart = (np.diff(self.codes.astype(np.int64)) != 0) | (starts[1:] != starts[:-1] + lengths[:-1] + 1)
        firsts = [0, *(np.flatnonzero(apart) + 1).tolist()]
        for first, last in zip(firsts, [*firsts[1:], len(self)], strict=True):
            folder = encoded(self.folders[self.codes[first]])
            piece = self.text[starts[first] : starts[last - 1] + lengths[last - 1] + 1].tobytes()
            yield folder + piece[:-1].replace(b"\0", b"\0" + folder) + b"\0"

    def __len__(self) -> int:
        return len(self.codes)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> "PackedNames": ...
    def __getitem__(self, index: int | slice) -> "str | PackedNames":
        if isinstance(index, slice):
            return self.select(np.arange(len(self))[index])
        folder: str = self.folders[self.codes[index]]
        return folder + self.last_part(index)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


@dataclasses.dataclass(frozen=True, eq=False)
class PackedTable:
    """Rows of integers by column: each (N,) in its smallest type, or (1,) where all rows have the same value."""

    columns: tuple[Array, ...]
    rows: int

    @classmethod
    def of(cls, rows: Iterable[tuple[int, ...]], width: int) -> "PackedTable":
        """The packed form of these rows."""
        table = np.array(list(rows), dtype=np.int64).reshape(-1, width)
        return cls(tuple(map(pack_column, table.T)), len(table))

    @classmethod
    def joined(cls, parts: Sequence["PackedTable"]) -> "PackedTable":
        """The rows of all parts, one part after the other."""
        columns = zip(*([np.broadcast_to(c, part.rows) for c in part.columns] for part in parts), strict=True)
        return cls(tuple(pack_column(np.concatenate(column)) for column in columns), sum(part.rows for part in parts))

    def row(self, index: int) -> tuple[int, ...]:
        """One row."""
        return tuple(int(column[index if len(column) > 1 else 0]) for column in self.columns)

    def column(self, number: int) -> Array:
        """One column (N,)."""
        return np.broadcast_to(self.columns[number], self.rows)

    def __getitem__(self, rows: Array) -> IndexArray:
        """These rows, int64 (len(rows), columns)."""
        return np.stack([self.column(number)[rows].astype(np.int64) for number in range(len(self.columns))], axis=1)


def pack_column(values: Array) -> Array:
    """A column in its smallest form; see `PackedTable`."""
    return smallest(values[:1] if len(values) and (values == values[0]).all() else values)
