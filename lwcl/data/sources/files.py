"""Containers of image files: folders and lists of paths here, archives in archives.py. Nothing is ever written there.

A container holds a path and no open file: every read opens what it needs (about 10 us), so a container can be pickled,
forked and shared by threads, and leaks nothing.
"""

import collections
import difflib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from lwcl.data.native import UnreadableImageError
from lwcl.data.sources.packed import Coded, PackedNames, PackedTable
from lwcl.errors import DataError, UsageError
from lwcl.formatting import plural

#: Folders of systems and network disks: thumbnails, waste, snapshots; in lower case.
SYSTEM_FOLDERS = frozenset(["__macosx", "lost+found", "@eadir", "#recycle", "@recycle", "#snapshot", "$recycle.bin"])
#: Images that are not read, to be counted: of other formats, or with a query or a number behind the suffix.
OTHER_IMAGES = re.compile(
    r"\.(?:(?:hei[cf]|avif|jxl|jp2|j2k|dng|cr[23w]|nef|arw|raf|orf|rw2|pef|srw|psd|tga|dcm|exr|hdr|p[bgp]m|svg|ico)$"
    r"|(?:jpe?g|png|webp)(?=\?|\.\d+$))",
    re.IGNORECASE,
)
ARRAY_SUFFIXES = (".npy", ".npz")  # images where there are no others: beside images they are seldom any
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", *ARRAY_SUFFIXES)
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".webm", ".mkv", ".mpg", ".mpeg")
MAX_FILE_BYTES = 512 * 2**20  # per image
#: Columns of a listing's table; -1 where a container has no such value.
SIZE, MODIFIED_NS, CRC32, OFFSET, COMPRESSED_SIZE, COMPRESSION = range(6)
FileEntry = tuple[int, int, int, int, int, int]
TableRow = tuple[int, ...]  # a `FileEntry`, and what else a container keeps of an image


class FileListing(NamedTuple):
    """The images of a container: names (relative paths with `/`) and a row of six or more numbers for each.

    `notes` are sentences on what it holds besides.
    """

    names: PackedNames
    table: PackedTable
    notes: tuple[str, ...] = ()
    labels: Coded | None = None  # the classes, where the container tells them otherwise than by folders
    splits: Coded | None = None  # the same of splits


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

    def read(self, name: str, row: TableRow) -> bytes:
        """The bytes of one image; raises `UnreadableImageError`, `OSError`, or `DataError` if the container
        changed."""


