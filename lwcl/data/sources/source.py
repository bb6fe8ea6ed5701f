"""One `--data` value as a part of an image set: names, splits, classes, and something that gives the pictures."""

from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from lwcl.data.decode import UnreadableImageError, decode
from lwcl.data.sources.archives import TarArchive, ZipArchive, file_stamp
from lwcl.data.sources.files import (
    CHECKSUM,
    FileContainer,
    FileListing,
    ImageFolder,
    ImageListFile,
    is_image_name,
    missing_path_error,
)
from lwcl.data.sources.splits import parse_folder_layout
from lwcl.errors import DataError, UsageError

COMPRESSION_SIGNATURES = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class ImageReader(Protocol):
    """Gives a part's images by row."""

    def image(self, row: int, at_least: int | None) -> Image.Image:
        """One image in RGB (`at_least` as in `decode`); raises `UnreadableImageError`."""


class ImageSource(NamedTuple):
    """What one `--data` value holds; the lists and `marks` have an entry for each row of `pictures`."""

    kind: str
    names: list[str]
    splits: list[str]  # train, val, test, other, or "" for no split
    classes: list[str]  # "" for unlabelled
    marks: npt.NDArray[np.int64]  # (rows, m): numbers that change with an image's content, for the fingerprint
    pictures: ImageReader


class FileReader(NamedTuple):
    """Pictures that are decoded from a source's files."""

    source: FileContainer
    listing: FileListing

    def image(self, row: int, at_least: int | None) -> Image.Image:
        """See `Pictures`."""
        try:
            data = self.source.read(self.listing.names[row], self.listing.table[row])
        except OSError as error:
            raise UnreadableImageError(f"cannot be read: {error.strerror or error}") from None
        return decode(data, at_least=at_least)


class ArrayReader(NamedTuple):
    """Pictures that are in memory: uint8 (rows, height, width, 3)."""

    pixels: npt.NDArray[np.uint8]

    def image(self, row: int, at_least: int | None) -> Image.Image:
        """See `Pictures`."""
        return Image.fromarray(self.pixels[row])


def source_from_files(spec: str) -> ImageSource:
    """A folder, list or archive as a part; raises as `open_container` and `Source.listing`."""
    source = open_container(spec)
    listing = source.listing()
    splits, classes = parse_folder_layout(listing.names)
    return ImageSource(
        source.kind, listing.names, splits, classes, listing.table[:, : CHECKSUM + 1], FileReader(source, listing)
    )


def open_container(spec: str) -> FileContainer:
    """The source that a path means: a folder, an archive (told by its content), or a .txt list.

    Raises `UsageError` for what does not exist or is none of these, `DataError` for what cannot be read.
    """
    path = Path(spec).expanduser()
    try:
        if path.is_dir():
            return ImageFolder(path)
        with open(path, "rb") as file:
            head = file.read(512)
    except (FileNotFoundError, NotADirectoryError):
        raise missing_path_error(path) from None
    except OSError as error:
        raise DataError(f"Cannot read {spec!r}.", f"{error.strerror}.", "Check the path and its permissions.") from None
    packed = next((name for signature, name in COMPRESSION_SIGNATURES.items() if head.startswith(signature)), None)
    if packed:
        remedy = "Pack the images as a .zip or a plain .tar: images hardly shrink."
        raise DataError(f"{spec!r} is compressed with {packed}.", "A compressed tar cannot be read in place.", remedy)
    return detect_container(path, head)


def detect_container(path: Path, head: bytes) -> FileContainer:
    """The source that a file with these first bytes is; raises `UsageError`."""
    ending = path.suffix.lower()
    if head.startswith((b"PK\3\4", b"PK\5\6")) or ending == ".zip":
        return ZipArchive(path, file_stamp(path))
    if head[257:262] == b"ustar" or ending == ".tar":
        return TarArchive(path, file_stamp(path))
    if ending == ".txt":
        return ImageListFile(path)
    what = "is a single image" if is_image_name(path.name) else "is not a folder, .txt list, .zip or .tar"
    raise UsageError(f"{str(path)!r} {what}.", remedy="Give --data a folder of images, a list, or an archive.")
