"""Does it gain to make the next batch in a thread while a step runs? Whole pretraining from the store, both ways.

Claim: no. A thread that makes one batch ahead costs 8 to 9% where step and views share two cores: what it computes,
the step waits for. Measured 2026-11-27, two cores of an AMD EPYC (Zen 3, AVX2), torch 2.14.1, float32, views by OpenCV,
batch 128, four turns of five steps; images a second, median (least to most), by `--sizes 64`:

                              in turn              ahead
    MobileNetV3-Small, 64 px  321 (273 to 342)     296 (286 to 334): 0.92 x
    MobileNetV3-Large, 64 px  163 (151 to 183)     149 (146 to 154): 0.91 x

The real loader and engine of `lwcl pretrain` with moco-v2, in one process; the two ways take turns, so that other load
meets both. "ahead" makes one batch ahead in a thread, "in turn" is what lwcl does.

    python benchmarks/prefetch.py [--archs resnet18] [--sizes 32 64] [--data photos.zip] [--smoke]
"""

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import torch
from peer_ways.lwcl_moco import fitted, training_of
from peer_ways.pictures import pictures
from peer_ways.turns import Work

from lwcl.methods.method import Batch
from lwcl.system.environment import cpu_name
from lwcl.system.limits import usable_cpus

RESULTS = Path(__file__).with_name("results.jsonl")
ARCHS = ["mobilenetv3_small_100", "mobilenetv3_large_100", "resnet18"]


def ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The batches, each made in a thread while the one before is used."""
    with ThreadPoolExecutor(1) as thread:
        following = thread.submit(next, batches, None)
        while (batch := following.result()) is not None:
            following = thread.submit(next, batches, None)
            yield batch


def measure(work: Work, steps: int, turns: int) -> Iterator[dict[str, object]]:
    """Images a second both ways, the ways taking turns after one that warms up."""
    training, found = training_of(work), dict[str, list[float]]()
    for _ in range(turns + 1):
        for name, way in {"in turn": iter, "ahead": ahead}.items():
            begun = time.perf_counter()
            for step in fitted(training, steps, way):
                training.done = step.number
            found.setdefault(name, []).append(steps * work.batch / (time.perf_counter() - begun))
    first = statistics.median(found["in turn"][1:])
    for name, speeds in found.items():
        yield {
            **{"benchmark": "prefetch", "date": f"{datetime.now(UTC):%Y-%m-%d}", "torch": torch.__version__},
            **{"cpu": cpu_name(), "architecture": work.arch, "pixels": work.size, "batch": work.batch},
            **{"threads": work.threads, "steps": steps, "turns": turns, "way": name},
            **{"images_per_second": statistics.median(speeds[1:]), "low": min(speeds[1:]), "high": max(speeds[1:])},
            "ratio": statistics.median(speeds[1:]) / first,
        }


def main() -> None:
    """Measures, prints a table, and appends the rows to results.jsonl (not with --smoke)."""
    parser = argparse.ArgumentParser(description="The next batch in a thread while a step runs, or after it.")
    parser.add_argument("--archs", nargs="+", default=ARCHS)
    parser.add_argument("--sizes", nargs="+", type=int, default=[32, 64])
    parser.add_argument("--data", help="folder or zip of images [drawn ones]")
    parser.add_argument("--steps", type=int, default=6, help="of a turn")
    parser.add_argument("--turns", type=int, default=4, help="after the one that warms up")
    parser.add_argument("--view-backend", default="opencv", choices=["tensor", "opencv"])
    parser.add_argument("--smoke", action="store_true", help="tiny, to see that it runs; nothing kept")
    args = parser.parse_args()
    batch, images, threads = 128, 1024, usable_cpus()
    if args.smoke:
        args.archs, args.sizes, args.steps, args.turns, args.data = ["test_efficientnet"], [32], 1, 1, None
        batch, images, threads = 4, 12, 1
    torch.set_num_threads(threads)
    options = {"cache": "ram", "precision": "fp32", "view_backend": args.view_backend}
    with tempfile.TemporaryDirectory() as folder:
        pictures(args.data, Path(folder), images)
        for arch, size in itertools.product(args.archs, args.sizes):
            work = Work(folder, arch, size, batch, 16 * batch, threads, threads, options)
            for row in measure(work, args.steps, args.turns):
                print(f"{arch:24} {size:4} px  {row['way']:8} {row['images_per_second']:7.1f} images/s", end=" ")
                print(f"({row['low']:.1f} to {row['high']:.1f})  {row['ratio']:.2f} x", flush=True)
                if not args.smoke:
                    with RESULTS.open("a") as file:
                        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
