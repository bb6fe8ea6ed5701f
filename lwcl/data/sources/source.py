"""One `--data` value as an image source: its names, splits and classes, and a reader of its images."""

import contextlib
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from lwcl.data.band_image import Array, Picture
from lwcl.data.decode import decode, to_pixel_format
from lwcl.data.native import NativeImage, UnreadableImageError, native_array, open_native
from lwcl.data.sources.archives import ZipArchive, file_stamp
from lwcl.data.sources.bands import BandGroups, BandKeys, BandReader, group_bands, parse_bands
from lwcl.data.sources.files import (
    CRC32,
    FileContainer,
    FileListing,
    ImageFolder,
    is_image_name,
    missing_path_error,
)
from lwcl.data.sources.lists import LIST_SUFFIXES, STDIN, ImageListFile, is_pipe
from lwcl.data.sources.packed import PackedNames, PackedTable
from lwcl.data.sources.shards import TarShards, expand_pattern, is_pattern, open_shards
from lwcl.data.sources.sidecars import label_notes
from lwcl.data.sources.splits import (
    FolderLayout,
    Labels,
    layout_notes,
    parse_folder_layout,
)
from lwcl.data.sources.tar import TarArchive
from lwcl.errors import DataError, UsageError
from lwcl.formatting import plural
from lwcl.models.pixel_format import PixelFormat
from lwcl.settings import expand_home

#: The first bytes of compressed files, what compressed them, and the command that undoes it.
COMPRESSION_SIGNATURES = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd --rm"),
}


class ImageReader(Protocol):
    """Reads a source's images by row."""

    def image(self, row: int, min_side: int | None, pixel_format: PixelFormat) -> Picture:
        """One image in a pixel format (`min_side` as in `decode`); raises `UnreadableImageError`."""

    def native(self, row: int) -> NativeImage:
        """One image as its file has it; raises `UnreadableImageError`, or anything where it is damaged."""


class ContentKeys(Protocol):
    """Sizes, times or checksums, for the fingerprint: those at some rows, int64 (len(rows), m)."""

    def __getitem__(self, rows: npt.NDArray[np.int64], /) -> npt.NDArray[np.int64]: ...


class ImageSource(NamedTuple):
    """What one `--data` value holds; the lists and `content_keys` have one entry per row of `reader`."""

    kind: str
    names: Sequence[str]
    splits: Sequence[str]  # train, val, test, other, or "" for no split
    classes: Sequence[str]  # "" for unlabelled images
    content_keys: ContentKeys
    reader: ImageReader
    notes: tuple[str, ...] = ()  # what is left out, and what a user may not expect


class BytesReader:
    """Decodes the bytes of images, which `data` gives."""

    def data(self, row: int) -> bytes:
        """The bytes of an image; raises `UnreadableImageError`."""
        raise NotImplementedError

    def image(self, row: int, min_side: int | None, pixel_format: PixelFormat) -> Picture:
        """See `ImageReader`."""
        return decode(self.data(row), min_side=min_side, pixel_format=pixel_format)

    def native(self, row: int) -> NativeImage:
        """See `ImageReader`."""
        return open_native(self.data(row))


@dataclass(frozen=True)
class FileReader(BytesReader):
    """Decodes the files of a container."""

    container: FileContainer
    listing: FileListing

    def data(self, row: int) -> bytes:
        """See `BytesReader`."""
        try:
            return self.container.read(self.listing.names[row], self.listing.table.row(row))
        except OSError as error:
            raise UnreadableImageError(f"not readable: {error.strerror or error}") from None


class ArrayReader(NamedTuple):
    """Images in memory: (rows, height, width, channels)."""

    pixels: Array

    def image(self, row: int, min_side: int | None, pixel_format: PixelFormat) -> Picture:
        """See `ImageReader`."""
        return to_pixel_format(self.native(row), pixel_format)

    def native(self, row: int) -> NativeImage:
        """See `ImageReader`."""
        return native_array(self.pixels[row])


def source_from_files(spec: str, labels: Labels = "top", *, follow_links: bool = False, bands: str = "") -> ImageSource:
    """A folder, list or archive as a source; `bands`: the pattern of files that hold a band each.

    Raises as `open_container`, `FileContainer.listing` and `group_bands`.
    """
    pattern = parse_bands(bands) if bands else None
    container = open_container(spec, follow_links=follow_links)
    listing = container.listing()
    keys: ContentKeys = PackedTable(listing.table.columns[: CRC32 + 1], listing.table.rows)
    reader: ImageReader = FileReader(container, listing)
    kind = container.kind
    if pattern:
        found = group_bands(listing.names, pattern, spec)
        keys, reader = BandKeys(keys, found.rows), BandReader(reader, found.rows, pattern.words)
        kind, listing = f"{kind} of {', '.join(pattern.words)}", listing_of_groups(listing, found)
    layout, told = source_layout(spec, container, listing, labels)
    return ImageSource(kind, listing.names, layout.splits, layout.classes, keys, reader, (*listing.notes, *told))


