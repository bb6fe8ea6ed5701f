"""Where the bytes of images come from: folders and lists of paths here, archives in archives.py. Nothing is written.

A source holds a path and no open file: every read opens what it needs (about 10 us), so a source can be pickled,
forked and used by threads, and leaks nothing.
"""

import difflib
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from lwcl.data.decode import UnreadableImageError
from lwcl.errors import DataError, UsageError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
MAX_FILE_BYTES = 512 * 2**20  # of one image file
SIZE, MODIFIED, CHECKSUM, OFFSET, STORED, METHOD = range(6)  # columns of a listing's table; -1 where a source has none
FileEntry = tuple[int, int, int, int, int, int]


class FileListing(NamedTuple):
    """The images of a source: names (relative paths with `/`, sorted) and, for each, a row of six int64 numbers."""

    names: list[str]
    table: npt.NDArray[np.int64]


class FileContainer(Protocol):
    """A place that lists its images and gives the bytes of one."""

    @property
    def path(self) -> Path:
        """Where it is."""

    @property
    def kind(self) -> str:
        """What it is: part of a fingerprint, since its rows mean something else for each kind."""

    def listing(self) -> FileListing:
        """Its images; raises `DataError` when it has none or cannot be read."""

    def read(self, name: str, row: npt.NDArray[np.int64]) -> bytes:
        """The bytes of one image; raises `UnreadableImageError`, `OSError`, or `DataError` when the source itself has
        changed."""


