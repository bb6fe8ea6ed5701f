"""Opens the images of a run as a loader uses them: cached as pixels, cached as JPEG, or read from their own files."""

from typing import NamedTuple

from lwcl.data.cache.build import CacheBuilder
from lwcl.data.cache.pixels import ImageIndex, PixelStore, make_pixel_store
from lwcl.data.cache.policy import CacheChoice, CacheEstimate, CacheMode, choose_cache
from lwcl.data.cache.shared import SharedMemory, can_share_memory
from lwcl.data.dataset import BrokenImage, ImageSet
from lwcl.data.workers import worker_count
from lwcl.errors import DataError
from lwcl.reporting.console import Screen
from lwcl.system import distributed
from lwcl.system.process_group import one_first_on_each_machine
from lwcl.system.ranks import current_ranks
from lwcl.system.shared_memory import shared_memory_warning


class CachedImages(NamedTuple):
    """Images and their cache."""

    images: ImageSet  # what is decoded where there is no store: the files themselves, or the JPEG cache
    store: PixelStore | None
    short_side: int | None  # the minimum short side when decoding, in pixels; None: full size
    broken: list[BrokenImage]


def shares_memory() -> bool:
    """Whether several processes of this run on a machine can share memory."""
    return distributed.is_distributed() and current_ranks().local_size > 1 and can_share_memory()


def open_cached_images(
    images: ImageSet, short_side: int | None, mode: CacheMode, screen: Screen, *, workers: int, max_bad: float = 0.05
) -> CachedImages:
    """The images, cached as `mode` says (see `choose_cache`), with a short side of at most `short_side` if given.

    Raises as `choose_cache` and `CacheBuilder`.
    """
    if mode == "jpeg" and (images.pixel_format.frames or not images.pixel_format.is_rgb):
        what = f"--cache jpeg holds 8-bit RGB; these images are {images.pixel_format.describe()}."
        raise DataError(what, remedy="Give another --cache, such as disk.")
    cache = CacheChoice(*distributed.broadcast_json(choose_cache(mode, CacheEstimate(images, short_side))))
    screen.say(cache.message)
    working = workers if cache.where in ("off", "jpeg") else worker_count(workers, len(images))
    if working and (warning := shared_memory_warning()):
        screen.warn(warning)
    if cache.where == "off":
        return CachedImages(images, None, short_side, [])
    with screen.counting("Decoding images", len(images)) as counting:
        builder = CacheBuilder(
            images=images,
            short_side=short_side,
            workers=worker_count(workers, len(images)),
            max_bad=max_bad,
            progress=counting.update,
        )
        memory = SharedMemory() if cache.where == "ram" and shares_memory() else None
        with one_first_on_each_machine(f"cache {images.identity} {short_side}") as is_leader:
            if cache.where == "jpeg":
                jpeg_images, broken = builder.jpeg_set()
                return CachedImages(jpeg_images, None, short_side, broken)
            if memory is None:
                store = builder.pixel_store("ram" if cache.where == "ram" else "disk")
            elif is_leader:
                index = ImageIndex.empty()
                memory.fill(builder.decode_rest(index, "pixels"), index)
        if memory:
            store = make_pixel_store(*memory.mapped(), images.names, images.pixel_format)
        return CachedImages(images, store, short_side, store.broken)
