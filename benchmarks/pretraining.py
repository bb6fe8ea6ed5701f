"""Whole pretraining steps, views included: the papers' way (Pillow, torchvision v1, float32, queue cloned) and lwcl's.

Claim, machine, date and figures: see the table that this script printed, in `benchmarks/README.md`. Both ways train
MoCo v2 on the same decoded images; the ways take turns step by step, so that other load meets both; medians.

    python benchmarks/pretraining.py [--archs resnet18 mobilenetv3_large_100] [--sizes 32 96] [--smoke]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from peer_ways.papers import MEAN, STD, backbone, moco_step, moco_view
from PIL import Image
from torch import Tensor

from lwcl import engine
from lwcl.augmentation import AUGMENTATIONS, Augmentation
from lwcl.cpu import tune_allocator
from lwcl.data.draws import epoch_order
from lwcl.data.views import apply_views, draw_views
from lwcl.depthwise import fast_depthwise
from lwcl.engine import Compute
from lwcl.method import Batch, methods
from lwcl.nets import Encoder
from lwcl.pointwise import fast_pointwise
from lwcl.recipes import Recipe

MARGIN, COUNT, QUEUE = 1.15 * 1.5, 512, 4096
RESULTS = Path(__file__).with_name("results.jsonl")


def reference(pictures: np.ndarray, arch: str, size: int, batch: int) -> Callable[[int], None]:
    """MoCo v2 as its papers' code has it, in one process; gives what does step n."""
    view = moco_view(size)
    images = [Image.fromarray(picture) for picture in pictures]
    train = moco_step(backbone(arch, size), batch, QUEUE)

    def step(number: int) -> None:
        chosen = torch.randperm(len(images))[:batch].tolist()
        first, second = (torch.stack([view(images[i]) for i in chosen]) for _ in range(2))
        train(first, second)

    return step


def ours(pictures: np.ndarray, arch: str, size: int, batch: int, half: bool) -> Callable[[int], None]:
    """The same by lwcl's engine, from a store."""
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()
    kind = methods("pretrain")["moco"]
    method = kind(temperature=0.2, queue_size=QUEUE, key_momentum=0.999)
    net = method.build(Encoder(arch, method.head, image_size=size))
    transformer = arch.startswith(("vit", "deit"))
    compute = Compute(torch.device("cpu"), torch.bfloat16 if half else None, not transformer)
    compute.place(net)
    fast_depthwise(net.student)
    fast_pointwise(net)
    recipe = Recipe(epochs=1000, batch_size=batch, lr=0.03, weight_decay=1e-4, warmup=0.0)
    optimizer = engine.optimizer_of(net, recipe, 0.03, 1e-4)
    sides = torch.full((batch,), images.shape[2])

    def batches() -> "engine.Iterator[Batch]":
        epoch = 0
        while True:
            index = epoch_order(COUNT, 0, epoch)[:batch]
            draws = (
                draw_views(
                    Augmentation(**AUGMENTATIONS["moco-v2"]),
                    size=size,
                    seed=0,
                    epoch=epoch,
                    view=view,
                    index=index,
                    heights=sides,
                    widths=sides,
                )
                for view in range(2)
            )
            finish = {"mean": MEAN, "std": STD, "channels_last": compute.channels_last}
            views: tuple[Tensor, ...] = tuple(apply_views(images[index], draw, size, **finish) for draw in draws)
            yield Batch(views, index, torch.full((batch,), -1))
            epoch += 1

    fitted = engine.fit(
        method, net, batches(), recipe, optimizer, compute, steps_per_epoch=COUNT // batch, start=0, seed=0
    )
    return lambda number: next(fitted) and None


def measure(arch: str, size: int, batch: int, turns: int) -> list[dict[str, object]]:
    """Median seconds of a step of each way, the ways taking turns; the first turn warms up."""
    side = round(size * MARGIN)
    pictures = np.random.default_rng(0).integers(0, 256, (COUNT, side, side, 3), dtype=np.uint8)
    ways = {
        "papers' way": reference(pictures, arch, size, batch),
        "lwcl fp32": ours(pictures, arch, size, batch, False),
        "lwcl bf16": ours(pictures, arch, size, batch, True),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns + 1):
        for name, step in ways.items():
            begun = time.perf_counter()
            step(turn)
            if turn:
                times[name].append(time.perf_counter() - begun)
    plain = statistics.median(times["papers' way"])
    rows = []
    for name, seconds in times.items():
        middle, low, high = statistics.median(seconds), min(seconds), max(seconds)
        rows.append(
            {
                "benchmark": "pretraining",
                "date": datetime.now(UTC).date().isoformat(),
                "torch": torch.__version__,
                "threads": torch.get_num_threads(),
                "architecture": arch,
                "pixels": size,
                "batch": batch,
                "way": name,
                "images_per_second": batch / middle,
                "low": batch / high,
                "high": batch / low,
                "ratio": plain / middle,
            }
        )
    return rows


def main() -> None:
    """Measures, prints a table, and appends the rows to results.jsonl (not with --smoke)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--archs", nargs="+", default=["mobilenetv3_large_100", "resnet18"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[32, 96])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--stock-allocator", action="store_true", help="leave glibc's allocator as it is for both ways")
    parser.add_argument("--smoke", action="store_true", help="tiny, to see that it runs")
    told = parser.parse_args()
    if not told.stock_allocator:
        tune_allocator()
    archs, sizes, batch, turns = told.archs, told.sizes, told.batch, told.turns
    if told.smoke:
        archs, sizes, batch, turns = ["test_efficientnet"], [32], 16, 1
    for arch in archs:
        for size in sizes:
            for row in measure(arch, size, batch, turns):
                print(
                    f"{arch:24} {size:4} px  {row['way']:12} {row['images_per_second']:7.0f} images/s "
                    f"({row['low']:.0f} to {row['high']:.0f})  {row['ratio']:.2f} x"
                )
                if not told.smoke:
                    with RESULTS.open("a") as file:
                        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
