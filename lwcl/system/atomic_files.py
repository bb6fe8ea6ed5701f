"""Files that survive a kill and a full disk: atomic writes, errors in words, and points where tests crash the program.

Atomic is: write a temporary file, fsync it, rename it, fsync the folder (fsync(2), rename(2)). The crash points follow
SQLite's way of testing: fail at every point there is, one after the other (sqlite.org/testing.html).
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
from collections.abc import Iterator
from pathlib import Path

from lwcl.errors import StorageError, UsageError

FAULT_POINTS = (
    "file.written",  # a temporary file is whole and on disk, and does not have its name yet
    "file.renamed",  # it has its name, and the folder is not synced yet
    "checkpoint.mkdir",
    "checkpoint.file",  # once for each file of a checkpoint
    "checkpoint.manifest",
    "checkpoint.sync",
    "checkpoint.replace",  # only where this step was saved before: the old one is aside, the new one not in place
    "checkpoint.rename.before",
    "checkpoint.rename.after",
    "checkpoint.prune",  # once for each old checkpoint
    "metrics.append",
    "config.write",
    "encoder.write",
    "export.write",
    "report.write",
    "index.write",
    *("store.rows", "store.rename"),
    *("chunk.written", "chunk.noted"),  # once for each chunk: it is on disk; its note is, too
)
TEMPORARY_NAME = re.compile(r"\.tmp-(\d{1,9})-")
REMEDY_BY_ERRNO = {
    errno.ENOSPC: ("The disk is full", "Free some space there, or write to another disk"),
    errno.EDQUOT: ("Your disk quota is used up", "Free some space there, or write to another disk"),
    errno.EFBIG: ("The file is larger than this process or file system may write", "Raise the limit (ulimit -f)"),
    errno.EROFS: ("The file system is read-only", "Write to another folder"),
    errno.EACCES: ("You may not write there", "Write to a folder of your own, or change its permissions"),
}
fault_counts: collections.Counter[str] = collections.Counter()


def crash_point(name: str) -> None:
    """Kill this process (SIGKILL) if LWCL_FAULT is `name`, or `name@k` at the k-th call; else do nothing.

    Raises `UsageError` when `name`, or what LWCL_FAULT names, is not in `FAULT_POINTS`: a typo must not pass for a
    survived crash.
    """
    wanted, _, count = os.environ.get("LWCL_FAULT", "").partition("@")
    for point in (name, wanted or name):
        if point not in FAULT_POINTS:
            raise UsageError(f"Unknown fault point: {point!r}.", remedy=f"Possible: {', '.join(FAULT_POINTS)}.")
    if name == wanted:
        fault_counts[name] += 1
        if fault_counts[name] == int(count or 1):
            os.kill(os.getpid(), signal.SIGKILL)


def cache_folder() -> Path:
    """Where to keep what can be made again: $LWCL_CACHE, else $XDG_CACHE_HOME/lwcl, else ~/.cache/lwcl."""
    if chosen := os.environ.get("LWCL_CACHE"):
        return Path(os.path.expanduser(chosen))  # of an unknown ~user it is left as it is
    xdg = os.environ.get("XDG_CACHE_HOME", "")  # whose specification ignores relative paths
    return Path(xdg if xdg.startswith("/") else os.path.expanduser("~/.cache"), "lwcl")


def format_bytes(size: int) -> str:
    """A number of bytes for people: `12.3 MB` (decimal units)."""
    scale = min(int(math.log10(max(size, 1))) // 3, 4)
    return f"{size} bytes" if scale == 0 else f"{size / 1000**scale:.1f} {('kB', 'MB', 'GB', 'TB')[scale - 1]}"


def free_space(path: Path) -> int:
    """Free bytes where `path` is, or would be made."""
    above = (path.absolute(), *path.absolute().parents)
    return shutil.disk_usage(next(folder for folder in above if folder.exists())).free


def require_free_space(path: Path, size: int) -> None:
    """Raise `StorageError` unless `size` more bytes fit on the disk of `path`."""
    with explain_disk_errors(path, size):
        if free_space(path) < size:
            raise OSError(errno.ENOSPC, "")


@contextlib.contextmanager
def explain_disk_errors(path: Path, size: int = 0) -> Iterator[None]:
    """Turn an `OSError` of writing `path` (`size` bytes) into a `StorageError` that says why and what to do."""
    try:
        yield
    except OSError as error:
        other = (error.strerror or str(error), "Check the path, or write to another folder")
        why, remedy = REMEDY_BY_ERRNO.get(errno.EACCES if error.errno == errno.EPERM else error.errno or 0, other)
        if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            why += (
                f": {format_bytes(size) + ' needed, ' if size else ''}{format_bytes(free_space(path))} free on the disk"
            )
        raise StorageError(f"Cannot write {path}.", f"{why}.", f"{remedy}.") from error


def write_synced(path: Path, data: bytes) -> None:
    """Write a new file, its permissions by the umask, and wait until the disk has it."""
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the names in `folder`."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot sync a folder
            raise
    finally:
        os.close(descriptor)


def temporary_path(path: Path) -> Path:
    """A hidden name beside `path` that is free, and that tells `remove_leftovers` whose it is."""
    hidden = path.with_name(f".tmp-{os.getpid()}-{path.name[:50]}")
    remove_path(hidden)  # an earlier process may have had this id, and been killed
    return hidden


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write `path` so that at every moment it holds the old content or the new, whole; folders above are made.

    Raises `StorageError` when the disk is full, read-only or forbidden; then the old content is still there.
    """
    content = data if isinstance(data, bytes) else data.encode("utf-8", "surrogateescape")
    unfinished = temporary_path(path)
    with explain_disk_errors(path, len(content)):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_synced(unfinished, content)
            crash_point("file.written")
            unfinished.replace(path)
        except BaseException:
            remove_path(unfinished)
            raise
        crash_point("file.renamed")
        sync_folder(path.parent)


def remove_leftovers(folder: Path, *, of_the_living: bool = False) -> None:
    """Remove the temporary files and folders that killed processes left in `folder`.

    `of_the_living`: those of running processes as well; for who holds the folder's lock, since ids are used again.
    """
    for path in folder.glob(".tmp-*"):
        match = TEMPORARY_NAME.match(path.name)
        if match and (of_the_living or int(match[1]) == os.getpid() or not process_is_running(int(match[1]))):
            remove_path(path)


def process_is_running(process: int) -> bool:
    """Whether a process of this id runs on this machine."""
    try:
        os.kill(process, 0)
    except OSError as error:
        return error.errno == errno.EPERM
    return True


def remove_path(path: Path) -> None:
    """Remove a file, link or whole folder if it is there; what cannot be removed stays."""
    with contextlib.suppress(OSError):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
