"""Many .tar files as one data set (`shards/train-{0000..0099}.tar`), and patterns that name several files."""

import dataclasses
import glob
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from lwcl.data.sources.archives import cached_listing, check_not_modified, file_stamp
from lwcl.data.sources.files import OFFSET, SIZE, FileListing, TableRow, missing_path_error, read_image_bytes
from lwcl.data.sources.packed import Coded, PackedNames, PackedTable
from lwcl.data.sources.splits import SPLIT_BY_FOLDER_NAME
from lwcl.data.sources.tar import list_tar
from lwcl.errors import DataError, UsageError
from lwcl.formatting import first_names, plural
from lwcl.settings import expand_home

BRACES = re.compile(r"\{([^{}]*)\}")
NUMBERS = re.compile(r"(\d+)\.\.(\d+)")
MAX_FILES = 100_000  # that a pattern may name
WORDS = re.compile(r"[^A-Za-z]+")  # what separates the words of a shard's name


@dataclasses.dataclass(frozen=True)
class TarShards:
    """The images in several uncompressed .tar files, in the order in which they lie there.

    The last column of the table is the number of the shard. A read opens one shard.
    """

    path: Path  # the pattern
    paths: tuple[Path, ...]
    stamps: tuple[tuple[int, int], ...]

    @property
    def kind(self) -> str:
        """See `FileContainer`."""
        return "tar shards"

    @property
    def names(self) -> list[str]:
        """A name for each shard: its file's, after that of its folder where two have the same."""
        stems = [path.stem for path in self.paths]
        return stems if len(set(stems)) == len(stems) else [f"{path.parent.name}.{path.stem}" for path in self.paths]

    def listing(self) -> FileListing:
        """See `FileContainer`."""
        return cached_listing(self.paths, self.stamps, lambda: join_shards(self.paths, self.names))

    def read(self, name: str, row: TableRow) -> bytes:
        """See `FileContainer`."""
        shard = row[-1]
        check_not_modified(self.paths[shard], self.stamps[shard])
        return read_image_bytes(self.paths[shard], row[OFFSET], row[SIZE])

    def splits(self, names: PackedNames) -> Coded | None:
        """For each image the split that its shard's name says (`imagenet-train-000.tar`); None if none does."""
        said = [split_of_shard(folder.partition("/")[0]) for folder in names.folders]
        return Coded.of(said).taken(names.codes) if any(said) else None


def split_of_shard(name: str) -> str:
    """The split that a shard's name says, or ""."""
    return next((SPLIT_BY_FOLDER_NAME[word] for word in WORDS.split(name.lower()) if word in SPLIT_BY_FOLDER_NAME), "")


def join_shards(paths: Sequence[Path], names: Sequence[str]) -> FileListing:
    """The listing of all shards, read one after the other; the names of images begin with the shard's."""
    parts = [list_tar(path, by_name=False) for path in paths]
    shard = [PackedTable.of([(number,)], 1).columns for number in range(len(parts))]
    tables = [PackedTable((*part.table.columns, *own), part.table.rows) for part, own in zip(parts, shard, strict=True)]
    labels = None
    if any(part.labels for part in parts):
        labels = Coded.joined([part.labels or Coded.constant("", len(part.names)) for part in parts])
    return FileListing(
        PackedNames.joined([part.names.below(f"{name}/") for part, name in zip(parts, names, strict=True)]),
        PackedTable.joined(tables),
        tuple(note for part in parts for note in part.notes),
        labels,
    )


def is_pattern(spec: str) -> bool:
    """Whether a `--data` value names files by braces or wildcards: no file is called so."""
    return bool(BRACES.search(spec) or glob.has_magic(spec)) and not os.path.lexists(expand_home(spec))


def expand_pattern(spec: str) -> list[Path]:
    """The files that a pattern names, sorted. Raises `UsageError` where a named one is missing, or none matches."""
    named = list(itertools.islice(expand_braces(expand_home(spec)), MAX_FILES + 1))
    if len(named) > MAX_FILES:
        raise UsageError(f"{spec!r} names more than {plural(MAX_FILES, 'file')}.", remedy="Check its braces.")
    missing = [name for name in named if not glob.has_magic(name) and not os.path.exists(name)]
    if len(missing) == len(named) == 1:
        raise missing_path_error(Path(missing[0]))
    if missing:
        what = f"{spec!r}: {len(missing):,} of {plural(len(named), 'file')} missing: {first_names(missing, 3)}."
        raise UsageError(what, remedy="Copy them there, or correct the numbers in the braces.")
    found = [path for name in named for path in (sorted(glob.glob(name)) if glob.has_magic(name) else [name])]
    if not found:
        raise UsageError(f"No file matches {spec!r}.", remedy="Check the pattern, such as 'shards/train-*.tar'.")
    return [Path(path) for path in dict.fromkeys(found)]


def expand_braces(text: str) -> Iterator[str]:
    """What a shell makes of `{a,b}` and `{0000..0099}`, without a shell; other braces stay as they are."""
    found = next((one for one in BRACES.finditer(text) if "," in one[1] or NUMBERS.fullmatch(one[1])), None)
    if found is None:
        yield text
        return
    for choice in brace_choices(found[1]):
        for rest in expand_braces(text[found.end() :]):
            yield text[: found.start()] + choice + rest


def brace_choices(inner: str) -> Iterator[str]:
    """What stands between two braces, one after the other; numbers keep their leading zeros."""
    if not (numbers := NUMBERS.fullmatch(inner)):
        yield from inner.split(",")
        return
    first, last = numbers.groups()
    width = len(first) if first.startswith("0") or last.startswith("0") else 0
    step = 1 if int(first) <= int(last) else -1
    for number in range(int(first), int(last) + step, step):
        yield f"{number:0{width}}"


def open_shards(spec: str, paths: Sequence[Path]) -> TarShards:
    """These files as one container. Raises `DataError` for a file that is none or cannot be read."""
    try:
        return TarShards(Path(spec), tuple(paths), tuple(map(file_stamp, paths)))
    except OSError as error:
        raise DataError(f"Cannot read {error.filename!r}.", f"{error.strerror}.") from None
