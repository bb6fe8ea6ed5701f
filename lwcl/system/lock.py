"""One process a run folder: a lock that goes with its process, so that a killed one leaves no stale lock (fcntl(2))."""

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from lwcl.errors import UsageError
from lwcl.system.atomic_files import explain_disk_errors

locked_paths: set[Path] = set()


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process, by a record lock on its `.lock`, which also tells who holds it.

    A record lock, not flock(2): that one would pass to forked data workers, which outlive a killed parent by seconds.
    Raises `UsageError` with the holder's process id and host when it is held, `StorageError` when it cannot be written.
    """
    path = (folder / ".lock").resolve()
    if (
        path in locked_paths
    ):  # before opening it: closing any descriptor of a file drops this process's record locks on it
        raise folder_in_use_error(folder, f"process {os.getpid()}, this one")
    with explain_disk_errors(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        if not try_lock(descriptor):
            raise folder_in_use_error(
                folder, os.pread(descriptor, 1000, 0).decode(errors="replace").strip() or "another process"
            )
        locked_paths.add(path)
        with explain_disk_errors(path):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
    finally:
        locked_paths.discard(path)
        os.close(descriptor)


def try_lock(descriptor: int) -> bool:
    """Try to lock a file for this process: false when another has it. A file system without locks counts as free."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN)
    return True


def is_locked(folder: Path) -> bool:
    """Whether a running process, this one included, holds `folder`, or it cannot be told."""
    path = (folder / ".lock").resolve()
    if path in locked_paths or not path.exists():
        return path in locked_paths
    try:
        with open(path, "r+b") as file:
            return not try_lock(file.fileno())
    except OSError:
        return True


def folder_in_use_error(folder: Path, holder: str) -> UsageError:
    """The error for a folder that is held."""
    return UsageError(f"The run folder {folder} is in use by {holder}.", remedy="Wait for it, or give another --out.")
