"""Where decoded images fit: their bytes, the memory and disk that is free, and the choice, with its reason."""

import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np
from PIL import Image

from lwcl.data.cache.decode_all import CacheFormat
from lwcl.data.cache.disk import bytes_on_disk, disk_cache_folder
from lwcl.data.dataset import ImageSet
from lwcl.data.decode import downscale, encode_jpeg
from lwcl.errors import DataError, StorageError
from lwcl.system.atomic_files import cache_folder, explain_disk_errors, format_bytes, free_space

CacheMode = Literal["auto", "ram", "disk", "jpeg", "off"]
FORMATS_BY_MODE: dict[str, tuple[CacheFormat, ...]] = {
    "disk": ("pixels",),
    "jpeg": ("jpeg",),
    "auto": ("pixels", "jpeg"),
}
MAX_RAM_SHARE = 0.5  # of the memory that is available: the model, its gradients and its activations need the rest
MAX_DISK_SHARE = 0.8
ESTIMATE_IMAGES = 64  # images whose decoded size stands for all


class CacheChoice(NamedTuple):
    """Where to keep decoded images, and why, in one sentence."""

    where: Literal["ram", "disk", "jpeg", "off"]
    reason: str


class CacheEstimate(Protocol):
    """What all images of a set take, decoded and shrunk, in bytes."""

    @property
    def pixels(self) -> int:
        """As pixels."""

    @property
    def jpeg(self) -> int:
        """As JPEG."""

    @property
    def shrinks(self) -> bool:
        """Whether they get smaller: JPEG costs accuracy, and gains nothing else."""

    def held(self, form: CacheFormat) -> int:
        """How much of it is in the cache folder already."""


class SampledEstimate:
    """What images take that are decoded and shrunk (see `shrink`), estimated from at most 64, evenly spaced."""

    def __init__(self, images: ImageSet, short_side: int | None) -> None:
        places = np.linspace(0, len(images) - 1, min(ESTIMATE_IMAGES, len(images))).round().astype(int)
        self.images, self.short_side = images, short_side
        self.decoded = [images.good_image(int(place), short_side)[0] for place in places]

    def sum(self, size: Callable[[Image.Image], int]) -> int:
        """The sizes of the sample's shrunk images, summed and scaled to the set."""
        sizes = [size(downscale(image, self.short_side)) for image in self.decoded]
        return round(sum(sizes) / len(sizes) * len(self.images))

    @cached_property
    def pixels(self) -> int:
        """See `Needed`."""
        return self.sum(lambda image: 3 * image.width * image.height)

    @cached_property
    def jpeg(self) -> int:
        """See `Needed`."""
        return self.sum(lambda image: len(encode_jpeg(image)))

    @property
    def shrinks(self) -> bool:
        """See `Needed`. An image as small as that may be larger in its file: JPEG is decoded at a part of its size."""
        return self.short_side is not None and all(min(image.size) >= self.short_side for image in self.decoded)

    def held(self, form: CacheFormat) -> int:
        """See `Needed`."""
        return bytes_on_disk(disk_cache_folder(self.images, self.short_side, form))


def choose_cache(
    mode: CacheMode, needed: CacheEstimate, *, memory: int | None = None, disk: int | None = None
) -> CacheChoice:
    """Settle `auto`: memory if decoded images take at most half of what is available; else the disk, if they take at
    most 4/5 of what is free; else the disk as JPEG, if they are shrunk and that does; else off.

    What a run that was interrupted has kept there counts as free: it goes on with it. Raises `DataError` or
    `StorageError` for a choice that cannot fit. `memory`, `disk`: bytes, asked of the system if None.
    """
    memory = available_memory() if memory is None else memory
    decoded, in_memory = f"{format_bytes(needed.pixels)} of decoded images", f"{format_bytes(memory)} of memory"
    if mode == "off":
        return CacheChoice("off", f"{decoded}: off as you chose.")
    if mode == "ram" and needed.pixels > memory:
        raise DataError(f"{decoded} do not fit into {in_memory}.", remedy="Keep them on disk: --cache disk, or jpeg.")
    if mode == "ram" or (mode == "auto" and needed.pixels <= MAX_RAM_SHARE * memory):
        fits = f" fit into half of the {in_memory} available." if mode == "auto" else ": ram as you chose."
        return CacheChoice("ram", decoded + fits)
    with explain_disk_errors(cache_folder()):
        disk = free_space(cache_folder()) if disk is None else disk
        held = {form: needed.held(form) for form in FORMATS_BY_MODE[mode]}
    found = f"{decoded} are more than half of the {in_memory} available"
    for form in FORMATS_BY_MODE[mode] if needed.shrinks else FORMATS_BY_MODE[mode][:1]:
        size = needed.jpeg if form == "jpeg" else needed.pixels
        what, room = f"{format_bytes(size)} as JPEG" if form == "jpeg" else decoded, disk + held[form]
        if mode != "auto":
            check_disk_space(what, size, room)
            return CacheChoice(mode, f"{what}: {mode} as you chose.")
        if size <= MAX_DISK_SHARE * room:
            return CacheChoice(
                "jpeg" if form == "jpeg" else "disk", f"{found}; {what} fit on {format_bytes(room)} of disk."
            )
    return CacheChoice("off", f"{found}, and do not fit on {format_bytes(disk)} of disk: decoded anew every time.")


def check_disk_space(what: str, size: int, disk: int) -> None:
    """Raises `StorageError` where so many bytes do not fit onto the disk."""
    if size > disk:
        other = "keep them as JPEG (--cache jpeg)" if "JPEG" not in what else "decode every time (--cache off)"
        remedy = f"Free some space, set LWCL_CACHE to a larger disk, or {other}."
        raise StorageError(
            f"{what} do not fit onto {format_bytes(disk)} of disk in {str(cache_folder())!r}.", remedy=remedy
        )


def available_memory(root: Path = Path("/")) -> int:
    """Bytes this process may still take: what the system has, or less where a cgroup limits it (`root`: for tests)."""
    limits = [left for group in memory_cgroups(root) if (left := cgroup_memory_left(group)) is not None]
    return max(0, min([system_available_memory(root), *limits]))


def system_available_memory(root: Path) -> int:
    """What Linux says is available; elsewhere half of what the machine has."""
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def memory_cgroups(root: Path) -> list[Path]:
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


def cgroup_memory_left(group: Path) -> int | None:
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
