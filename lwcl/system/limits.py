"""The CPUs and memory that this process may use: those of the machine, within the limits of its control groups.

Source: the Linux kernel's documentation of cgroup v1 (`cpu.cfs_quota_us`, `memory.limit_in_bytes`) and v2 (`cpu.max`,
`memory.max`). A `root` other than / is for tests.
"""

import math
import os
from pathlib import Path

from lwcl.system.ranks import current_ranks
from lwcl.system.slurm import granted_cpus

ROOT = Path("/")


def usable_cpus() -> int:
    """CPUs that affinity, cgroup quota and SLURM leave to this process, rounded down, at least 1."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.floor(min(affinity, cgroup_cpu_quota(), granted_cpus() or affinity)))


def own_cpus() -> int:
    """This process's share of the CPUs: torchrun's processes see all of them, srun has bound each to its own."""
    ranks = current_ranks()
    return max(1, usable_cpus() // (ranks.local_size if ranks.launcher == "torchrun" else 1))


def available_memory(root: Path = ROOT) -> int:
    """Bytes that this process can still allocate."""
    limits = [left for group in cgroup_folders("memory", root) if (left := memory_left(group)) is not None]
    return max(0, min([system_available_memory(root), *limits]))


def cgroup_cpu_quota(root: Path = ROOT) -> float:
    """The number of CPUs that the cgroups of this process allow, `inf` without a limit."""
    return min(map(cpu_limit, cgroup_folders("cpu", root)), default=math.inf)


def cgroup_folders(controller: str, root: Path = ROOT) -> list[Path]:
    """The folders of this process's cgroups, v1 and v2, for `cpu` or `memory`, and of their ancestors.

    Some may not exist: in a container a group's own path may not be visible, and its limit is then at the mount itself.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    mount = root / "sys/fs/cgroup"
    folders: list[Path] = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        hierarchies = [mount / controller, mount / controllers] if controllers else [mount, mount / "unified"]
        inner = Path(group.lstrip("/"))
        folders += [hierarchy / level for hierarchy in hierarchies for level in (inner, *inner.parents)]
    return folders


def cpu_limit(group: Path) -> float:
    """CPUs that one cgroup allows: `cpu.max` (v2), or quota over period (v1); `inf` without a limit."""
    for files in (["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]):
        try:
            quota, period = (int(word) for file in files for word in (group / file).read_text().split())
        except (OSError, ValueError):  # no such file, or "max": unlimited
            continue
        if quota > 0 and period > 0:
            return quota / period
    return math.inf


def memory_left(group: Path) -> int | None:
    """Bytes that one cgroup has left, with reclaimable file cache counted as free; None without a limit."""
    for limit, used, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            maximum = (group / limit).read_text().strip()
            current = int((group / used).read_text())
            stats = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):
            continue
        if maximum != "max":
            return int(maximum) - current + int(stats.get(cache, 0))
    return None


def system_available_memory(root: Path) -> int:
    """`MemAvailable` on Linux, in bytes; elsewhere half of the physical memory."""
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
