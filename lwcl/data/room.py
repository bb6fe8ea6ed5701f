"""Where decoded images fit: their bytes, the memory and disk that is free, and the choice, with its reason."""

import os
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from lwcl.data.decode import encode, shrink
from lwcl.data.images import ImageSet
from lwcl.errors import DataError, StorageError
from lwcl.storage import cache_folder, free_space, size_text

Mode = Literal["auto", "ram", "disk", "jpeg", "off"]
RAM_SHARE = 0.5  # of the memory that is available: the model, its gradients and its activations need the rest
DISK_SHARE = 0.8
SAMPLE = 64  # images whose decoded size stands for all


class Cache(NamedTuple):
    """Where to keep decoded images, and why, in one sentence."""

    where: Literal["ram", "disk", "jpeg", "off"]
    reason: str


class Needed(NamedTuple):
    """Bytes of all images, decoded and shrunk."""

    pixels: int
    jpeg: int


def bytes_needed(images: ImageSet, short_side: int | None) -> Needed:
    """What images take that are decoded and shrunk (see `shrink`), estimated from at most 64, evenly spaced."""
    places = np.linspace(0, len(images) - 1, min(SAMPLE, len(images))).round().astype(int)
    shrunk = [shrink(images.good_image(int(place), short_side)[0], short_side) for place in places]
    share = len(images) / len(shrunk)
    pixels = sum(3 * image.width * image.height for image in shrunk)
    return Needed(round(share * pixels), round(share * sum(len(encode(image)) for image in shrunk)))


def choose_cache(mode: Mode, needed: Needed, *, memory: int | None = None, disk: int | None = None) -> Cache:
    """Settle `auto`: memory if decoded images take at most half of what is available; else the disk, if they take at
    most 4/5 of what is free; else the disk as JPEG, if that does; else off.

    Raises `DataError` or `StorageError` for a choice that cannot fit. `memory`, `disk`: bytes, asked of the system
    if None.
    """
    memory = available_memory() if memory is None else memory
    disk = free_space(cache_folder()) if disk is None else disk
    decoded, shrunk = f"{size_text(needed.pixels)} of decoded images", f"{size_text(needed.jpeg)} of images as JPEG"
    in_memory, on_disk = f"{size_text(memory)} of memory", f"{size_text(disk)} of disk"
    if mode == "ram" and needed.pixels > memory:
        raise DataError(f"{decoded} do not fit into {in_memory}.", remedy="Keep them on disk: --cache disk, or jpeg.")
    for what, text, size in (("disk", decoded, needed.pixels), ("jpeg", shrunk, needed.jpeg)):
        if mode == what and size > disk:
            remedy = "Free some space, set LWCL_CACHE to a larger disk, or decode every time: --cache off."
            raise StorageError(f"{text} do not fit onto {on_disk} in {str(cache_folder())!r}.", remedy=remedy)
    if mode != "auto":
        return Cache(mode, f"{shrunk if mode == 'jpeg' else decoded}: {mode} as you chose.")
    if needed.pixels <= RAM_SHARE * memory:
        return Cache("ram", f"{decoded} fit into half of the {in_memory} available.")
    if needed.pixels <= DISK_SHARE * disk:
        return Cache("disk", f"{decoded} are more than half of the {in_memory} available, and fit on {on_disk}.")
    neither = f"{decoded} fit neither into {in_memory} nor on {on_disk}"
    if needed.jpeg <= DISK_SHARE * disk:
        return Cache("jpeg", f"{neither}, but {shrunk} do: kept so, and decoded every time.")
    return Cache("off", f"{neither}: decoded anew every time.")


def available_memory(root: Path = Path("/")) -> int:
    """Bytes this process may still take: what the system has, or less where a cgroup limits it (`root`: for tests)."""
    limits = [left for group in control_groups(root) if (left := left_in(group)) is not None]
    return max(0, min([system_memory(root), *limits]))


def system_memory(root: Path) -> int:
    """What Linux says is available; elsewhere half of what the machine has."""
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def control_groups(root: Path) -> list[Path]:
    """The folders of this process's memory cgroup and of those it is in: version 2, or 1."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    folders = []
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0" or "memory" in controllers.split(","):
            top = root / "sys/fs/cgroup" / ("" if number == "0" else "memory")
            own = top / path.lstrip("/")
            folders += [folder for folder in (own, *own.parents) if folder.is_relative_to(top)]
    return folders


def left_in(group: Path) -> int | None:
    """Bytes that a cgroup has left, counting file cache that can be dropped as free; None where it sets no limit."""
    for limit, used, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most = (group / limit).read_text().strip()
            taken = int((group / used).read_text())
            stats = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):
            continue
        if most != "max":
            return int(most) - taken + int(stats.get(cache, 0))
    return None
