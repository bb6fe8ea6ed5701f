"""File locks that end with their process, so that a killed one leaves no stale lock: record locks, fcntl(2).

Not flock(2): such a lock would pass to forked data workers, which outlive a killed parent by seconds.
"""

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
    """Lock a run folder for this process through its `.lock` file, which names the process.

    Raises `UsageError` with the owner's process id and host if it is locked, `StorageError` if it is not writable.
    """
    path = (folder / ".lock").resolve()
    if path in locked_paths:  # checked before opening: closing any descriptor of a file drops its record locks
        raise folder_in_use_error(folder, f"process {os.getpid()}, this one")
    with contextlib.ExitStack() as stack:
        with explain_disk_errors(path):
            descriptor = stack.enter_context(opened_for_locking(path))
        if not acquire(descriptor, wait=False):
            owner = os.pread(descriptor, 1000, 0).decode(errors="replace").strip()
            raise folder_in_use_error(folder, owner or "another process")
        locked_paths.add(path)
        stack.callback(locked_paths.discard, path)
        with explain_disk_errors(path):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield


@contextlib.contextmanager
def wait_for_lock(path: Path) -> Iterator[None]:
    """Wait until no other process holds the lock file `path`, then hold it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with opened_for_locking(path) as descriptor:
        acquire(descriptor, wait=True)
        yield


@contextlib.contextmanager
def opened_for_locking(path: Path) -> Iterator[int]:
    """A descriptor of a lock file, created if it is missing; closing it releases the lock."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def acquire(descriptor: int, *, wait: bool) -> bool:
    """Lock a file for this process; False if another one holds it. File systems without locks count as unlocked."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN)
    return True


def is_locked(folder: Path) -> bool:
    """Whether a running process, this one included, holds `folder`; True also if that cannot be determined."""
    path = (folder / ".lock").resolve()
    if path in locked_paths or not path.exists():
        return path in locked_paths
    try:
        with open(path, "r+b") as file:
            return not acquire(file.fileno(), wait=False)
    except OSError:
        return True


def folder_in_use_error(folder: Path, owner: str) -> UsageError:
    """The error for a run folder that another process uses."""
    return UsageError(f"The run folder {folder} is in use by {owner}.", remedy="Wait for it, or give another --out.")
