"""Images read in place from uncompressed .tar files: one, or many shards that form one data set."""

import os
import posixpath
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from lwcl.data.sources.archives import (
    ArchiveMember,
    UnusualArchiveError,
    cached_listing,
    check_not_modified,
    list_archive,
)
from lwcl.data.sources.files import OFFSET, SIZE, FileEntry, FileListing, TableRow, read_image_bytes
from lwcl.data.sources.sidecars import sidecar_labels
from lwcl.errors import DataError
from lwcl.formatting import plural

MAX_MTIME_NS = 2**62  # later modification times are wrong, and would not fit into 64 bits
BLOCK = tarfile.BLOCKSIZE
READ_BYTES = 16 * 1024  # at once while headers are read

#: Members of a tar that are no files, and how to tell.
TAR_KINDS: dict[str, Callable[[tarfile.TarInfo], bool]] = {
    "link": lambda member: member.issym() or member.islnk(),
    "device or pipe": lambda member: member.isdev(),
    "sparse file": lambda member: member.issparse(),
}
#: Records of an extended header after which a member is more than a name, a size and a time.
UNUSUAL_RECORDS = ("GNU.sparse", "hdrcharset", "linkpath")


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
        return cached_listing([self.path], [self.stamp], lambda: list_tar(self.path))

    def read(self, name: str, row: TableRow) -> bytes:
        """See `FileContainer`."""
        check_not_modified(self.path, self.stamp)
        return read_image_bytes(self.path, row[OFFSET], row[SIZE])


def list_tar(path: Path, *, by_name: bool = True) -> FileListing:
    """The listing of a tar, with the labels that lie beside its images; raises `DataError`."""
    beside: dict[str, FileEntry] = {}
    try:
        listing = list_archive(path, plain_tar_members(path), by_name=by_name, beside=beside)
    except UnusualArchiveError:
        beside.clear()
        listing = list_archive(path, tar_members(path), by_name=by_name, beside=beside)
    with open(path, "rb", buffering=0) as file:
        labels = sidecar_labels(
            listing.names, beside, lambda entry: os.pread(file.fileno(), entry[SIZE], entry[OFFSET])
        )
    return listing._replace(labels=labels)


def plain_tar_members(path: Path) -> Iterator[ArchiveMember]:
    """The files of a tar without links or other special members: 20 times as fast as `tar_members`.

    Raises `UnusualArchiveError` for all else, damage too, and leaves that to `tar_members`.
    """
    whole = os.stat(path).st_size
    with open(path, "rb", buffering=READ_BYTES) as file:
        position, records = 0, dict[str, str]()
        while position < whole:
            file.seek(position)
            header = file.read(BLOCK)
            if not header.strip(b"\0") and len(header) == BLOCK and position:
                return
            kind, name, size, modified = plain_header(header)
            position += BLOCK
            if kind == b"x":
                records = extended_records(file, size)
            elif kind == b"L":  # GNU's long name
                records = {"path": file.read(size).partition(b"\0")[0].decode("utf-8", "surrogateescape")}
            else:
                size, time = int(records.get("size", size)), member_time(float(records.get("mtime", modified)))
                if kind != b"5":
                    yield ArchiveMember(records.get("path", name), (size, time, -1, position, size, -1))
                records = {}
            position += -(-size // BLOCK) * BLOCK
        if position != whole or not whole:
            raise UnusualArchiveError


def member_time(modified: float) -> int:
    """A modification time (s) in whole nanoseconds, within what 64 bits hold."""
    return int(min(max(modified, 0), MAX_MTIME_NS / 1e9) * 1e9)


def plain_header(header: bytes) -> tuple[bytes, str, int, int]:
    """Type (file `0`, folder `5`, extended header `x`, long name `L`), name, size and time of a member."""
    kind = header[156:157].replace(b"\0", b"0")
    try:
        fields = (header[first:last] for first, last in ((124, 136), (136, 148), (148, 156)))
        size, modified, checksum = (int(field.strip(b" \0") or b"0", 8) for field in fields)
    except ValueError:
        raise UnusualArchiveError from None
    # The checksum is the sum of all bytes, its own field as blanks; so is the low half of Adler-32, modulo 65,521.
    sums = (zlib.adler32(header[:148] + b" " * 8 + header[156:]) & 0xFFFF, (checksum + 1) % 65521)
    if kind not in b"05xL" or header[257:262] != b"ustar" or len(header) < BLOCK or sums[0] != sums[1] or size < 0:
        raise UnusualArchiveError
    prefix, name = (header[a:b].partition(b"\0")[0] for a, b in ((345, 500), (0, 100)))
    whole = (prefix + b"/" + name if prefix else name).decode("utf-8", "surrogateescape")
    if whole.endswith("/") and kind == b"0":  # how old archives write folders
        raise UnusualArchiveError
    return kind, whole, size, modified


def extended_records(file: BinaryIO, size: int) -> dict[str, str]:
    """The records of an extended header (POSIX.1-2001, pax): each its length in bytes, a blank, and `key=value\\n`."""
    records, data = {}, file.read(size)
    while data:
        length, _, _ = data.partition(b" ")
        if not length.isdigit() or not len(length) < int(length) <= len(data):
            raise UnusualArchiveError
        key, _, value = data[len(length) + 1 : int(length) - 1].decode("utf-8", "surrogateescape").partition("=")
        if key.startswith(UNUSUAL_RECORDS):
            raise UnusualArchiveError
        records[key], data = value, data[int(length) :]
    return records


def tar_members(path: Path) -> Iterator[ArchiveMember]:
    """All members of a tar but folders; a link to an earlier member is that member.

    Raises `DataError` where its headers end before the archive does: tarfile takes damage there for the end.
    """
    entries: dict[str, FileEntry] = {}
    with tarfile.open(path, "r:", errors="surrogateescape") as archive:
        for member in archive:
            if member.isreg() and not member.issparse():
                entry = (member.size, member_time(member.mtime), -1, member.offset_data, member.size, -1)
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
    if end < whole and read_image_bytes(path, end, min(BLOCK, whole - end)).strip(b"\0"):
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
