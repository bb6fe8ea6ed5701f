"""Containers of image files: folders and lists of paths here, archives in archives.py. Nothing is ever written there.

A container holds a path and no open file: every read opens what it needs (about 10 us), so a container can be pickled,
forked and shared by threads, and leaks nothing.
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
from lwcl.formatting import plural

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
MAX_FILE_BYTES = 512 * 2**20  # per image
#: Columns of a listing's table; -1 where a container has no such value.
SIZE, MODIFIED_NS, CRC32, OFFSET, COMPRESSED_SIZE, COMPRESSION = range(6)
FileEntry = tuple[int, int, int, int, int, int]


class FileListing(NamedTuple):
    """The images of a container: names (relative paths with `/`, sorted) and a row of six int64 numbers for each."""

    names: list[str]
    table: npt.NDArray[np.int64]


class FileContainer(Protocol):
    """A folder, list or archive that lists its images and reads the bytes of one."""

    @property
    def path(self) -> Path:
        """Where it is."""

    @property
    def kind(self) -> str:
        """What it is; part of the fingerprint, since the meaning of a row depends on it."""

    def listing(self) -> FileListing:
        """Its images; raises `DataError` when it has none or cannot be read."""

    def read(self, name: str, row: npt.NDArray[np.int64]) -> bytes:
        """The bytes of one image; raises `UnreadableImageError`, `OSError`, or `DataError` if the container
        changed."""


def is_image_name(name: str) -> bool:
    """Whether a relative path has an image's suffix and no hidden or system folder in it."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not any(is_ignored_name(part) for part in name.split("/"))


def is_ignored_name(name: str) -> bool:
    """Whether files or folders of this name are skipped."""
    return name.startswith(".") or name in ("__MACOSX", "lost+found")


def make_listing(entries: Mapping[str, FileEntry], path: Path, others: str) -> FileListing:
    """Entries by name as a sorted listing; raises `DataError` if there are none. `others` says what else was found."""
    if not entries:
        known = " ".join(IMAGE_SUFFIXES)
        raise DataError(f"No images in {str(path)!r}.", others, f"Image files end in {known}.")
    names = sorted(entries)
    return FileListing(names, np.array([entries[name] for name in names], dtype=np.int64).reshape(-1, COMPRESSION + 1))


def read_image_bytes(path: str | Path, offset: int = 0, size: int | None = None) -> bytes:
    """`size` bytes (None: all) of a file from `offset`; raises `UnreadableImageError` above the size limit, or
    `OSError`."""
    with open(path, "rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        length = status.st_size - offset if size is None else size
        if length > MAX_FILE_BYTES:
            raise UnreadableImageError(f"{length} bytes are more than the limit of {MAX_FILE_BYTES}")
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableImageError("not a regular file")
        file.seek(offset)
        pieces = [file.read(max(length, 0))]  # a read may return less than requested
        while pieces[-1] and (missing := length - sum(map(len, pieces))) > 0:
            pieces.append(file.read(missing))
    return b"".join(pieces)


class ImageFolder(NamedTuple):
    """The images below a folder. Links that lead out of it are not followed, nor links inside a linked folder.

    Not indexed on disk: the fingerprint needs a stat of every file anyway, which is half of the listing's time (25,000
    files: 0.07 of 0.15 s), and a folder's modification time does not reveal overwritten files.
    """

    path: Path

    @property
    def kind(self) -> str:
        """See `FileContainer`."""
        return "files"

    def listing(self) -> FileListing:
        """See `FileContainer`."""
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
        others = f"Found {counts['files']} other files and {counts['links']} links that lead outside or nowhere."
        return make_listing(entries, self.path, others)

    def read(self, name: str, row: npt.NDArray[np.int64]) -> bytes:
        """See `FileContainer`."""
        return read_image_bytes(f"{self.path}/{name}")


def walk_images(
    folder: str, above: str, root: str, linked: bool, counts: dict[str, int]
) -> Iterator[tuple[str, os.stat_result]]:
    """Yield (relative name, stat) of the images below `folder`, whose own relative name with a `/` is `above`.

    `linked`: whether a link led here. Everything else is counted in `counts`.
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
    """Whether a link's target exists below `root` and is not a folder that contains the link."""
    end = os.path.realpath(link)
    return end.startswith(root.rstrip("/") + "/") and os.path.exists(end) and not f"{link}/".startswith(f"{end}/")


class ImageListFile(NamedTuple):
    """The images that a text file names: one path per line, relative to the file's folder; `#` for comments."""

    path: Path

    @property
    def kind(self) -> str:
        """See `FileContainer`."""
        return "files"

    def listing(self) -> FileListing:
        """See `FileContainer`. Missing files are listed with size -1; `DataError` if all are missing."""
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
                f"{str(self.path)!r}: no such files (of {plural(len(entries), 'line')}).",
                f"Looked for {first!r}.",
                remedy,
            )
        return make_listing(entries, self.path, "The list names no files.")

    def entry(self, line: str) -> FileEntry:
        """The table row of one file; its size is -1 if it is missing."""
        try:
            info = os.stat(self.path.parent / line)
        except OSError:
            return (-1,) * 6
        return (info.st_size, info.st_mtime_ns, -1, -1, -1, -1) if stat.S_ISREG(info.st_mode) else (-1,) * 6

    def read(self, name: str, row: npt.NDArray[np.int64]) -> bytes:
        """See `FileContainer`."""
        if row[SIZE] < 0:
            raise UnreadableImageError("no such file")
        return read_image_bytes(self.path.parent / name)


def missing_path_error(path: Path) -> UsageError:
    """The error for data that does not exist, with similar names as suggestions."""
    beside = sorted(os.listdir(path.parent)) if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, beside, n=3, cutoff=0.5)
    why = f"Did you mean {' or '.join(repr(str(path.parent / name)) for name in near)}?" if near else ""
    if not near and not path.parent.exists():
        why = f"The folder {str(path.parent)!r} does not exist either."
    return UsageError(
        f"{str(path)!r} does not exist.", why, "Give --data a folder, a .txt list, a .zip, a .tar or tv/NAME:ROOT."
    )
