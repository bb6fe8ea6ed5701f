"""Process settings for training on a CPU: short spin waits, and an allocator that keeps freed memory.

Sources: `man 3 mallopt`; GNU libgomp's manual (`GOMP_SPINCOUNT`).
"""

import ctypes
import os
import sys

# <malloc.h>. glibc returns blocks above the mmap threshold to the kernel when they are freed, and every training step
# then page-faults the same activations in again; with these settings they stay with the process.
MALLOPT_OPTIONS = {
    -3: 1 << 30,  # M_MMAP_THRESHOLD: below 1 GiB, allocate from the heap
    -1: (1 << 31) - 1,  # M_TRIM_THRESHOLD: the largest int, so that the heap never shrinks
    -2: 64 << 20,  # M_TOP_PAD: grow the heap by 64 MiB at a time
}

# How often a waiting OpenMP thread polls before it sleeps. libgomp's default of 300,000 keeps a CPU from other
# programs, another run above all.
GOMP_SPINS = "4000"


def shorten_spin_wait() -> None:
    """Let waiting threads yield to other programs soon. Call before torch is imported; the user's settings win.

    Measured: benchmarks/sharing.py.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", GOMP_SPINS)


def keep_freed_memory() -> bool:
    """Keep freed memory in the process instead of returning it after each step; True if the settings were accepted.

    Needs glibc on Linux; does nothing elsewhere and returns False. Measured: benchmarks/depthwise.py.
    """
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    accepted = [library.mallopt(option, value) for option, value in MALLOPT_OPTIONS.items()]
    return all(accepted)