def listing_of_groups(listing: FileListing, found: BandGroups) -> FileListing:
    """The listing of files that hold a band each as one of images, without their table."""
    some = found.rows.max(1)  # a file of each image
    labels, splits = (coded and coded.taken(some) for coded in (listing.labels, listing.splits))
    names, notes = PackedNames.of(found.names), (*listing.notes, *found.notes)
    return listing._replace(names=names, labels=labels, splits=splits, notes=notes)


def source_layout(
    spec: str, container: FileContainer, listing: FileListing, labels: Labels
) -> tuple[FolderLayout, list[str]]:
    """Splits and classes of a container's images, as it says them, else as its folders do; and what is to be said."""
    names, splits = listing.names, listing.splits
    if isinstance(container, TarShards):
        names, splits = names.without_first_folder(), container.splits(names)
    layout = parse_folder_layout(names, labels)
    splits = splits or layout.splits
    if listing.labels is None:
        return FolderLayout(splits, layout.classes), [*layout_notes(spec, names, layout, labels)]
    told = [] if isinstance(container, ImageListFile) else [*label_notes(spec, listing.labels)]  # a list says more
    return FolderLayout(splits, listing.labels), told


def open_container(spec: str, *, follow_links: bool = False) -> FileContainer:
    """The container at a path: a folder, an archive (detected by its content), or a .txt list.

    Raises `UsageError` if there is none, `DataError` if it cannot be read.
    """
    if is_pattern(spec):
        return open_pattern(spec)
    path = Path(expand_home(spec))
    if is_pipe(path) or spec == STDIN:  # to be read once only
        return ImageListFile(path)
    with explain_unreadable(spec):
        if path.is_dir():
            return ImageFolder(path, follow_links)
        try:
            with open(path, "rb") as file:
                head = file.read(512)
        except (FileNotFoundError, NotADirectoryError):
            raise missing_path_error(path) from None
    check_uncompressed(spec, head)
    return detect_container(path, head)


def open_pattern(spec: str) -> FileContainer:
    """The tar files that a pattern names, as one container. Raises `UsageError` and `DataError`."""
    paths = expand_pattern(spec)
    for path in paths:
        with explain_unreadable(str(path)), open(path, "rb") as file:
            head = file.read(512)
        check_uncompressed(str(path), head)
        if not is_tar(path, head):
            what = f"{spec!r} names {plural(len(paths), 'file')}, and {str(path)!r} is no tar archive."
            raise UsageError(what, remedy="Patterns are for shards (.tar); give other data by repeating --data.")
    return open_shards(spec, paths)


@contextlib.contextmanager
def explain_unreadable(spec: str) -> Iterator[None]:
    """Turns the operating system's errors into a `DataError`."""
    try:
        yield
    except OSError as error:
        raise DataError(f"Cannot read {spec!r}.", f"{error.strerror}.", "Check the path and its permissions.") from None


def check_uncompressed(spec: str, head: bytes) -> None:
    """Raises `DataError` for a file whose first bytes are those of a compressed one."""
    for signature, (name, command) in COMPRESSION_SIGNATURES.items():
        if head.startswith(signature):
            raise DataError(
                f"{spec!r} is compressed with {name}.",
                "Compressed tar archives cannot be read in place: an image in them has no position of its own.",
                f"Make it a .tar (images hardly compress): {command} {shlex.quote(spec)}",
            )


def is_tar(path: Path, head: bytes) -> bool:
    """Whether a file with these first bytes is a tar, or is called so."""
    return head[257:262] == b"ustar" or path.suffix.lower() == ".tar"


def detect_container(path: Path, head: bytes) -> FileContainer:
    """The container type of a file with these first bytes; raises `UsageError`."""
    ending = path.suffix.lower()
    if head.startswith((b"PK\3\4", b"PK\5\6")) or ending == ".zip":
        return ZipArchive(path, file_stamp(path))
    if is_tar(path, head):
        return TarArchive(path, file_stamp(path))
    if ending in LIST_SUFFIXES:
        return ImageListFile(path)
    what = "is a single image" if is_image_name(path.name) else "is not a folder, .txt or .csv list, .zip or .tar"
    raise UsageError(f"{str(path)!r} {what}.", remedy="Give a folder of images, a list, or an archive.")
