"""Where to cache decoded images: their estimated size, the free memory and disk space, and the choice."""

from collections.abc import Callable
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from lwcl.data.band_image import Picture
from lwcl.data.cache.decode_all import CacheFormat
from lwcl.data.cache.disk import bytes_on_disk, disk_cache_folder
from lwcl.data.dataset import ImageSet
from lwcl.data.decode import downscale, encode_jpeg
from lwcl.errors import DataError, StorageError
from lwcl.system.atomic_files import cache_folder, explain_disk_errors, format_bytes, free_space
from lwcl.system.limits import available_memory

CacheMode = Literal["auto", "ram", "disk", "jpeg", "device", "off"]
FORMATS_BY_MODE: dict[str, tuple[CacheFormat, ...]] = {
    "disk": ("pixels",),
    "jpeg": ("jpeg",),
    "auto": ("pixels", "jpeg"),
}
MAX_RAM_SHARE = 0.5  # of the available memory: the model, its gradients and its activations need the rest
MAX_DISK_SHARE = 0.8
ESTIMATE_IMAGES, ESTIMATE_VIDEOS = 64, 8  # sampled to estimate the size of all
#: A cached image's short side divided by a view's side: a crop of 20% of its area is 0.8 times as wide as the view.
CACHED_SIDE_RATIO = 1.75
CLIP_SIDE_RATIO = 1.25  # of videos, which take a frame's space for every stride-th frame


class CacheChoice(NamedTuple):
    """Where to cache decoded images, and a sentence about it for the user."""

    where: Literal["ram", "disk", "jpeg", "off"]
    message: str


class CacheEstimate:
    """Bytes that the decoded, downscaled images of a set need, estimated from at most 64 of them, evenly spaced."""

    def __init__(self, images: ImageSet, short_side: int | None) -> None:
        most = ESTIMATE_VIDEOS if images.pixel_format.frames else ESTIMATE_IMAGES
        places = np.linspace(0, len(images) - 1, min(most, len(images))).round().astype(int)
        self.images, self.short_side = images, short_side
        self.sample = [images.readable_image(int(place), short_side)[0] for place in places]

    def scaled_sum(self, size: Callable[[Picture], int]) -> int:
        """The sizes of the sample's downscaled images, summed and scaled to the whole set."""
        sizes = [size(downscale(image, self.short_side)) for image in self.sample]
        return round(sum(sizes) / len(sizes) * len(self.images))

    @cached_property
    def pixel_bytes(self) -> int:
        """Bytes of all images as pixels."""
        return self.scaled_sum(lambda image: np.asarray(image).nbytes)

    @cached_property
    def jpeg_bytes(self) -> int:
        """Bytes of all images as JPEG."""
        return self.scaled_sum(lambda image: len(encode_jpeg(image)) if isinstance(image, Image.Image) else 0)

    @property
    def is_downscaled(self) -> bool:
        """Whether RGB images become smaller: otherwise re-encoding them as JPEG costs accuracy and saves nothing."""
        return (
            self.images.pixel_format.is_rgb
            and not self.images.pixel_format.frames
            and self.short_side is not None
            and all(min(image.size) >= self.short_side for image in self.sample)
        )

    def cached_bytes(self, cache_format: CacheFormat) -> int:
        """Bytes that are in the cache folder already."""
        return bytes_on_disk(disk_cache_folder(self.images, self.short_side, cache_format))


def choose_cache(
    mode: CacheMode, estimate: CacheEstimate, *, memory: int | None = None, disk: int | None = None
) -> CacheChoice:
    """Resolve `auto`: RAM if decoded images need at most half of what is available; else disk if they need at most
    80% of what is free; else JPEG on disk, if they are downscaled, under the same condition; else off.

    What an interrupted run has cached counts as free, since it is used again. Raises `DataError` or `StorageError` for
    a choice that does not fit. `memory`, `disk`: available bytes, by default those of the system.
    """
    memory = available_memory() if memory is None else memory
    pixels, ram = format_bytes(estimate.pixel_bytes), format_bytes(memory)
    if mode == "off":
        return CacheChoice("off", f"Decoding images in every epoch (--cache off; {pixels} as pixels).")
    if mode in ("ram", "device") and estimate.pixel_bytes > memory:
        remedy = "Cache them on disk: --cache disk, or --cache jpeg."
        raise DataError(f"{pixels} of decoded images do not fit into {ram} of memory.", remedy=remedy)
    if mode in ("ram", "device") or (mode == "auto" and estimate.pixel_bytes <= MAX_RAM_SHARE * memory):
        return CacheChoice("ram", f"Caching decoded images in RAM ({pixels} of {ram} available).")
    with explain_disk_errors(cache_folder()):
        disk = free_space(cache_folder()) if disk is None else disk
        cached = {cache_format: estimate.cached_bytes(cache_format) for cache_format in FORMATS_BY_MODE[mode]}
    for cache_format in FORMATS_BY_MODE[mode] if estimate.is_downscaled else FORMATS_BY_MODE[mode][:1]:
        size = estimate.jpeg_bytes if cache_format == "jpeg" else estimate.pixel_bytes
        room = disk + cached[cache_format]
        if mode != "auto":
            check_disk_space(cache_format, size, room)
        if mode != "auto" or size <= MAX_DISK_SHARE * room:
            kind = "downscaled images as JPEG" if cache_format == "jpeg" else "decoded images"
            message = f"Caching {kind} on disk ({format_bytes(size)} of {format_bytes(room)} free)."
            return CacheChoice("jpeg" if cache_format == "jpeg" else "disk", message)
    why = f"{pixels} as pixels; {ram} of memory, {format_bytes(disk)} of disk"
    return CacheChoice("off", f"Decoding images in every epoch: they do not fit in any cache ({why}).")


def check_disk_space(cache_format: CacheFormat, size: int, room: int) -> None:
    """Raises `StorageError` if `size` bytes exceed the `room` on the disk."""
    if size > room:
        is_jpeg = cache_format == "jpeg"
        what = f"{format_bytes(size)} {'as JPEG' if is_jpeg else 'of decoded images'} do not fit on the disk"
        other = "decode in every epoch (--cache off)" if is_jpeg else "cache as JPEG (--cache jpeg)"
        raise StorageError(
            f"{what}: {format_bytes(room)} free in {str(cache_folder())!r}.",
            remedy=f"Free some space, set LWCL_CACHE to a larger disk, or {other}.",
        )
