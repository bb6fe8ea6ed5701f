"""Images read in place from archives (.zip here, .tar in tar.py) by their offsets; nothing is ever extracted.

Extraction filters have been bypassed twice (CVE-2025-4517, CVE-2026-11940); without extraction nothing can escape.
"""

import collections
import contextlib
import itertools
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from lwcl.data.native import UnreadableImageError
from lwcl.data.sources.files import (
    COMPRESSED_SIZE,
    COMPRESSION,
    CRC32,
    MAX_FILE_BYTES,
    OFFSET,
    SIZE,
    FileEntry,
    FileListing,
    TableRow,
    is_image_name,
    make_listing,
    read_image_bytes,
)
from lwcl.data.sources.index_file import Index, index_path, read_index, write_index
from lwcl.data.sources.packed import Coded, PackedNames, PackedTable
from lwcl.data.sources.sidecars import is_label_name
from lwcl.errors import DataError, LwclError
from lwcl.formatting import plural
from lwcl.system.atomic_files import cache_folder
from lwcl.system.lock import wait_for_lock

INDEX_VERSION = 3
ZIP_HEADER = struct.Struct("<4s22xHH")  # a member's local header: signature, lengths of its name and extra field
ZIP_END, MAX_ZIP_END = b"PK\x05\x06", 22 + 0xFFFF  # its signature; its size with the longest comment
UTF8_FLAG = 0x800


class UnusualArchiveError(Exception):
    """An archive that has to be read in another way."""


class ArchiveMember(NamedTuple):
    """A member: its entry, or None where it cannot be read as a file, and then what it is."""

    name: str
    entry: FileEntry | None
    kind: str = ""


PLURALS = {"device or pipe": "devices or pipes", "earlier member of the same name": "earlier members of the same name"}


class ZipArchive(NamedTuple):
    """The images in a .zip, stored or deflated."""

    path: Path
    stamp: tuple[int, int]

    @property
    def kind(self) -> str:
        """See `FileContainer`."""
        return "zip"

    def listing(self) -> FileListing:
        """See `FileContainer`."""
        return cached_listing([self.path], [self.stamp], lambda: list_archive(self.path, zip_members(self.path)))

    def read(self, name: str, row: TableRow) -> bytes:
        """See `FileContainer`. The checksum is verified, and no more is decompressed than the index declares."""
        columns = (SIZE, OFFSET, COMPRESSED_SIZE, COMPRESSION)
        size, offset, compressed_size, compression = (row[column] for column in columns)
        check_not_modified(self.path, self.stamp)
        if compression not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            reason = f"zip compression method {compression} is not supported, only stored and deflated"
            raise UnreadableImageError("encrypted" if compression < 0 else reason)
        if size > MAX_FILE_BYTES:
            raise UnreadableImageError(f"{size} bytes are more than the limit of {MAX_FILE_BYTES}")
        header = read_image_bytes(self.path, offset, ZIP_HEADER.size)
        if len(header) < ZIP_HEADER.size or not header.startswith(b"PK\3\4"):
            raise UnreadableImageError("the archive is damaged here")
        start = offset + ZIP_HEADER.size + sum(ZIP_HEADER.unpack(header)[1:])
        data = read_image_bytes(self.path, start, compressed_size)
        if compression == zipfile.ZIP_DEFLATED:
            data = inflate(data, size)
        if len(data) != size or zlib.crc32(data) != row[CRC32]:
            raise UnreadableImageError("wrong checksum in the archive")
        return data


def zip_members(path: Path) -> Iterator[ArchiveMember]:
    """All files of a zip; encrypted ones have compression -1. Backslashes in names, of Windows, are separators.

    Raises `DataError` for a damaged directory.
    """
    with zipfile.ZipFile(path) as archive:
        check_zip_directory(path, archive)
        for member in archive.infolist():
            compression = -1 if member.flag_bits & 1 else member.compress_type
            if not member.is_dir():
                entry = (member.file_size, 0, member.CRC, member.header_offset, member.compress_size, compression)
                kind = "link" if stat.S_ISLNK(member.external_attr >> 16) else ""
                yield ArchiveMember(member.filename.replace("\\", "/"), None if kind else entry, kind)


def check_zip_directory(path: Path, archive: zipfile.ZipFile) -> None:
    """Raises `DataError` if members of a zip are missing from its directory, or are no images only by a damaged name.

    zipfile does not count them: behind a damaged length it passes over others in silence. (PKWARE's APPNOTE, 4.3.16)
    """
    whole = os.stat(path).st_size
    end = read_image_bytes(path, max(whole - MAX_ZIP_END, 0), min(whole, MAX_ZIP_END))
    told = int.from_bytes(end[(at := end.rfind(ZIP_END)) + 10 : at + 12], "little")
    found = archive.infolist()
    if told != 0xFFFF and len(found) % 0x10000 != told:  # 0xFFFF: in the end of a zip64; some count modulo 65,536
        damaged = f"{plural(len(found), 'member')} of {told:,} could be read"
    else:
        others = (member for member in found if not is_image_name(member.filename) and not member.is_dir())
        renamed = [member.filename for member in others if local_name(path, member) != member.orig_filename]
        damaged = f"the name of {renamed[0]!r} is another one in front of it" if renamed else ""
    if damaged:
        raise DataError(f"{str(path)!r} is damaged: {damaged}.", remedy="Copy or download it again.")


