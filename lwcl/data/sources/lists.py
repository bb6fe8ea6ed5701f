"""Lists of image files: plain paths, or a table of paths with labels, as text in any of the usual encodings."""

import codecs
import collections
import csv
import functools
import os
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from lwcl.data.native import UnreadableImageError
from lwcl.data.sources.files import (
    IMAGE_SUFFIXES,
    SIZE,
    VIDEO_SUFFIXES,
    FileEntry,
    FileListing,
    TableRow,
    make_listing,
    read_image_bytes,
    walk_images,
)
from lwcl.data.sources.packed import Coded
from lwcl.data.sources.splits import OTHER_SPLIT, SPLIT_BY_FOLDER_NAME
from lwcl.errors import DataError
from lwcl.formatting import plural

LIST_SUFFIXES = (".txt", ".csv", ".tsv", ".lst")
STDIN = "-"
#: Byte order marks, the longer ones first; text without one is UTF-8.
ENCODINGS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
DELIMITERS = (",", ";", "\t", "|", " ")
PATH_COLUMNS = (
    *("path", "file", "filename", "file_name", "filepath", "image", "img", "image_path", "name", "id"),
    *("image_id", "image_name", "img_id", "id_code", "file_id"),
)
LABEL_COLUMNS = ("label", "class", "class_name", "category", "target", "species", "y")
SPLIT_COLUMNS = ("split", "set", "subset", "fold")
MAX_SNIFFED_LINES = 1000  # of a list, from which its format is detected


class ListedFile(NamedTuple):
    """A line of a list: the path as written, and the label and the split if the list has them."""

    path: str
    label: str = ""
    split: str = ""


def is_pipe(path: Path) -> bool:
    """Whether what is there can be read once only."""
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except OSError:
        return False


def read_list(path: Path) -> tuple[ListedFile, ...]:
    """The lines of a list; of a pipe, and of `-` (stdin), also when it is asked for again. Raises `DataError`."""
    try:
        if str(path) == STDIN or is_pipe(path):
            return parse_list(read_pipe(str(path)))
        return parse_list(path.read_bytes())
    except OSError as error:
        raise DataError(f"Cannot read {str(path)!r}.", f"{error.strerror}.") from None


@functools.cache
def read_pipe(path: str) -> bytes:
    """What a pipe holds, kept: it can be read once only."""
    return sys.stdin.buffer.read() if path == STDIN else Path(path).read_bytes()


