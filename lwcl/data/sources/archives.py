"""Images read in place from .zip and .tar archives through an index of offsets; nothing is ever extracted.

Extraction filters have been bypassed twice (CVE-2025-4517, CVE-2026-11940); without extraction nothing can escape.
"""

import collections
import contextlib
import hashlib
import io
import os
import posixpath
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

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
    is_image_name,
    make_listing,
    read_image_bytes,
)
from lwcl.errors import DataError, LwclError
from lwcl.formatting import plural
from lwcl.system.atomic_files import cache_folder, crash_point, write_atomically

INDEX_VERSION = 3
ZIP_HEADER = struct.Struct("<4s22xHH")  # a member's local header: signature, lengths of its name and extra field
MAX_MTIME_NS = 2**62  # later modification times are wrong, and would not fit into 64 bits


class ArchiveMember(NamedTuple):
    """A member: its entry, or None where it cannot be read as a file, and then what it is."""

    name: str
    entry: FileEntry | None
    kind: str = ""


#: Members of a tar that are no files, and how to tell.
TAR_KINDS: dict[str, Callable[[tarfile.TarInfo], bool]] = {
    "link": lambda member: member.issym() or member.islnk(),
    "device or pipe": lambda member: member.isdev(),
    "sparse file": lambda member: member.issparse(),
}
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
        return cached_listing(self.path, self.stamp, lambda: list_archive(self.path, zip_members(self.path)))

    def read(self, name: str, row: npt.NDArray[np.int64]) -> bytes:
        """See `FileContainer`. The checksum is verified, and no more is decompressed than the index declares."""
        columns = (SIZE, OFFSET, COMPRESSED_SIZE, COMPRESSION)
        size, offset, compressed_size, compression = (int(row[column]) for column in columns)
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


class TarArchive(NamedTuple):
    """The images in an uncompressed .tar."""

    path: Path
    stamp: tuple[int, int]

    @property
    def kind(self) -> str:
        """See `FileContainer`."""
        return "tar"

    def listing(self) -> FileListing:
        """See `FileContainer`."""
        return cached_listing(self.path, self.stamp, lambda: list_archive(self.path, tar_members(self.path)))

    def read(self, name: str, row: npt.NDArray[np.int64]) -> bytes:
        """See `FileContainer`."""
        check_not_modified(self.path, self.stamp)
        return read_image_bytes(self.path, int(row[OFFSET]), int(row[SIZE]))


def zip_members(path: Path) -> Iterator[ArchiveMember]:
    """All files of a zip; encrypted ones have compression -1. Backslashes in names, of Windows, are separators."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            compression = -1 if member.flag_bits & 1 else member.compress_type
            if not member.is_dir():
                entry = (member.file_size, 0, member.CRC, member.header_offset, member.compress_size, compression)
                kind = "link" if stat.S_ISLNK(member.external_attr >> 16) else ""
                yield ArchiveMember(member.filename.replace("\\", "/"), None if kind else entry, kind)


def tar_members(path: Path) -> Iterator[ArchiveMember]:
    """All members of a tar but folders; a link to an earlier member is that member.

    Raises `DataError` where its headers end before the archive does: tarfile takes damage there for the end.
    """
    entries: dict[str, FileEntry] = {}
    with tarfile.open(path, "r:", errors="surrogateescape") as archive:
        for member in archive:
            if member.isreg() and not member.issparse():
                modified = int(min(max(member.mtime, 0), MAX_MTIME_NS / 1e9) * 1e9)
                entry = (member.size, modified, -1, member.offset_data, member.size, -1)
                entries[plain_member(member.name)] = entry
            found = entries.get(plain_member(member_target(member)))
            if found:
                entries[plain_member(member.name)] = found
            if not member.isdir():
                kind = next((kind for kind, is_kind in TAR_KINDS.items() if is_kind(member)), "other member")
                yield ArchiveMember(member.name, found, "" if found else kind)
        check_tar_end(path, archive)


def check_tar_end(path: Path, archive: tarfile.TarFile) -> None:
    """Raises `DataError` unless the members end where the archive does, at zeros or the file's end."""
    end, whole = archive.offset, os.stat(path).st_size
    if end < whole and read_image_bytes(path, end, min(tarfile.BLOCKSIZE, whole - end)).strip(b"\0"):
        read = plural(len(archive.getmembers()), "member")
        what = f"{str(path)!r} is damaged: {read} could be read, up to byte {end:,} of {whole:,}."
        raise DataError(what, "What follows is no header of a member.", "Copy or download it again.")


def plain_member(name: str) -> str:
    """A member's name as its links spell it."""
    return posixpath.normpath(name)


def member_target(member: tarfile.TarInfo) -> str:
    """The name of the member that holds the data of this one: its own, or that of a link."""
    if member.issym():
        return posixpath.join(posixpath.dirname(member.name), member.linkname)
    return member.linkname if member.islnk() else member.name


def list_archive(path: Path, members: Iterable[ArchiveMember]) -> FileListing:
    """The listing of an archive's members; of duplicate names the last one counts, as when extracting.

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
    except LwclError:
        raise
    except Exception as error:  # zipfile and tarfile raise nearly everything on hostile archives
        what = f"{str(path)!r} is not a complete archive."
        raise DataError(what, f"{type(error).__name__}: {str(error)!r}.", "Copy or download it again.") from None
    kinds = ", ".join(plural(count, kind, PLURALS.get(kind, "")) for kind, count in unread.items() if count)
    listing = make_listing(entries, path, f"Found {others} other files{' and ' + kinds if kinds else ''}.")
    return listing._replace(notes=(*listing.notes, f"{str(path)!r}: not read: {kinds}.")) if kinds else listing


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


def cached_listing(path: Path, stamp: tuple[int, int], build: Callable[[], FileListing]) -> FileListing:
    """The listing that `build` returns, cached by absolute path and valid for this stamp.

    25,000 members: 0.006 s instead of 0.2 s (zip) or 0.6 s (tar). A cache that is not readable or writable is no error.
    """
    key = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:32]
    file = cache_folder() / "index" / f"{key}.npz"
    valid = np.array([INDEX_VERSION, *stamp])
    with contextlib.suppress(Exception):  # a damaged file may raise anything
        cached = np.load(io.BytesIO(file.read_bytes()), allow_pickle=False)
        if (cached["valid"] == valid).all():  # np.load verifies the checksums
            names = cached["names"].tobytes().decode("utf-8", "surrogateescape").split("\0")
            notes = cached["notes"].tobytes().decode("utf-8", "surrogateescape")
            return FileListing(names, cached["table"], tuple(notes.split("\0")) if notes else ())
    listing = build()
    names = "\0".join(listing.names).encode("utf-8", "surrogateescape")
    content = io.BytesIO()
    notes = "\0".join(listing.notes).encode("utf-8", "surrogateescape")
    names_array, notes_array = (np.frombuffer(text, np.uint8) for text in (names, notes))
    np.savez(content, valid=valid, names=names_array, notes=notes_array, table=listing.table)
    crash_point("index.write")
    with contextlib.suppress(LwclError):
        write_atomically(file, content.getvalue())
    return listing
