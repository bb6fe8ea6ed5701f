"""What lwcl's costs grow with: the queue, the bank of exact neighbours, the number of images in a store.

Claim: neighbours and stores cost in proportion to their size; neighbours take at most 0.19 GB beside their bank; the
queue, 64 times as long, costs 1.6 (moco) to 1.8 times (light-moco) the step of a small net, and 1.1 up to 4k keys.
Measured 2026-11-22, one thread of an AMD EPYC (2 cores, AVX-512 with bf16) under heavy load (8 to 9 other programs),
hence CPU time, torch 2.14.1, medians; `scaling.svg` shows

    images a CPU second by keys    1k    4k   16k   32k   64k    MobileNetV3-Small, 32 px, batch 128, float32
        moco                      703   639   582   592   436
        light-moco, symmetric     323   297   273   233   182
    1,000 neighbours by bank      10k   25k   50k  100k          of 1280 numbers, k = 20
        CPU seconds              0.35  0.71  1.28  2.62
        MB beside bank, queries    12    50   184   188
    JPEGs, 256 px, to 112 px       1k    2k    4k
        first time, s            1.07  2.05  4.08                1.0 ms an image: listed, decoded, kept
        again, s                0.011 0.023 0.031                8 to 12 us an image

    python benchmarks/scaling.py [--turns 5] [--smoke]
"""

import argparse
import functools
import json
import multiprocessing
import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from figures import panels, saved
from knn import CENTRES, WIDTH, K, features
from PIL import Image
from step_profile import HERE, ours

from lwcl.data.cache.build import CacheBuilder
from lwcl.data.dataset import open_images
from lwcl.metrics.nearest import nearest_by_cosine
from lwcl.system.cpu import keep_freed_memory

ARCH, SIZE, BATCH, SIDE, SHORT, QUERIES = "mobilenetv3_small_100", 32, 128, 256, 112, 1000
Row = dict[str, Any]


def cpu(run: Callable[[], object]) -> float:
    """CPU seconds of a call, of all threads."""
    begun = time.process_time()
    run()
    return time.process_time() - begun


def queues(lengths: list[int], turns: int, arch: str, batch: int) -> Iterator[Row]:
    """What a step costs with queues of these lengths; all take turns, and two rounds warm up."""
    images = (torch.randn(batch, 3, SIZE, SIZE), torch.randn(batch, 3, SIZE, SIZE))
    ways = [(name, length) for name in ("moco", "light-moco") for length in lengths]
    steps = {(name, length): ours(arch, images, False, name, length) for name, length in ways}
    taken: dict[tuple[str, int], list[float]] = {way: [] for way in ways}
    for turn in range(turns + 2):
        for way, step in steps.items():
            seconds = cpu(step)
            if turn >= 2:
                taken[way].append(seconds)
    for (name, length), times in taken.items():
        middle = statistics.median(times)
        yield {"part": "queue", "method": name, "queue": length, "step_s": middle, "images_s": batch / middle}


def resident(field: str) -> int:
    """Bytes of this process in memory, now (`VmRSS`) or at most (`VmHWM`); see proc_pid_status(5)."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(found[1]) if found else 0


def bank(size: int, count: int, turns: int) -> Row:
    """Exact neighbours of `count` queries in a bank of `size`: CPU seconds, and memory beyond bank and queries."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(CENTRES, WIDTH, generator=generator)
    rows, asked = torch.empty(size, WIDTH), features(count, centres, generator)
    for part in torch.split(rows, 5000):
        part.copy_(features(len(part), centres, generator))
    keep_freed_memory()
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    before = resident("VmRSS")
    nearest_by_cosine(asked, rows, K)
    peak = resident("VmHWM") - before
    middle = statistics.median(cpu(lambda: nearest_by_cosine(asked, rows, K)) for _ in range(turns))
    return {"part": "knn", "bank": size, "queries": count, "width": WIDTH, "k": K, "seconds": middle, "peak": peak}


def banks(sizes: list[int], count: int, turns: int) -> Iterator[Row]:
    """A process each, so that its memory is its own."""
    for size in sizes:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as worker:
            yield worker.submit(bank, size, count, turns).result()


def jpegs(folder: Path, count: int) -> None:
    """`count` made JPEGs of `SIDE` pixels, 16 KB each: noise of several scales."""
    random = np.random.default_rng(0)
    for number in range(count):
        small = [random.integers(0, 256, (side, side, 3), dtype=np.uint8) for side in (4, 16, 128)]
        layers = [np.asarray(Image.fromarray(one).resize((SIDE, SIDE))) for one in small]
        mixed = np.average(layers, axis=0, weights=(0.6, 0.3, 0.1)).astype(np.uint8)
        Image.fromarray(mixed).save(folder / f"{number:06}.jpg", quality=90)


def stores(counts: list[int]) -> Iterator[Row]:
    """An index of a folder and its decoded images kept on disk: CPU seconds the first time, and when they are there."""
    for count in counts:
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made, "images")
            folder.mkdir()
            jpegs(folder, count)
            os.environ["LWCL_CACHE"] = str(Path(made, "cache"))
            whole = functools.partial(
                lambda at: CacheBuilder(images=open_images([str(at)]), short_side=SHORT).store("disk"), folder
            )
            first, again = cpu(whole), statistics.median(cpu(whole) for _ in range(5))
            size = sum(file.stat().st_size for file in folder.iterdir()) / count
        yield {"part": "store", "images": count, "jpeg_bytes": size, "first_s": first, "again_s": again}


def main() -> None:
    """Measures, prints, draws and appends to results.jsonl (with `--smoke` nothing is kept)."""
    parser = argparse.ArgumentParser(description="What costs grow with.")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="tiny, and kept nowhere")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    about = {"benchmark": "scaling", "date": f"{datetime.now(UTC):%Y-%m-%d}", "torch": torch.__version__, "threads": 1}
    if args.smoke:
        found = [queues([64, 128], 1, "test_efficientnet", 8), banks([200], 20, 1), stores([8, 16])]
    else:
        lengths, sizes = [1024 * 2**n for n in range(7)], [10_000, 25_000, 50_000, 100_000]
        found = [queues(lengths, args.turns, ARCH, BATCH), banks(sizes, QUERIES, 3), stores([1000, 2000, 4000])]
    rows = []
    for part in found:
        for row in part:
            print(json.dumps(row), flush=True)
            rows.append(about | row)
    if not args.smoke:
        with (HERE / "results.jsonl").open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    figure = panels(rows)
    if not args.smoke:
        saved(figure, HERE / "scaling.svg")


if __name__ == "__main__":
    main()
