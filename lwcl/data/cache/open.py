"""Images as a loader takes them: decoded and kept, shrunk and kept, or decoded from their own files each time."""

from typing import NamedTuple

from lwcl.data.cache.build import Filling
from lwcl.data.cache.pixels import Store
from lwcl.data.cache.policy import Mode, Sample, choose_cache
from lwcl.data.dataset import Broken, ImageSet
from lwcl.reporting.console import Screen

FEW_IMAGES = 2000  # are decoded sooner than worker processes start


class Held(NamedTuple):
    """Images, and how they are held."""

    images: ImageSet  # what is decoded, where there is no store: files of their own, or shrunk ones
    store: Store | None
    short_side: int | None  # pixels below which a shrunk image must not come; None: whole ones
    broken: list[Broken]


def held(
    images: ImageSet, short_side: int | None, mode: Mode, screen: Screen, *, workers: int, max_bad: float = 0.05
) -> Held:
    """The images, held as `mode` says (see `choose_cache`), their short side at most `short_side` if there is one.

    Raises as `choose_cache` and `Filling.store`.
    """
    cache = choose_cache(mode, Sample(images, short_side))
    screen.say(f"Decoded images: {cache.reason}")
    if cache.where == "off":
        return Held(images, None, short_side, [])
    with screen.counting("Decoding images", len(images)) as counting:
        filling = Filling(
            images=images,
            short_side=short_side,
            workers=workers if len(images) > FEW_IMAGES else 0,
            max_bad=max_bad,
            tell=lambda done, count: counting.advance(done - counting.done.count),
        )
        if cache.where == "jpeg":
            shrunk, bad = filling.shrunk()
            return Held(shrunk, None, short_side, bad)
        store = filling.store(cache.where)
        return Held(images, store, short_side, store.bad)
