"""Claim: two MoCo v2 views are made 6 to 11 times as fast as by Pillow and torchvision's transforms, an image at a time, on one core.

Figure: FIGURE
Machine: 2 cores of an AMD EPYC (Zen 5), torch 2.14.1, torchvision 0.29.1, Pillow 12; 2026-08. CPU seconds of one thread, so that other load
does not count; both ways in turn, medians of the ratios of neighbouring runs.

Both ways start from decoded images with 1.15 x 1.5 times the view's pixels a side, as the store keeps them: PIL images for the one, a uint8
batch with channels last for the other; drawing the parameters is part of both. Run: `python benchmarks/views.py [--smoke]`.
"""

import argparse
import json
import platform
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from torchvision import transforms

from lwcl.augmentation import AUGMENTATIONS, Augmentation
from lwcl.cpu import tune_allocator
from lwcl.data.views import apply_views, draw_views

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MARGIN = 1.15 * 1.5  # side of the kept image, in views
RESULTS = Path(__file__).parent / "results.jsonl"


class Blur:
    """Pillow's Gaussian blur with a random sigma, as MoCo v2 has it."""

    def __init__(self, size: int) -> None:
        self.scale = size / 224

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0) * self.scale))


def reference(pictures: np.ndarray, size: int) -> Callable[[int], object]:
    """The way of the papers' code: a transform an image, Pillow in, tensor out, then a batch."""
    images = [Image.fromarray(picture) for picture in pictures]
    view = transforms.Compose(
        [
            transforms.RandomResizedCrop(size, scale=(0.2, 1.0)),
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            transforms.RandomGrayscale(p=0.2),
            transforms.RandomApply([Blur(size)], p=0.5),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    return lambda epoch: [torch.stack([view(image) for image in images]) for _ in range(2)]


def batched(pictures: np.ndarray, size: int) -> Callable[[int], object]:
    """Our way: parameters for the batch, then the batch."""
    augmentation = Augmentation(**AUGMENTATIONS["moco-v2"])
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    count, _, height, width = images.shape
    place = {"index": torch.arange(count), "heights": torch.full((count,), height), "widths": torch.full((count,), width)}

    def views(epoch: int) -> list[torch.Tensor]:
        draws = [draw_views(augmentation, size=size, seed=0, epoch=epoch, view=view, **place) for view in range(2)]
        return [apply_views(images, draw, size, mean=MEAN, std=STD) for draw in draws]

    return views


def seconds(way: Callable[[int], object], epoch: int) -> float:
    """CPU seconds of one batch."""
    start = time.thread_time()
    way(epoch)
    return time.thread_time() - start


def measure(size: int, batch: int, rounds: int) -> dict[str, object]:
    """Microseconds a view of both ways at one size, and their ratio with its quartiles."""
    side = round(size * MARGIN)
    pictures = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), dtype=np.uint8)
    slow, fast = reference(pictures, size), batched(pictures, size)
    for way in (slow, fast):
        way(0)
    times = [(seconds(slow, epoch), seconds(fast, epoch)) for epoch in range(rounds)]
    ratios = statistics.quantiles([theirs / ours for theirs, ours in times], n=4)
    theirs, ours = (statistics.median(column) * 1e6 / (2 * batch) for column in zip(*times, strict=True))
    return {
        "benchmark": "views",
        "size": size,
        "batch": batch,
        "rounds": rounds,
        "pillow_us": round(theirs, 1),
        "ours_us": round(ours, 1),
        "ratio": round(ratios[1], 2),
        "quartiles": [round(ratios[0], 2), round(ratios[2], 2)],
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def main() -> None:
    """Measures every size, prints, and appends to results.jsonl (not with `--smoke`)."""
    parser = argparse.ArgumentParser(description="Speed of two MoCo v2 views.")
    parser.add_argument("--smoke", action="store_true", help="a few small batches, nothing kept")
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64, 96, 128, 224])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    tune_allocator()
    for size in [32] if options.smoke else options.sizes:
        result = measure(size, 8 if options.smoke else 128, 2 if options.smoke else options.rounds)
        print(json.dumps(result))
        if not options.smoke:
            with RESULTS.open("a") as file:
                file.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