def parse_list(data: bytes) -> tuple[ListedFile, ...]:
    """The files that a list names: a path per line (or NUL), or a table whose delimiter and columns are found."""
    encoding = next((name for mark, name in ENCODINGS if data.startswith(mark)), "utf-8")
    text = data.decode(encoding, "surrogateescape" if encoding.startswith("utf-8") else "replace")
    lines = [line.strip() for line in text.replace("\0", "\n").splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    delimiter = find_delimiter(lines[:MAX_SNIFFED_LINES])
    if not delimiter:
        return tuple(ListedFile(line) for line in lines)
    return tuple(table_rows(list(split_lines(lines, delimiter))))


def has_image_suffix(name: str) -> bool:
    """Whether a field can be the path of an image or a video."""
    return name.lower().endswith(IMAGE_SUFFIXES + VIDEO_SUFFIXES)


def find_delimiter(lines: Sequence[str]) -> str:
    """What separates paths from labels: the delimiter with most rows of several fields, one an image; "" for none."""
    if 2 * sum(map(has_image_suffix, lines)) > len(lines) and not header_delimiter(lines):
        return ""
    counts = {
        delimiter: sum(len(row) > 1 and any(map(has_image_suffix, row)) for row in split_lines(lines, delimiter))
        for delimiter in DELIMITERS
    }
    best = max(DELIMITERS, key=lambda delimiter: counts[delimiter])
    return best if counts[best] else header_delimiter(lines)  # names may have no suffix


def header_delimiter(lines: Sequence[str]) -> str:
    """What separates the names of columns in the first line (`label,path`); "" if it is no such line."""
    first = lines[0].lower() if lines else ""
    names = {delimiter: first.split(delimiter) for delimiter in DELIMITERS}
    return next((one for one in DELIMITERS if len(names[one]) > 1 and {*names[one]} & {*PATH_COLUMNS}), "")


def split_lines(lines: Sequence[str], delimiter: str) -> Iterator[list[str]]:
    """The fields of each line, unquoted; blanks separate a label from a path that may hold blanks itself."""
    if delimiter == " ":
        for line in lines:
            yield line.rsplit(None, 1) if has_image_suffix(line.rsplit(None, 1)[0]) else line.split(None, 1)
        return
    for row in csv.reader(lines, delimiter=delimiter, skipinitialspace=True):
        yield [field.strip() for field in row]


def table_rows(rows: list[list[str]]) -> Iterator[ListedFile]:
    """The rows of a table as files. Its columns are those of its header, else told by what they hold."""
    header = [] if any(map(has_image_suffix, rows[0])) else [name.lower() for name in rows.pop(0)]
    width = max(map(len, rows), default=0)
    images = [sum(len(row) > column and has_image_suffix(row[column]) for row in rows) for column in range(width)]
    path = max(range(width), key=lambda column: images[column], default=0)
    path = path if any(images) else named_column(header, PATH_COLUMNS) or 0
    label, split = (named_column(header, names) for names in (LABEL_COLUMNS, SPLIT_COLUMNS))
    if label is None:
        label = next((column for column in range(width) if column not in (path, split)), None)
    for row in rows:
        fields = [row[column] if column is not None and column < len(row) else "" for column in (path, label, split)]
        if fields[0]:
            yield ListedFile(*fields)


def named_column(header: Sequence[str], names: Sequence[str]) -> int | None:
    """The column of one of these names."""
    return next((header.index(name) for name in names if name in header), None)


class ImageListFile(NamedTuple):
    """The files that a list names, relative to the list's folder, or to the working folder where the list is a pipe."""

    path: Path

    @property
    def kind(self) -> str:
        """See `FileContainer`."""
        return "files"

    @property
    def folder(self) -> Path:
        """What the paths are relative to."""
        return Path() if str(self.path) == STDIN or is_pipe(self.path) else self.path.parent

    def files(self) -> dict[str, ListedFile]:
        """The lines of the list by the name of their file; where none is there, see `find_files`."""
        rows = {os.path.normpath(os.path.expanduser(row.path)): row for row in read_list(self.path)}
        if any(os.path.exists(self.folder / name) for name in rows):
            return rows
        found = find_files(self.folder, rows)
        return {found.get(name, name): row for name, row in rows.items()}

    def listing(self) -> FileListing:
        """See `FileContainer`. Missing files have size -1; `DataError` if all are missing."""
        rows = self.files()
        entries = {name: file_entry(self.folder / name) for name in rows}
        if entries and all(entry[SIZE] < 0 for entry in entries.values()):
            raise DataError(
                f"None of the {plural(len(entries), 'file')} in {str(self.path)!r} exists.",
                f"Looked for {str(self.folder / next(iter(entries)))!r}.",
                "Paths are relative to the list's own folder; a table is read by its columns, such as path,label.",
            )
        listing = make_listing(entries, self.path, "The list names no files.")
        known = [rows[name] for name in listing.names]
        labels = Coded.of([row.label for row in known])
        splits = Coded.of([SPLIT_BY_FOLDER_NAME.get(row.split.lower(), row.split and OTHER_SPLIT) for row in known])
        return listing._replace(
            notes=(*listing.notes, *self.notes(listing, rows)),
            labels=labels if labels.present - {""} else None,
            splits=splits if splits.present - {""} else None,
        )

    def read(self, name: str, row: TableRow) -> bytes:
        """See `FileContainer`."""
        if row[SIZE] < 0:
            raise UnreadableImageError("no such file")
        return read_image_bytes(self.folder / name)

    def notes(self, listing: FileListing, rows: Mapping[str, ListedFile]) -> Iterator[str]:
        """What is to be said of the list: files that are missing or not where it says, and labels."""
        absent = (listing.table.column(SIZE) < 0).nonzero()[0]
        if missing := len(absent):
            first = listing.names[int(absent[0])]
            whole = plural(len(listing.names), "file")
            yield f"{missing:,} of {whole} in {str(self.path)!r} missing, such as {first!r}."
        if moved := sum(name != os.path.normpath(os.path.expanduser(row.path)) for name, row in rows.items()):
            whole = plural(len(rows), "name")
            yield f"{moved:,} of {whole} in {str(self.path)!r} are no paths: their files were found below its folder."
        if labels := {row.label for row in rows.values()} - {""}:
            yield f"{str(self.path)!r} is read as paths with labels: {plural(len(labels), 'class', 'classes')}."


def find_files(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """The files below `folder` that names mean that are no paths there, where there is one such file."""
    places = [place for place, _ in walk_images(str(folder), "", str(folder), None, False, collections.Counter())]
    index = NameIndex(places)
    found = ((name, index.find(name)) for name in names)
    return {name: places[place] for name, place in found if place is not None}


class NameIndex:
    """Finds images by what people write for them: paths, also of another machine or with backslashes, and names.

    Such a name may lack folders or the suffix.
    """

    def __init__(self, places: Sequence[str]) -> None:
        self.places, self._by_name = places, dict[str, list[int]]()
        for number, place in enumerate(places):
            base = os.path.basename(place)
            for key in {base, os.path.splitext(base)[0]}:
                self._by_name.setdefault(key, []).append(number)

    def find(self, name: str) -> int | None:
        """The position of the one image that a name means; of several, the one whose folders agree; None if none."""
        path = os.path.normpath(os.path.expanduser(name.replace("\\", "/")))
        candidates = self._by_name.get(os.path.basename(path), [])
        agreeing = [one for one in candidates if self._agrees(path, self.places[one])]
        found = [one for one in agreeing if self.places[one] == path] or agreeing or candidates
        return found[0] if len(found) == 1 else None

    def _agrees(self, path: str, place: str) -> bool:
        """Whether one of two paths ends as the other, suffixes aside."""
        own, other = (
            f"/{one}" if os.path.splitext(path)[1] else f"/{os.path.splitext(one)[0]}" for one in (path, place)
        )
        return own.endswith(other) or other.endswith(own)


def file_entry(path: Path) -> FileEntry:
    """The table row of one file; its size is -1 if it is missing."""
    try:
        info = os.stat(path)
    except OSError:
        return (-1,) * 6
    return (info.st_size, info.st_mtime_ns, -1, -1, -1, -1) if stat.S_ISREG(info.st_mode) else (-1,) * 6
