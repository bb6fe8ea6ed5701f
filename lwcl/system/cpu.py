"""What a CPU run asks of the machine before it starts: its CPUs, patient threads, an allocator that keeps its memory.

Sources: `man 3 mallopt`; GNU libgomp's manual (`GOMP_SPINCOUNT`); the kernel's documentation of cgroup v1
(`cpu.cfs_quota_us`) and v2 (`cpu.max`).
"""

import ctypes
import math
import os
import sys
from pathlib import Path

PROC_CGROUP = Path("/proc/self/cgroup")
CGROUP_ROOT = Path("/sys/fs/cgroup")

# <malloc.h>. glibc returns blocks above the mmap threshold to the kernel when they are freed, and every training step
# faults the same activations in again; with these settings they stay with the process.
MALLOPT_OPTIONS = {
    -3: 1 << 30,  # M_MMAP_THRESHOLD: below 1 GiB, take memory from the heap
    -1: (1 << 31) - 1,  # M_TRIM_THRESHOLD: the largest int, so that the heap does not shrink
    -2: 64 << 20,  # M_TOP_PAD: grow the heap by 64 MiB at a time
}

# How often a thread that waits for others looks again before it sleeps. libgomp's own 300,000 keep a CPU from whoever
# else wants it, another run above all.
GOMP_SPINS = "4000"


def usable_cpus() -> int:
    """How many CPUs this process may use, at least 1: by its affinity and its cgroup's quota, rounded down."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.floor(min(affinity, cgroup_cpu_quota())))


def cgroup_cpu_quota(membership: Path = PROC_CGROUP, root: Path = CGROUP_ROOT) -> float:
    """CPUs that the cgroups of this process grant (v1 and v2, every ancestor's limit counts), `inf` without a limit.

    `membership` lists the groups as /proc/self/cgroup does; `root` is where the groups are mounted.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return math.inf
    quota = math.inf
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            mounts = [root, root / "unified"]
        elif "cpu" in controllers.split(","):
            mounts = [root / "cpu", root / controllers]
        else:
            continue
        # Inside a container the path may name a group that is not visible there: its limit is then at the mount itself.
        inner = Path(group.lstrip("/"))
        quota = min(
            [quota, *(cgroup_cpu_limit(mount / level) for mount in mounts for level in (inner, *inner.parents))]
        )
    return quota


def cgroup_cpu_limit(group: Path) -> float:
    """CPUs that one cgroup's own files grant: `cpu.max` (v2), or quota over period (v1); `inf` where neither limits."""
    for files in (["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]):
        try:
            quota, period = (int(word) for file in files for word in (group / file).read_text().split())
        except (OSError, ValueError):  # no such file, or "max": unlimited
            continue
        if quota > 0 and period > 0:
            return quota / period
    return math.inf


def shorten_spin_wait() -> None:
    """Let threads that wait give way to other programs soon; only before torch is imported, and where nothing is set.

    Measured: benchmarks/sharing.py.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", GOMP_SPINS)


def keep_freed_memory() -> bool:
    """Keep freed memory in the process instead of handing it back at each step; True if the settings were taken.

    Only glibc on Linux has them: elsewhere nothing is done and False returned. Measured: benchmarks/depthwise.py.
    """
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    taken = [library.mallopt(option, value) for option, value in MALLOPT_OPTIONS.items()]
    return all(taken)