def is_image_name(name: str) -> bool:
    """Whether a relative path has an image's suffix and no hidden or system folder in it."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not any(is_ignored_name(part) for part in name.split("/"))


def is_ignored_name(name: str) -> bool:
    """Whether files or folders of this name are skipped."""
    return name.startswith(".") or name.lower() in SYSTEM_FOLDERS


def make_listing(entries: Mapping[str, FileEntry], path: Path, others: str, *, by_name: bool = True) -> FileListing:
    """Entries by name as a listing, sorted or in their order; raises `DataError` if there are none.

    `others` says what else was found.
    """
    if not entries:
        known = " ".join(IMAGE_SUFFIXES)
        raise DataError(f"No images in {str(path)!r}.", others, f"Image files end in {known}.")
    names = [name for name in entries if not name.lower().endswith(ARRAY_SUFFIXES)] or list(entries)
    names = sorted(names) if by_name else names
    beside = len(entries) - len(names)
    notes = (f"{str(path)!r}: {plural(beside, 'NumPy array')} beside the images not read.",) if beside else ()
    table = PackedTable.of(map(entries.__getitem__, names), COMPRESSION + 1)
    return FileListing(PackedNames.of(names), table, notes)


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
    """The images below a folder. Links that lead out of it are followed with `follow`, or where there is nothing else.

    Not indexed on disk: the fingerprint needs a stat of every file anyway, which is half of the listing's time (25,000
    files: 0.07 of 0.15 s), and a folder's modification time does not reveal overwritten files.
    """

    path: Path
    follow: bool = False
    suffixes: tuple[str, ...] = IMAGE_SUFFIXES

    @property
    def kind(self) -> str:
        """See `FileContainer`."""
        return "files"

    def listing(self) -> FileListing:
        """See `FileContainer`."""
        entries, counts = self.entries(follow=self.follow)
        note = ""
        if not entries and counts["links"]:
            entries, followed = self.entries(follow=True)
            note = f"{str(self.path)!r} holds nothing but links: they were followed." if entries else ""
            counts = followed if entries else counts
        links = plural(counts["links"], "link")
        if entries and counts["links"]:
            note = f"{note} {str(self.path)!r}: {links} to outside, to nowhere or in a circle not followed"
            note += "." if self.follow else " (--follow-links follows those to outside)."
        note = note.strip()
        videos = plural(counts["videos"], "video")
        others = f"Found {plural(counts['files'], 'other file')} and {links} to outside or nowhere (--follow-links)."
        others = f"Found {videos}: --clip 8x4 reads clips of them. {others}" if counts["videos"] else others
        beside = f"{str(self.path)!r}: {videos} beside the images not read." if counts["videos"] else ""
        told = (note, other_images_note(self.path, counts), beside)
        listing = make_listing(entries, self.path, others)
        return listing._replace(notes=(*listing.notes, *filter(None, told)))

    def entries(self, *, follow: bool) -> tuple[dict[str, FileEntry], collections.Counter[str]]:
        """The files by name, and how many other files and links there are. Raises `DataError`."""
        root = os.path.realpath(self.path)
        entries: dict[str, FileEntry] = {}
        counts = collections.Counter[str]()
        try:
            for name, info in walk_images(root, "", root, (root,) if follow else None, False, counts, self.suffixes):
                entries[name] = (info.st_size, info.st_mtime_ns, -1, -1, -1, -1)
        except OSError as error:
            raise DataError(
                f"Cannot list {error.filename!r}.", f"{error.strerror}.", "Check its permissions."
            ) from None
        return entries, counts

    def read(self, name: str, row: TableRow) -> bytes:
        """See `FileContainer`."""
        return read_image_bytes(f"{self.path}/{name}")


def walk_images(
    folder: str,
    above: str,
    root: str,
    chain: tuple[str, ...] | None,
    linked: bool,
    counts: collections.Counter[str],
    suffixes: tuple[str, ...] = IMAGE_SUFFIXES,
) -> Iterator[tuple[str, os.stat_result]]:
    """Yield (relative name, stat) of the images below `folder`, whose own relative name with a `/` is `above`.

    `linked`: whether a link led here. `chain`: the real paths of the folders above if all links are followed, so that
    circles end. Everything else is counted in `counts`: "files", "links", and by suffix the images of other formats.
    """
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_ignored_name(entry.name):
                continue
            is_link = entry.is_symlink()
            if is_link and not is_followed(entry.path, root, chain, linked):
                counts["links"] += 1
            elif entry.is_dir():
                below = None if chain is None else (*chain, os.path.realpath(entry.path))
                yield from walk_images(
                    entry.path, f"{above}{entry.name}/", root, below, is_link or linked, counts, suffixes
                )
            elif entry.name.lower().endswith(suffixes) and entry.is_file():
                yield above + entry.name, entry.stat()
            else:
                counts["files"] += 1
                if found := OTHER_IMAGES.search(entry.name):
                    counts[entry.name[found.start() : found.end() + 1].lower()] += 1
                counts["videos"] += entry.name.lower().endswith(VIDEO_SUFFIXES)


def other_images_note(path: Path, counts: Mapping[str, int]) -> str:
    """A sentence on the images of other formats, if there are any; `counts` is that of `walk_images`."""
    found = {suffix: count for suffix, count in counts.items() if suffix.startswith(".")}
    if not found:
        return ""
    kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in found.items())
    return f"{str(path)!r}: {plural(sum(found.values()), 'image')} not read ({kinds}): convert or rename them to .jpg."


def is_followed(link: str, root: str, chain: tuple[str, ...] | None, linked: bool) -> bool:
    """Whether a link is followed: any but to a folder around one of the `chain`; without a `chain`, one to inside."""
    if chain is None:
        return not linked and link_stays_inside(link, root)
    end = os.path.realpath(link).rstrip("/")
    return os.path.exists(link) and not any(f"{folder}/".startswith(f"{end}/") for folder in chain)


def link_stays_inside(link: str, root: str) -> bool:
    """Whether a link's target exists below `root` and is not a folder that contains the link."""
    end = os.path.realpath(link)
    return end.startswith(root.rstrip("/") + "/") and os.path.exists(end) and not f"{link}/".startswith(f"{end}/")


def missing_path_error(path: Path) -> UsageError:
    """The error for data that does not exist, with similar names as suggestions."""
    beside = sorted(os.listdir(path.parent)) if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, beside, n=3, cutoff=0.5)
    why = f"Did you mean {' or '.join(repr(str(path.parent / name)) for name in near)}?" if near else ""
    if not near and not path.parent.exists():
        why = f"The folder {str(path.parent)!r} does not exist either."
    return UsageError(
        f"{str(path)!r} does not exist.",
        why,
        "Give a folder of images, a .txt or .csv list, a .zip, a .tar, or tv/NAME:ROOT.",
    )
