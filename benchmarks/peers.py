"""Whole pretraining, data included: lwcl against peers, each in its own environment, on the same image files.

Claim, machine, date and figures: see `benchmarks/README.md`. The ways:

    papers         Pillow, torchvision v1 transforms, float32, the queue cloned: the papers' way, written here
    lightly        the parts of its MoCo example (MIT)
    lightly-train  its command as a black box (AGPL: run, not read), with SimCLR, as it has no MoCo: that is more work
                   a step, two passes with gradient where MoCo has one with and one without
    lwcl           as `lwcl pretrain` trains, in both precisions, from its store and decoding in every epoch

All but lightly-train train MoCo v2, asymmetric, with the same backbone, widths of the head, batch and queue. Each way
is a process (`peer_ways/`) that is told over a pipe to do so many steps and replies the seconds; the ways take turns,
so that other load meets all of them, and a first turn warms up. Worker processes begin and end in each turn, lwcl's
too. Peers run twice: stock, and with the allocator settings that lwcl gives itself ("kept"). Printed: medians, least
and most. All processes of a net stay in memory; --ways measures fewer at once.

    python benchmarks/peers.py --install /tmp/peers                       makes the peers' environment (peers.txt)
    python benchmarks/peers.py --peers-python /tmp/peers/bin/python [--data photos.zip] [--archs resnet18] [--sizes 64]
    python benchmarks/peers.py --draw                                     peers.svg from the last rows of results.jsonl
    python benchmarks/peers.py --smoke                                    tiny, without that environment
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from figures import saved, throughput
from peer_ways.pictures import pictures
from peer_ways.runner import ALLOCATORS, Runner, Way
from peer_ways.turns import Work

import lwcl
from lwcl.cpu import SPINS, usable_cpus
from lwcl.environment import cpu_name

HERE = Path(__file__).parent
RESULTS = HERE / "results.jsonl"
ARCHS = ["mobilenetv3_large_100", "mobilenetv3_small_100", "efficientnet_b0", "resnet18", "deit_tiny_patch16_224"]
WAYS = ["papers", "lightly", "lightly-train", "lwcl"]
CACHES = {"store": "ram", "decoding": "off"}


def ways(told: argparse.Namespace) -> list[Way]:
    """All ways to compare: the papers', those of the peers' environment if it is there, lwcl's."""
    peers = [("papers", "papers", sys.executable)]
    if told.peers_python:
        peers += [("lightly", "lightly_moco", told.peers_python)]
        peers += [("lightly-train", "lightly_train_simclr", told.peers_python)]
    found = [Way(*peer, allocator) for peer in peers for allocator in told.allocators]
    for cache, precision, by in itertools.product(CACHES, told.precisions, told.views_by):
        options = {"cache": CACHES[cache], "precision": precision, "views_by": by}
        name = f"lwcl {precision} {cache}" + (" opencv" if by == "opencv" else "")
        found.append(Way(name, "lwcl_moco", sys.executable, "kept", options, {"GOMP_SPINCOUNT": SPINS}))
    return [way for way in found if way.name.split()[0] in told.ways]


def begun(told: argparse.Namespace, work: Work) -> Iterator[Runner]:
    """The ways' processes, after a turn that warms up; a way that fails is left out, with its reason."""
    for way in ways(told):
        try:
            runner = Runner(way, work)
            runner.turn(2)
            yield runner
        except RuntimeError as error:
            print(f"{work.arch}, {work.size} px, left out: {error}", file=sys.stderr)


def measure(told: argparse.Namespace, work: Work) -> Iterator[dict[str, object]]:
    """Images a second of each way, the ways taking turns, and the ratio to the first way's."""
    running = list(begun(told, work))
    times: list[list[float]] = [[] for _ in running]
    for _ in range(told.turns):
        for seconds, runner in zip(times, running, strict=True):
            seconds.append(runner.turn(told.steps))
    for seconds, runner in zip(times, running, strict=True):
        runner.end()
        rates = sorted(told.steps * work.batch / taken for taken in seconds)
        yield {
            **{"benchmark": "peers", "date": f"{datetime.now(UTC):%Y-%m-%d}", "lwcl": lwcl.__version__},
            **{"versions": runner.versions, "cpu": cpu_name(), "load": os.getloadavg()[0], "data": told.data},
            **{"architecture": work.arch, "pixels": work.size, "batch": work.batch, "queue": work.queue},
            **{"threads": work.threads, "workers": work.workers, "steps": told.steps, "turns": told.turns},
            **{"way": runner.way.name, "allocator": runner.way.allocator, "first_way": running[0].way.name},
            **{"images_per_second": statistics.median(rates), "low": rates[0], "high": rates[-1]},
            "ratio": statistics.median(times[0]) / statistics.median(seconds),
        }


