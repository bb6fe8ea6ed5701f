"""Two trainings side by side on the CPUs of one, by how long a waiting thread holds its CPU (`GOMP_SPINCOUNT`).

Claim: where waiting threads give way soon, two trainings of as many threads as there are CPUs get 1.5 to 2.2 times less
each than one alone, and 5.7 times less where they hold on as libgomp does by itself. Measured 2026-11-22, two cores of
an AMD EPYC, torch 2.14.1, MobileNetV3-Large, 64 px, batch 64; one run of three turns, in which a run alone varied
twofold, so take no more from it than the order; images a second of each, median (least to most):

    spins    alone, 2 threads   two, 2 threads each  times less   two, 1 thread each
      1,000  194 (139 to 248)   142 (116 to 157)     1.5
      4,000  213 (133 to 294)    97  (84 to 100)     2.2          153 (149 to 155): 1.4
    300,000  253 (242 to 264)    38  (35 to  46)     5.7

On a machine with nothing else to do (2026-11-27, AMD EPYC, Zen 3, two turns of 4 s): alone 122 (116 to 128), two with 2
threads each 55 (51 to 60), 2.2 times less, where sharing alone makes it 2.0; with 300,000 spins 124 alone and 31 (11 to
43), 3.9 times less; two with 1 thread each 83 (74 to 89), 1.5 times less.

lwcl takes 4,000. Times less is by the first row measured alone, 4,000 spins.

    python benchmarks/sharing.py [--spins 1000 4000 300000] [--seconds 5] [--smoke]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from lwcl.system.cpu import GOMP_SPINS
from lwcl.system.limits import usable_cpus

RESULTS = Path(__file__).with_name("results.jsonl")
TRAINING = """
import sys, time, timm, torch
from lwcl.system.cpu import keep_freed_memory
arch, pixels, threads, start, seconds = sys.argv[1], *map(float, sys.argv[2:])
torch.set_num_threads(int(threads))
keep_freed_memory()
net = timm.create_model(arch, num_classes=0).to(memory_format=torch.channels_last)
images = torch.randn(64, 3, int(pixels), int(pixels)).contiguous(memory_format=torch.channels_last)
def step():
    net(images).sum().backward()
for _ in range(2):
    step()
time.sleep(max(0, start - time.time()))
begun, steps = time.perf_counter(), 0
while time.perf_counter() < begun + seconds:
    step()
    steps += 1
print(64 * steps / (time.perf_counter() - begun))
"""


def together(runs: int, threads: int, spins: str, args: argparse.Namespace) -> list[float]:
    """Images per second of concurrent trainings, each with its own threads."""
    start = time.time() + args.lead
    command = [sys.executable, "-c", TRAINING, args.arch, str(args.pixels), str(threads), str(start), str(args.seconds)]
    environment = {**os.environ, "GOMP_SPINCOUNT": spins}
    begun = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(runs)]  # noqa: S603
    return [float(process.communicate()[0]) for process in begun]


def measure(args: argparse.Namespace) -> list[dict[str, object]]:
    """Medians of every configuration, which take turns."""
    cpus = usable_cpus()
    ways = [(spins, runs, cpus) for spins in args.spins for runs in (1, 2)]
    found: dict[tuple[str, int, int], list[float]] = {way: [] for way in (*ways, (GOMP_SPINS, 2, 1))}
    for _ in range(args.turns):
        for (spins, runs, threads), speeds in found.items():
            speeds += together(runs, threads, spins, args)
    alone = statistics.median(found[args.spins[0], 1, cpus])
    return [
        {
            "benchmark": "sharing",
            "date": datetime.now(UTC).date().isoformat(),
            "architecture": args.arch,
            "pixels": args.pixels,
            "spins": int(spins),
            "runs": runs,
            "threads_each": threads,
            "images_per_second_each": statistics.median(speeds),
            "low": min(speeds),
            "high": max(speeds),
            "slowdown": alone / statistics.median(speeds),
        }
        for (spins, runs, threads), speeds in found.items()
    ]


def main() -> None:
    """Measures, prints a table, and appends the rows to results.jsonl (not with --smoke)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spins", nargs="+", default=[GOMP_SPINS, "1000", "300000"])
    parser.add_argument("--arch", default="mobilenetv3_large_100")
    parser.add_argument("--pixels", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--lead", type=float, default=8, help="seconds until all begin to count: imports take some")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="tiny, to see that it runs")
    args = parser.parse_args()
    if args.smoke:
        args.spins, args.arch, args.pixels, args.seconds, args.lead, args.turns = (
            [GOMP_SPINS],
            "test_resnet",
            32,
            0.1,
            0,
            1,
        )
    for row in measure(args):
        print(
            f"{row['spins']:>7} looks, {row['runs']} at once, {row['threads_each']} threads each: "
            f"{row['images_per_second_each']:6.1f} images/s ({row['low']:.1f} to {row['high']:.1f}), "
            f"{row['slowdown']:.1f} times slower than alone"
        )
        if not args.smoke:
            with RESULTS.open("a") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
