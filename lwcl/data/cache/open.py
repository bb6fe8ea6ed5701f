"""Images as a loader takes them: decoded and kept, shrunk and kept, or decoded from their own files each time."""

from typing import NamedTuple

from lwcl.data.cache.build import CacheBuilder
from lwcl.data.cache.pixels import PixelStore
from lwcl.data.cache.policy import CacheMode, SampledEstimate, choose_cache
from lwcl.data.dataset import BrokenImage, ImageSet
from lwcl.data.workers import worker_count
from lwcl.reporting.console import Screen


class CachedImages(NamedTuple):
    """Images, and how they are held."""

    images: ImageSet  # what is decoded, where there is no store: files of their own, or shrunk ones
    store: PixelStore | None
    short_side: int | None  # pixels below which a shrunk image must not come; None: whole ones
    broken: list[BrokenImage]


def open_cached_images(
    images: ImageSet, short_side: int | None, mode: CacheMode, screen: Screen, *, workers: int, max_bad: float = 0.05
) -> CachedImages:
    """The images, held as `mode` says (see `choose_cache`), their short side at most `short_side` if there is one.

    Raises as `choose_cache` and `Filling.store`.
    """
    cache = choose_cache(mode, SampledEstimate(images, short_side))
    screen.say(f"Decoded images: {cache.reason}")
    if cache.where == "off":
        return CachedImages(images, None, short_side, [])
    with screen.counting("Decoding images", len(images)) as counting:
        filling = CacheBuilder(
            images=images,
            short_side=short_side,
            workers=worker_count(workers, len(images)),
            max_bad=max_bad,
            tell=counting.update,
        )
        if cache.where == "jpeg":
            shrunk, bad = filling.shrunk()
            return CachedImages(shrunk, None, short_side, bad)
        store = filling.store(cache.where)
        return CachedImages(images, store, short_side, store.bad)
