"""Views by lightly (MIT): its transform for MoCo v2, on files by its data set."""

from collections.abc import Callable

from lightly.data import LightlyDataset
from lightly.transforms.moco_transform import MoCoV2Transform

from peer_ways.turns import Work, serve
from peer_ways.views_alone import alone, rgb, viewed


def start(work: Work) -> Callable[[int], float]:
    """Batches of them."""
    views = MoCoV2Transform(input_size=work.size)
    kept = "decoded" in work.options
    return alone(work, viewed(work, rgb, views) if kept else LightlyDataset(work.folder, transform=views))


if __name__ == "__main__":
    serve(start, "lightly", "torch", "torchvision", "pillow")
