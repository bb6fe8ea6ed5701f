"""Processes that die: run a piece of a test in a forked child, kill it at a crash point or limit what it may write."""

import os
import resource
import signal
import traceback
import warnings
from collections.abc import Callable

KILLED = -9


def in_child(work: Callable[[], object], *, fault: str = "", largest_file: int | None = None) -> int:
    """The exit code of a child that does `work`: 0, 1 for an exception (shown), -9 where `fault` killed it.

    `largest_file` bytes: a write beyond fails with EFBIG, as on a full disk, and needs no root.
    """
    return ended(started(work, fault, largest_file))


def started(work: Callable[[], object], fault: str = "", largest_file: int | None = None) -> int:
    """The process id of a child that does `work`, as `in_child` has it, and must be `ended`."""
    with warnings.catch_warnings(action="ignore"):  # newer Pythons warn of forks beside threads
        child = os.fork()
    if child == 0:
        try:
            os.environ["LWCL_CRASH_AT"] = fault
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with it ignored
            for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, signal.SIGXCPU):
                signal.signal(number, signal.SIG_DFL)
            if largest_file is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    return child


def ended(child: int) -> int:
    """Wait for a child; its exit code."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
