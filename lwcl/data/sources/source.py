"""One `--data` value as an image source: its names, splits and classes, and a reader of its images."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from lwcl.data.band_image import Array, Picture
from lwcl.data.decode import decode, to_pixel_format
from lwcl.data.native import NativeImage, UnreadableImageError, native_array, open_native
from lwcl.data.sources.archives import TarArchive, ZipArchive, file_stamp
from lwcl.data.sources.files import (
    CRC32,
    FileContainer,
    FileListing,
    ImageFolder,
    is_image_name,
    missing_path_error,
)
from lwcl.data.sources.lists import LIST_SUFFIXES, STDIN, ImageListFile, is_pipe
from lwcl.data.sources.splits import (
    OTHER_SPLIT,
    SPLIT_BY_FOLDER_NAME,
    FolderLayout,
    Labels,
    layout_notes,
    parse_folder_layout,
)
from lwcl.errors import DataError, UsageError
from lwcl.models.pixel_format import PixelFormat
from lwcl.settings import expand_home

COMPRESSION_SIGNATURES = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class ImageReader(Protocol):
    """Reads a source's images by row."""

    def image(self, row: int, min_side: int | None, pixel_format: PixelFormat) -> Picture:
        """One image in a pixel format (`min_side` as in `decode`); raises `UnreadableImageError`."""

    def native(self, row: int) -> NativeImage:
        """One image as its file has it; raises `UnreadableImageError`, or anything where it is damaged."""


class ImageSource(NamedTuple):
    """What one `--data` value holds; the lists and `content_keys` have one entry per row of `reader`."""

    kind: str
    names: list[str]
    splits: list[str]  # train, val, test, other, or "" for no split
    classes: list[str]  # "" for unlabelled images
    content_keys: npt.NDArray[np.int64]  # (rows, m): sizes, times or checksums, for the fingerprint
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
            return self.container.read(self.listing.names[row], self.listing.table[row])
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


def source_from_files(spec: str, labels: Labels = "top", *, follow_links: bool = False) -> ImageSource:
    """A folder, list or archive as a source; raises as `open_container` and `FileContainer.listing`."""
    container = open_container(spec, follow_links=follow_links)
    listing = container.listing()
    layout = parse_folder_layout(listing.names, labels)
    notes = [*listing.notes, *layout_notes(spec, listing.names, layout, labels)]
    if isinstance(container, ImageListFile):
        layout, notes = listed_layout(container, listing, layout, notes)
    keys, reader = listing.table[:, : CRC32 + 1], FileReader(container, listing)
    return ImageSource(container.kind, listing.names, layout.splits, layout.classes, keys, reader, tuple(notes))


def listed_layout(
    container: ImageListFile, listing: FileListing, folders: FolderLayout, notes: list[str]
) -> tuple[FolderLayout, list[str]]:
    """Splits and classes as the list says, else as its folders do; and what is to be said of it."""
    rows = container.files()
    known = [rows[name] for name in listing.names]
    told = [*container.notes(listing, rows)]
    splits = [SPLIT_BY_FOLDER_NAME.get(row.split.lower(), row.split and OTHER_SPLIT) for row in known]
    if not any(row.label for row in known):
        return FolderLayout(splits if any(splits) else folders.splits, folders.classes), told + notes
    return FolderLayout(splits if any(splits) else folders.splits, [row.label for row in known]), told


def open_container(spec: str, *, follow_links: bool = False) -> FileContainer:
    """The container at a path: a folder, an archive (detected by its content), or a .txt list.

    Raises `UsageError` if there is none, `DataError` if it cannot be read.
    """
    path = Path(expand_home(spec))
    if is_pipe(path) or spec == STDIN:  # to be read once only
        return ImageListFile(path)
    try:
        if path.is_dir():
            return ImageFolder(path, follow_links)
        with open(path, "rb") as file:
            head = file.read(512)
    except (FileNotFoundError, NotADirectoryError):
        raise missing_path_error(path) from None
    except OSError as error:
        raise DataError(f"Cannot read {spec!r}.", f"{error.strerror}.", "Check the path and its permissions.") from None
    compression = next((name for signature, name in COMPRESSION_SIGNATURES.items() if head.startswith(signature)), None)
    if compression:
        remedy = "Pack the images as a .zip or an uncompressed .tar: images hardly compress."
        what = f"{spec!r} is compressed with {compression}."
        raise DataError(what, "Compressed tar archives cannot be read in place.", remedy)
    return detect_container(path, head)


def detect_container(path: Path, head: bytes) -> FileContainer:
    """The container type of a file with these first bytes; raises `UsageError`."""
    ending = path.suffix.lower()
    if head.startswith((b"PK\3\4", b"PK\5\6")) or ending == ".zip":
        return ZipArchive(path, file_stamp(path))
    if head[257:262] == b"ustar" or ending == ".tar":
        return TarArchive(path, file_stamp(path))
    if ending in LIST_SUFFIXES:
        return ImageListFile(path)
    what = "is a single image" if is_image_name(path.name) else "is not a folder, .txt or .csv list, .zip or .tar"
    raise UsageError(f"{str(path)!r} {what}.", remedy="Give --data a folder of images, a list, or an archive.")
