"""Views as the papers' code makes them, by Pillow and torchvision v1."""

from collections.abc import Callable

from peer_ways.papers import moco_views
from peer_ways.turns import Work, serve
from peer_ways.views_alone import alone, rgb, viewed


def start(work: Work) -> Callable[[int], float]:
    """Batches of them."""
    return alone(work, viewed(work, rgb, moco_views(work.size)))


if __name__ == "__main__":
    serve(start, "torch", "torchvision", "pillow")
