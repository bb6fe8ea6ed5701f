"""Files that survive a kill and a full disk: atomic writes, disk errors explained, and crash points for tests.

An atomic write is: write a temporary file, fsync it, rename it, fsync the folder (fsync(2), rename(2)). Crash points
follow SQLite's testing strategy: fail at every point, one after the other (sqlite.org/testing.html).
"""

import collections
import contextlib
import errno
import hashlib
import math
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from lwcl.errors import StorageError, UsageError

CRASH_POINTS = (
    "file.written",  # a temporary file is complete and on disk, but not renamed yet
    "file.renamed",  # it is renamed, but the folder is not synced yet
    "checkpoint.mkdir",
    "checkpoint.file",  # once per file of a checkpoint
    "checkpoint.manifest",
    "checkpoint.sync",
    "checkpoint.replace",  # only if this step was saved before: the old one is aside, the new one not in place
    "checkpoint.rename.before",
    "checkpoint.rename.after",
    "checkpoint.prune",  # once per old checkpoint
    "metrics.append",
    "config.write",
    "encoder.write",
    "export.write",
    "report.write",
    "index.write",
    *("cache.index", "cache.rename"),
    *("chunk.written", "chunk.noted"),  # once per chunk: it is on disk; its entry in the index is, too
)
TEMPORARY_NAME = re.compile(r"\.tmp-(\d{1,9})-")
REMEDY_BY_ERRNO = {
    errno.ENOSPC: ("The disk is full", "Free some space there, or write to another disk"),
    errno.EDQUOT: ("Your disk quota is used up", "Free some space there, or write to another disk"),
    errno.EFBIG: ("The file is larger than this process or file system may write", "Raise the limit (ulimit -f)"),
    errno.EROFS: ("The file system is read-only", "Write to another folder"),
    errno.EACCES: ("Permission denied", "Write to a folder of your own, or change its permissions"),
}
crash_counts: collections.Counter[str] = collections.Counter()


def crash_point(name: str) -> None:
    """Kill this process (SIGKILL) if LWCL_CRASH_AT is `name`, or `name@k` at the k-th call; else do nothing.

    Raises `UsageError` if `name` or LWCL_CRASH_AT is not in `CRASH_POINTS`: a typo must not pass for a survived crash.
    """
    wanted, _, count = os.environ.get("LWCL_CRASH_AT", "").partition("@")
    for point in (name, wanted or name):
        if point not in CRASH_POINTS:
            raise UsageError(f"Unknown crash point: {point!r}.", remedy=f"Possible: {', '.join(CRASH_POINTS)}.")
    if name == wanted:
        crash_counts[name] += 1
        if crash_counts[name] == int(count or 1):
            os.kill(os.getpid(), signal.SIGKILL)


def cache_folder() -> Path:
    """The folder of all caches: $LWCL_CACHE, else $XDG_CACHE_HOME/lwcl, else ~/.cache/lwcl, else a temporary one."""
    if chosen := os.environ.get("LWCL_CACHE"):
        return Path(os.path.expanduser(chosen))  # ~user stays as it is if there is no such user
    xdg = os.environ.get("XDG_CACHE_HOME", "")  # whose specification ignores relative paths
    home = os.path.expanduser("~/.cache")  # stays as it is for a user without a home, as in a container
    if xdg.startswith("/"):
        return Path(xdg, "lwcl")
    return Path(tempfile.gettempdir(), f"lwcl-{os.getuid()}") if home.startswith("~") else Path(home, "lwcl")


def format_bytes(size: int) -> str:
    """A number of bytes as text: `12.3 MB` (decimal units)."""
    scale = min(int(math.log10(max(size, 1))) // 3, 4)
    return f"{size} bytes" if scale == 0 else f"{size / 1000**scale:.1f} {('kB', 'MB', 'GB', 'TB')[scale - 1]}"


def free_space(path: Path) -> int:
    """Free bytes on the disk of `path`, which need not exist."""
    above = (path.absolute(), *path.absolute().parents)
    return shutil.disk_usage(next(folder for folder in above if folder.exists())).free


def require_free_space(path: Path, size: int) -> None:
    """Raise `StorageError` unless `size` more bytes fit on the disk of `path`."""
    with explain_disk_errors(path, size):
        if free_space(path) < size:
            raise OSError(errno.ENOSPC, "")


@contextlib.contextmanager
def explain_disk_errors(path: Path, size: int = 0) -> Iterator[None]:
    """Turn an `OSError` while writing `path` (`size` bytes) into a `StorageError` with reason and remedy."""
    try:
        yield
    except OSError as error:
        fallback = (error.strerror or str(error), "Check the path, or write to another folder")
        why, remedy = REMEDY_BY_ERRNO.get(errno.EACCES if error.errno == errno.EPERM else error.errno or 0, fallback)
        if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            why += (
                f": {format_bytes(size) + ' needed, ' if size else ''}{format_bytes(free_space(path))} free on the disk"
            )
        raise StorageError(f"Cannot write {path}.", f"{why}.", f"{remedy}.") from error


def write_and_sync(file: BinaryIO, content: bytes) -> None:
    """Write to an open file and wait until the content is on disk."""
    file.write(content)
    file.flush()
    os.fsync(file.fileno())


def write_synced(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Write a new file, with permissions by the umask, and wait until it is on disk."""
    with open(path, "xb") as file:
        file.writelines([data] if isinstance(data, bytes) else data)
        write_and_sync(file, b"")


def sync_folder(folder: Path) -> None:
    """Wait until the names in `folder` are on disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot sync a folder
            raise
    finally:
        os.close(descriptor)


def temporary_path(path: Path) -> Path:
    """An unused hidden name next to `path`; it contains the process id, for `remove_leftovers`."""
    hidden = path.with_name(f".tmp-{os.getpid()}-{path.name[:50]}")
    remove_path(hidden)  # an earlier process with this id may have been killed
    return hidden


def write_atomically(path: Path, data: bytes | str | Iterable[str]) -> None:
    """Write `path` so that it holds the complete old or new content at every moment; parent folders are created.

    Lines are written as they come: they need not fit in memory. Raises `StorageError` if the disk is full, read-only
    or not writable; then the old content is still there.
    """
    data = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
    parts = data if isinstance(data, bytes) else (line.encode("utf-8", "surrogateescape") for line in data)
    unfinished = temporary_path(path)
    with explain_disk_errors(path, len(data) if isinstance(data, bytes) else 0):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_synced(unfinished, parts)
            crash_point("file.written")
            unfinished.replace(path)
        except BaseException:
            remove_path(unfinished)
            raise
        crash_point("file.renamed")
        sync_folder(path.parent)


def remove_leftovers(folder: Path, *, all_processes: bool = False) -> None:
    """Remove the temporary files and folders that killed processes left in `folder`.

    `all_processes`: also those of running processes, since process ids are reused; only for the owner of the folder's
    lock.
    """
    for path in folder.glob(".tmp-*"):
        match = TEMPORARY_NAME.match(path.name)
        if match and (all_processes or int(match[1]) == os.getpid() or not process_is_running(int(match[1]))):
            remove_path(path)


def process_is_running(process: int) -> bool:
    """Whether a process with this id is running on this machine."""
    try:
        os.kill(process, 0)
    except OSError as error:
        return error.errno == errno.EPERM
    return True


def remove_path(path: Path) -> None:
    """Remove a file, link or folder with its content, if it exists and can be removed."""
    with contextlib.suppress(OSError):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