def options() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description="Whole pretraining against peers.")
    parser.add_argument("--archs", nargs="+", default=ARCHS)
    parser.add_argument("--sizes", nargs="+", type=int, default=[32, 64, 96], help="pixels of a view")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--queue", type=int, help="keys [65,536; 4,096 for views of 32 px]")
    parser.add_argument("--steps", type=int, default=16, help="of a turn")
    parser.add_argument("--turns", type=int, default=3, help="after the one that warms up")
    parser.add_argument("--threads", type=int, default=usable_cpus())
    parser.add_argument("--workers", type=int, help="processes that make batches [as many as threads]")
    parser.add_argument("--data", help="folder or zip of images [drawn ones]")
    parser.add_argument("--images", type=int, default=2048, help="how many to take or draw")
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS, help="only these")
    parser.add_argument("--allocators", nargs="+", default=list(ALLOCATORS), choices=ALLOCATORS, help="of peers")
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"], help="of lwcl")
    parser.add_argument("--views-by", nargs="+", default=["tensor"], choices=["tensor", "opencv"], help="of lwcl")
    parser.add_argument("--peers-python", help="interpreter of the peers' environment")
    parser.add_argument("--out", type=Path, default=RESULTS, help="file that the rows are appended to")
    parser.add_argument("--install", metavar="FOLDER", help="make that environment here, and do nothing else")
    parser.add_argument("--draw", action="store_true", help="draw what --out has, and do nothing else")
    parser.add_argument("--smoke", action="store_true", help="tiny, to see that it runs; nothing kept")
    told = parser.parse_args()
    if told.smoke:
        tiny = {"archs": ["test_efficientnet"], "sizes": [32], "batch": 4, "queue": 16, "images": 12, "steps": 2}
        few = {"turns": 1, "threads": 1, "workers": 0, "allocators": ["stock"], "precisions": ["fp32"]}
        vars(told).update(tiny | few, peers_python=None)
    return told


def install(folder: str) -> int:
    """Makes the peers' environment; gives pip's exit code."""
    venv.create(folder, with_pip=True)
    return subprocess.run([f"{folder}/bin/python", "-m", "pip", "install", "-r", f"{HERE}/peers.txt"]).returncode  # noqa: S603


def draw(rows: list[dict[str, object]]) -> int:
    """Draws peers.svg: of every way, net and size the last row."""
    keys = ("architecture", "pixels", "way", "allocator")
    latest = {tuple(row[key] for key in keys): row for row in rows if row["benchmark"] == "peers"}
    saved(throughput(list(latest.values())), HERE / "peers.svg")
    return 0


def works(told: argparse.Namespace, folder: Path) -> Iterator[Work]:
    """What is trained, net by net."""
    workers = told.threads if told.workers is None else told.workers
    for arch, size in itertools.product(told.archs, told.sizes):
        queue = told.queue or (4096 if size <= 32 else 65536)
        yield Work(str(folder), arch, size, told.batch, queue, told.threads, workers, {})


def main() -> int:
    """Measures, prints a table, and appends the rows to results.jsonl (not with --smoke); 1 if a way was left out."""
    told = options()
    if told.install:
        return install(told.install)
    if told.draw:
        return draw([json.loads(line) for line in told.out.read_text().splitlines()])
    missing = 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "images")
        folder.mkdir()
        pictures(told.data, folder, told.images)
        for work in works(told, folder):
            rows = list(measure(told, work))
            missing += len(ways(told)) - len(rows)
            for row in rows:
                print(
                    f"{work.arch:24} {work.size:4} px  {row['way']:26} {row['allocator']:5} "
                    f"{row['images_per_second']:7.1f} images/s ({row['low']:.1f} to {row['high']:.1f})  "
                    f"{row['ratio']:.2f} x",
                    flush=True,
                )
                if not told.smoke:
                    with told.out.open("a") as file:
                        file.write(json.dumps(row) + "\n")
    return int(missing > 0)


if __name__ == "__main__":
    sys.exit(main())
