"""The environment of a run: versions, machine, threads. Package versions are read without importing the packages."""

import importlib.metadata
import os
import platform
import socket
import time
from pathlib import Path
from typing import Any

import lwcl
from lwcl.system.limits import usable_cpus

REPORTED_PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow", "safetensors")
CPU_INFO = Path("/proc/cpuinfo")
RUN_SPECIFIC_KEYS = frozenset({"host", "folder", "started"})


def describe_environment() -> dict[str, Any]:
    """What results may depend on (see torch's notes on reproducibility), then where and when the run started."""
    return {
        "lwcl": lwcl.__version__,
        "python": platform.python_version(),
        **{name: package_version(name) for name in REPORTED_PACKAGES},
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cpus": usable_cpus(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        "host": socket.gethostname(),
        "folder": os.getcwd(),
        "started": time.strftime("%Y-%m-%d %H:%M:%S%z"),
    }


def package_version(package: str) -> str | None:
    """The installed version of a package, None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def cpu_name(info: Path = CPU_INFO) -> str:
    """The processor's name with family and model on Linux, else Python's name for it.

    A cloud's "AMD EPYC" may be of any generation, and results depend on that bit for bit.
    """
    try:
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in reversed(lines))}
    numbers = [f"{name.split()[-1]} {facts[name]}" for name in ("cpu family", "model") if name in facts]
    named = facts.get("model name", platform.processor() or platform.machine())
    return f"{named} ({', '.join(numbers)})" if numbers else named