def local_name(path: Path, member: zipfile.ZipInfo) -> str:
    """The name in a member's own header, which is that of the directory unless one of them is damaged."""
    header = read_image_bytes(path, member.header_offset, ZIP_HEADER.size)
    length = ZIP_HEADER.unpack(header)[1] if len(header) == ZIP_HEADER.size else 0
    name = read_image_bytes(path, member.header_offset + ZIP_HEADER.size, length)
    return name.decode("utf-8" if member.flag_bits & UTF8_FLAG else "cp437", "replace")


def list_archive(
    path: Path, members: Iterable[ArchiveMember], *, by_name: bool = True, beside: dict[str, FileEntry] | None = None
) -> FileListing:
    """The listing of an archive's members; of duplicate names the last one counts, as when extracting.

    Sorted by name, or as they lie in the archive. Files that may label an image are put into `beside`.

    Raises `DataError` for a broken archive, or one with member names that point outside of it.
    """
    entries: dict[str, FileEntry] = {}
    others = 0
    unread: collections.Counter[str] = collections.Counter()
    try:
        for name, entry, kind in members:
            inside = name.removeprefix("./")
            if inside.startswith(("/", "\\")) or ".." in inside.replace("\\", "/").split("/") or "\0" in inside:
                remedy = "Pack it again with relative paths."
                raise DataError(
                    f"{str(path)!r} has a member that points outside of it: {name!r}.", "It may be malicious.", remedy
                )
            if entry is None:
                unread[kind] += is_image_name(inside)
            elif is_image_name(inside) and min(entry[SIZE], entry[OFFSET], entry[COMPRESSED_SIZE]) >= 0:
                unread["earlier member of the same name"] += inside in entries
                entries[inside] = entry
            else:
                others += 1
                if beside is not None and entry[SIZE] >= 0 and is_label_name(inside):
                    beside[inside] = entry
    except (LwclError, UnusualArchiveError):
        raise
    except Exception as error:  # zipfile and tarfile raise nearly everything on hostile archives
        what = f"{str(path)!r} is not a complete archive."
        raise DataError(what, f"{type(error).__name__}: {str(error)!r}.", "Copy or download it again.") from None
    kinds = ", ".join(plural(count, kind, PLURALS.get(kind, "")) for kind, count in unread.items() if count)
    found = f"Found {others} other files{' and ' + kinds if kinds else ''}."
    listing = make_listing(entries, path, found, by_name=by_name)
    return (
        listing._replace(
            notes=(
                *listing.notes,
                f"{str(path)!r}: not read: {kinds}.",
            )
        )
        if kinds
        else listing
    )


def inflate(data: bytes, size: int) -> bytes:
    """Decompress raw deflate data to at most `size` + 1 bytes; raises `UnreadableImageError`."""
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)
    except zlib.error as error:
        raise UnreadableImageError(f"damaged in the archive: {error}") from None


def file_stamp(path: Path) -> tuple[int, int]:
    """Size and modification time (ns): an archive's index is valid for these."""
    info = os.stat(path)
    return info.st_size, info.st_mtime_ns


def check_not_modified(path: Path, stamp: tuple[int, int]) -> None:
    """Raises `DataError` if an archive was modified after it was indexed: its offsets would no longer be right."""
    if file_stamp(path) != stamp:
        raise DataError(f"{str(path)!r} changed while it was in use.", remedy="Start again once it is complete.")


def cached_listing(
    paths: Sequence[Path], stamps: Sequence[tuple[int, int]], build: Callable[[], FileListing]
) -> FileListing:
    """The listing that `build` returns, cached by absolute paths and valid for these stamps.

    Of several processes one builds it and the others wait. A cache that is not readable or writable is no error.
    """
    file = index_path(b"\0".join(os.fsencode(path.absolute()) for path in paths))
    valid = [INDEX_VERSION, *map(list, stamps)]
    if index := read_index(file, valid):
        return listing_of_index(index)
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            stack.enter_context(wait_for_lock(cache_folder() / "locks" / file.name))
        index = read_index(file, valid)
        if index is None:
            built = index_of_listing(build())
            write_index(file, valid, built)
            index = read_index(file, valid) or built  # mapped, where it could be written
    return listing_of_index(index)


def index_of_listing(listing: FileListing) -> Index:
    """A listing as an index file holds it."""
    names, labels = listing.names, listing.labels
    arrays = {"codes": names.codes, "text": names.text, "starts": names.starts, "lengths": names.lengths}
    arrays |= {f"column {number}": column for number, column in enumerate(listing.table.columns)}
    arrays |= {"labels": labels.codes} if labels else {}
    facts = {"folders": names.folders, "notes": listing.notes, "labels": labels.values if labels else ()}
    return Index(facts, arrays)


def listing_of_index(index: Index) -> FileListing:
    """The listing that an index file holds."""
    facts, arrays = index
    names = PackedNames(tuple(facts["folders"]), *(arrays[name] for name in ("codes", "text", "starts", "lengths")))
    columns = itertools.takewhile(arrays.__contains__, (f"column {number}" for number in itertools.count()))
    table = PackedTable(tuple(arrays[name] for name in columns), len(names))
    labels = Coded(arrays["labels"], tuple(facts["labels"])) if "labels" in arrays else None
    return FileListing(names, table, tuple(facts["notes"]), labels)