def is_image_name(name: str) -> bool:
    """Whether a relative path looks like an image: its ending, and no part hidden or left by a system's archiver."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not any(is_ignored_name(part) for part in name.split("/"))


def is_ignored_name(part: str) -> bool:
    """Whether a file or folder of this name is passed over."""
    return part.startswith(".") or part in ("__MACOSX", "lost+found")


def make_listing(entries: Mapping[str, FileEntry], path: Path, others: str) -> FileListing:
    """Entries by name as a sorted listing; raises `DataError` when there are none. `others`: what else was found."""
    if not entries:
        known = " ".join(IMAGE_SUFFIXES)
        raise DataError(f"No images in {str(path)!r}.", others, f"Files that count as images end in {known}.")
    names = sorted(entries)
    return FileListing(names, np.array([entries[name] for name in names], dtype=np.int64).reshape(-1, METHOD + 1))


def read_image_bytes(path: str | Path, offset: int = 0, size: int | None = None) -> bytes:
    """`size` bytes (None: all) of a file from `offset`; raises `UnreadableImageError` above the limit of an image, or
    `OSError`."""
    with open(path, "rb", buffering=0) as file:
        whole = os.fstat(file.fileno())
        wanted = whole.st_size - offset if size is None else size
        if not stat.S_ISREG(whole.st_mode) or wanted > MAX_FILE_BYTES:
            raise UnreadableImageError(
                "not a file"
                if wanted <= MAX_FILE_BYTES
                else f"{wanted} bytes are more than the limit of {MAX_FILE_BYTES}"
            )
        file.seek(offset)
        pieces = [file.read(max(wanted, 0))]  # the system may give less than asked for
        while pieces[-1] and (missing := wanted - sum(map(len, pieces))) > 0:
            pieces.append(file.read(missing))
    return b"".join(pieces)


class ImageFolder(NamedTuple):
    """The images below a folder. Links that lead outside of it are not followed, nor links met inside a linked folder.

    Not indexed on disk: a fingerprint needs the size and time of each file, so every file is asked anyway, and that is
    half of the listing's time (25,000 files: 0.07 of 0.15 s); the time of a folder does not tell of files written over.
    """

    path: Path

    @property
    def kind(self) -> str:
        """See `Source`."""
        return "files"

    def listing(self) -> FileListing:
        """See `Source`."""
        root = os.path.realpath(self.path)
        entries: dict[str, FileEntry] = {}
        counts = {"files": 0, "links": 0}
        try:
            for name, info in walk_images(root, "", root, False, counts):
                entries[name] = (info.st_size, info.st_mtime_ns, -1, -1, -1, -1)
        except OSError as error:
            raise DataError(
                f"Cannot list {error.filename!r}.", f"{error.strerror}.", "Check its permissions."
            ) from None
        found = f"{counts['files']} other files; {counts['links']} links that lead outside or nowhere, not followed."
        return make_listing(entries, self.path, found)

    def read(self, name: str, row: npt.NDArray[np.int64]) -> bytes:
        """See `Source`."""
        return read_image_bytes(f"{self.path}/{name}")


def walk_images(
    folder: str, above: str, root: str, linked: bool, counts: dict[str, int]
) -> Iterator[tuple[str, os.stat_result]]:
    """Yield (relative name, stat) of the images below `folder`, whose own relative name with a `/` is `above`.

    `linked`: a link led here. Everything else is counted in `counts`.
    """
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_ignored_name(entry.name):
                continue
            is_link = entry.is_symlink()
            if is_link and (linked or not link_stays_inside(entry.path, root)):
                counts["links"] += 1
            elif entry.is_dir():
                yield from walk_images(entry.path, f"{above}{entry.name}/", root, is_link or linked, counts)
            elif entry.name.lower().endswith(IMAGE_SUFFIXES) and entry.is_file():
                yield above + entry.name, entry.stat()
            else:
                counts["files"] += 1


def link_stays_inside(link: str, root: str) -> bool:
    """Whether a link ends at something that exists below `root`, and is not a folder that the link itself is in."""
    end = os.path.realpath(link)
    return end.startswith(root.rstrip("/") + "/") and os.path.exists(end) and not f"{link}/".startswith(f"{end}/")


class ImageListFile(NamedTuple):
    """The images that a text file names: a path a line, relative to the file's folder; `#` begins a comment line."""

    path: Path

    @property
    def kind(self) -> str:
        """See `Source`."""
        return "files"

    def listing(self) -> FileListing:
        """See `Source`. A path that leads to no file is listed with size -1; none that does is a `DataError`."""
        try:
            text = self.path.read_text("utf-8-sig", "surrogateescape")
        except OSError as error:
            raise DataError(f"Cannot read {str(self.path)!r}.", f"{error.strerror}.") from None
        lines = (line.strip() for line in text.replace("\0", "\n").split("\n"))
        entries = {os.path.normpath(line): self.entry(line) for line in lines if line and not line.startswith("#")}
        if entries and all(entry[SIZE] < 0 for entry in entries.values()):
            first = str(self.path.parent / next(iter(entries)))
            remedy = "Paths are relative to the list's own folder."
            raise DataError(
                f"None of the {len(entries)} files in {str(self.path)!r} exists.", f"Looked for {first!r}.", remedy
            )
        return make_listing(entries, self.path, "The list names no files.")

    def entry(self, line: str) -> FileEntry:
        """The numbers of one file; -1 for its size where there is none."""
        try:
            info = os.stat(self.path.parent / line)
        except OSError:
            return (-1,) * 6
        return (info.st_size, info.st_mtime_ns, -1, -1, -1, -1) if stat.S_ISREG(info.st_mode) else (-1,) * 6

    def read(self, name: str, row: npt.NDArray[np.int64]) -> bytes:
        """See `Source`."""
        if row[SIZE] < 0:
            raise UnreadableImageError("there is no such file")
        return read_image_bytes(self.path.parent / name)


def missing_path_error(path: Path) -> UsageError:
    """The error for data that does not exist: with the nearest names beside it."""
    beside = sorted(os.listdir(path.parent)) if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, beside, n=3, cutoff=0.5)
    why = f"Did you mean {' or '.join(repr(str(path.parent / name)) for name in near)}?" if near else ""
    if not near and not path.parent.exists():
        why = f"There is no folder {str(path.parent)!r} either."
    return UsageError(
        f"There is no {str(path)!r}.", why, "Give --data a folder, a .txt list, a .zip, a .tar or tv/NAME:ROOT."
    )
