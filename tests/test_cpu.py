"""What a CPU run asks of the machine: its CPUs, and the allocator."""

import ctypes
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lwcl.system import cpu, limits
from lwcl.system.environment import cpu_name


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    ("membership", "files", "quota"),
    [
        pytest.param("0::/job", {"job/cpu.max": "150000 100000\n"}, 1.5, id="version-2"),
        pytest.param("0::/job", {"job/cpu.max": "max 100000\n"}, math.inf, id="version-2-unlimited"),
        pytest.param("0::/a/b", {"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000"}, 2, id="parent-counts"),
        pytest.param("0::/a/b", {"a/cpu.max": "400000 100000", "a/b/cpu.max": "300000 100000"}, 3, id="tightest"),
        pytest.param("0::/not/seen/here", {"cpu.max": "50000 100000"}, 0.5, id="container-sees-its-group-as-the-root"),
        pytest.param("0::/job", {"unified/job/cpu.max": "100000 100000"}, 1, id="hybrid"),
        pytest.param(
            "4:cpu,cpuacct:/job\n3:memory:/job",
            {"cpu/job/cpu.cfs_quota_us": "250000\n", "cpu/job/cpu.cfs_period_us": "100000\n"},
            2.5,
            id="version-1",
        ),
        pytest.param(
            "1:cpu:/",
            {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
            math.inf,
            id="version-1-unlimited",
        ),
        pytest.param("2:memory:/job", {"cpu/job/cpu.cfs_quota_us": "100000"}, math.inf, id="not-a-cpu-group"),
        pytest.param("0::/job", {"job/cpu.max": "not what is expected"}, math.inf, id="unreadable-is-unlimited"),
    ],
)
def test_a_cgroup_quota_is_read(tmp_path: Path, membership: str, files: dict[str, str], quota: float) -> None:
    write(tmp_path, {"proc/self/cgroup": membership + "\n"})
    write(tmp_path / "sys/fs/cgroup", files)
    assert limits.cgroup_cpu_quota(tmp_path) == quota


def test_without_cgroups_there_is_no_quota(tmp_path: Path) -> None:
    assert limits.cgroup_cpu_quota(tmp_path) == math.inf


@pytest.mark.parametrize(("quota", "cpus"), [(0.5, 1), (1.9, 1), (3.0, 3), (math.inf, 8)])
def test_usable_cpus_are_whole_and_at_least_one(monkeypatch: pytest.MonkeyPatch, quota: float, cpus: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(limits, "cgroup_cpu_quota", lambda: quota)
    assert limits.usable_cpus() == cpus


def test_usable_cpus_follow_the_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5}, raising=False)
    assert limits.usable_cpus() == 1


def test_without_affinities_all_cpus_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    monkeypatch.setattr(limits, "cgroup_cpu_quota", lambda: math.inf)
    assert limits.usable_cpus() == 6


def test_the_allocator_is_left_alone_off_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cpu.keep_freed_memory() is False


def test_the_allocator_is_left_alone_without_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert cpu.keep_freed_memory() is False


KEEPS_MEMORY = """
import ctypes, resource, sys
from lwcl.system.cpu import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        bytearray(64 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
stock = faults()
assert keep_freed_memory()
faults()
assert "torch" not in sys.modules
print(stock, faults())
"""


@pytest.mark.skipif(not os.confstr_names.get("CS_GNU_LIBC_VERSION"), reason="needs glibc")
def test_a_tuned_allocator_keeps_freed_memory_and_needs_no_torch() -> None:
    done = subprocess.run([sys.executable, "-c", KEEPS_MEMORY], capture_output=True, text=True, check=True)
    stock, tuned = (int(count) for count in done.stdout.split())
    assert tuned < stock / 10


def test_a_processors_name_tells_its_generation(tmp_path):
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\ncpu family\t: 25\nmodel\t\t: 1\nmodel name\t: AMD EPYC\n\nprocessor\t: 1\n")
    assert cpu_name(info) == "AMD EPYC (family 25, model 1)"
    info.write_text("processor\t: 0\nBogoMIPS\t: 50.00\n")
    assert cpu_name(info) == cpu_name(tmp_path / "none") != ""
