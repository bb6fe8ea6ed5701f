"""Views by solo-learn (MIT): its ImageNet transform with MoCo v2's numbers, on files by its data set.

Its release on PyPI, 1.0.2, asks for torch 1.9.1. `import solo` imports its methods, and these lightning-bolts, whose
last release, 0.7.0, does not work with pytorch-lightning 2. What makes views needs only torch, torchvision and Pillow,
so that file is run by itself, as it is installed.
"""

import importlib.metadata
import importlib.util
from collections.abc import Callable
from typing import Any

from peer_ways.turns import Work, serve
from peer_ways.views_alone import alone, rgb, viewed

FILE = "solo/utils/pretrain_dataloader.py"
JITTER = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}


def pipeline() -> Any:
    """The module of solo-learn that makes views."""
    path = importlib.metadata.distribution("solo-learn").locate_file(FILE)
    spec = importlib.util.spec_from_file_location("pretrain_dataloader", str(path))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def start(work: Work) -> Callable[[int], float]:
    """Batches of them."""
    solo = pipeline()
    view = solo.prepare_transform("imagenet", **JITTER, min_scale=0.2, crop_size=work.size)
    views = solo.prepare_n_crop_transform([view], [2])
    kept = "decoded" in work.options
    return alone(work, viewed(work, rgb, views) if kept else solo.CustomDatasetWithoutLabels(work.folder, views))


if __name__ == "__main__":
    serve(start, "solo-learn", "torch", "torchvision", "pillow")
