"""Two MoCo v2 views of a batch: by Pillow and torchvision an image at a time, and by lwcl for the whole batch.

Claim: by OpenCV lwcl's are made 8.5 to 10 times as fast, 1.25 times as fast as by batched tensors at 32 px, 1.6 times
at 64 and 1.9 to 2 times from 96 px on. Measured 2026-11-22 on one core of an AMD EPYC (Zen 4, AVX-512) that other
programs shared (load 4), torch 2.14.1, torchvision 0.29.1, OpenCV 5.0.0, batch 128, 5 turns:

    pixels  Pillow, us a view  tensors, us  ratio (quartiles)  OpenCV, us  ratio (quartiles)
        32                604           75  8.1 (7.7 - 8.1)            60  10.1 (9.9 - 10.2)
        64                899          151  6.0 (5.7 - 6.0)            95  9.4 (9.2 - 9.6)
        96               1432          279  5.1 (4.5 - 5.2)           149  9.3 (8.3 - 9.7)
       128               1969          453  4.5 (4.0 - 4.6)           241  8.7 (7.5 - 9.3)
       224               4670         1074  4.4 (4.2 - 4.6)           539  8.5 (8.4 - 8.9)

The goal of 12 at 64 px is missed: an antialiased crop, the same bits as the tensors', is two fifths of the time there.
All ways start from decoded images of 1.15 x 1.5 times the view's side, as a store keeps them: Pillow images for the
one, a uint8 batch for the others, its channels last in memory, as a store's is. Drawing the parameters is part
of all, and so are one thread and the allocator's settings. The ways take turns; times are CPU time of the thread, so
that other load on the machine counts as little as it can; ratios are medians, with quartiles, over the turns.

    python benchmarks/views.py [--sizes 32 64] [--smoke]
"""

import argparse
import json
import operator
import os
import statistics
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from torchvision import transforms

from lwcl.config.augmentation import AUGMENTATIONS, Augmentation
from lwcl.data.augment.views import make_views, sample_augment_params
from lwcl.system.cpu import keep_freed_memory

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OURS = ("tensor", "opencv")
MARGIN = 1.15 * 1.5  # side of the kept image, in views
RESULTS = Path(__file__).with_name("results.jsonl")


class Blur:
    """Pillow's Gaussian blur with a random sigma, as MoCo v2 has it."""

    def __init__(self, size: int) -> None:
        self.scale = size / 224
        self.random = np.random.default_rng(0)

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(self.random.uniform(0.1, 2.0) * self.scale))


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


def drawn(pictures: np.ndarray, size: int, by: str) -> Callable[[int], object]:
    """Our way: parameters for the batch, then the batch, or by OpenCV an image at a time."""
    augmentation = Augmentation(**AUGMENTATIONS["moco-v2"])
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    count, _, height, width = images.shape
    sides = {"heights": torch.full((count,), height), "widths": torch.full((count,), width)}
    place = {"index": torch.arange(count)} | sides

    def views(epoch: int) -> list[torch.Tensor]:
        draws = [
            sample_augment_params(augmentation, size=size, seed=0, epoch=epoch, view=view, **place) for view in range(2)
        ]
        return [make_views(images, draw, size, mean=MEAN, std=STD, channels_last=True, backend=by) for draw in draws]

    return views


def seconds(way: Callable[[int], object], epoch: int) -> float:
    """CPU seconds of one batch."""
    start = time.thread_time()
    way(epoch)
    return time.thread_time() - start


def measure(size: int, batch: int, rounds: int) -> Iterator[dict[str, object]]:
    """Microseconds a view of each of our ways at one size, and its ratio to Pillow's, with quartiles."""
    side = round(size * MARGIN)
    pictures = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), dtype=np.uint8)
    ways = {"pillow": reference(pictures, size)} | {by: drawn(pictures, size, by) for by in OURS}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for epoch in range(rounds + 1):
        for name, way in ways.items():
            taken = seconds(way, epoch)
            if epoch:  # the first turn warms up
                times[name].append(taken * 1e6 / (2 * batch))
    for by in OURS:
        low, ratio, high = statistics.quantiles(map(operator.truediv, times["pillow"], times[by]), n=4)
        yield {
            **{"benchmark": "views", "date": f"{datetime.now(UTC):%Y-%m-%d}", "torch": torch.__version__},
            **{"capability": torch.backends.cpu.get_cpu_capability(), "load": os.getloadavg()[0], "pixels": size},
            **{"batch": batch, "by": by, "pillow_us": statistics.median(times["pillow"])},
            **{"ours_us": statistics.median(times[by]), "ratio": ratio, "low": low, "high": high},
        }


def main() -> None:
    """Measures every size, prints, and appends to results.jsonl (not with `--smoke`)."""
    parser = argparse.ArgumentParser(description="Speed of two MoCo v2 views.")
    parser.add_argument("--smoke", action="store_true", help="a few small batches, nothing kept")
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64, 96, 128, 224])
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    for size in [32] if options.smoke else options.sizes:
        batch, rounds = (8, 2) if options.smoke else (128, options.rounds)
        for result in measure(size, batch, rounds):
            print(f"{size:>4} px: Pillow {result['pillow_us']:6.0f} us a view, {result['by']:6}", end=" ")
            print(
                f"{result['ours_us']:6.0f} us, {result['ratio']:.1f}x ({result['low']:.1f} - {result['high']:.1f})",
                flush=True,
            )
            if not options.smoke:
                with RESULTS.open("a") as file:
                    file.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
