"""Whole pretraining, data included: lwcl against peers, each in its own environment, on the same image files.

Claim, machine, date and figures: see `benchmarks/README.md`. The ways:

    papers         Pillow, torchvision v1 transforms, float32, the queue cloned: the papers' way, written here
    lightly        the parts of its MoCo example (MIT)
    lightly-train  its command as a black box (AGPL: run, not read), with SimCLR, as it has no MoCo: that is more work
                   a step, two passes with gradient where MoCo has one with and one without
    lwcl           as `lwcl pretrain` trains, in both precisions, views made by tensors or OpenCV (`--view-backend`),
                   from its store, from shrunk JPEG, and decoding the files in every epoch

All but lightly-train train MoCo v2, asymmetric, with the same backbone, widths of the head, batch and queue. Each way
is a process (`peer_ways/`) that receives step counts over a pipe and replies with seconds; the ways take turns,
so that other load meets all of them, and a first turn warms up. Worker processes begin and end in each turn, lwcl's
too. Peers run twice: stock, and with the allocator settings that lwcl gives itself ("kept"). Printed: medians, least
and most. All processes of a net stay in memory; --ways measures fewer at once.

    python benchmarks/peers.py --install /tmp/peers                       makes the peers' environment (peers.txt)
    python benchmarks/peers.py --peers-python /tmp/peers/bin/python [--data photos.zip] [--archs resnet18] [--sizes 64]
    python benchmarks/peers.py --draw                                     a picture a machine from results.jsonl
    python benchmarks/peers.py --smoke                                    tiny, without that environment
"""

import argparse
import itertools
import json
import re
import statistics
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

from figures import saved, throughput
from peer_ways.contest import CACHES, Raced, Row, image_folder, parse_args, parser_of, row_fields, run_contest
from peer_ways.runner import Way
from peer_ways.turns import Work

from lwcl.system.cpu import GOMP_SPINS
from lwcl.system.limits import usable_cpus

HERE = Path(__file__).parent
ARCHS = ["mobilenetv3_large_100", "mobilenetv3_small_100", "efficientnet_b0", "resnet18", "deit_tiny_patch16_224"]
WAYS = ["papers", "lightly", "lightly-train", "lwcl"]
ALONE = ["solo-learn==1.0.2", "stable-pretraining==0.1.8"]  # without what they ask for: torch 1.9.1, much beside views


def ways(args: argparse.Namespace) -> list[Way]:
    """All ways to compare: the papers', those of the peers' environment if it is there, lwcl's."""
    peers = [("papers", "papers", sys.executable)]
    if args.peers_python:
        peers += [("lightly", "lightly_moco", args.peers_python)]
        peers += [("lightly-train", "lightly_train_simclr", args.peers_python)]
    found = [Way(*peer, allocator) for peer in peers for allocator in args.allocators]
    for cache, precision, by in itertools.product(CACHES, args.precisions, args.view_backend):
        options = {"cache": CACHES[cache], "precision": precision, "view_backend": by}
        name = f"lwcl {precision} {cache}" + (" opencv" if by == "opencv" else "")
        found.append(Way(name, "lwcl_moco", sys.executable, "kept", options, {"GOMP_SPINCOUNT": GOMP_SPINS}))
    return [way for way in found if way.name.split()[0] in args.ways]


def rows(args: argparse.Namespace, work: Work, race: Raced) -> Iterator[Row]:
    """Images a second of each way, and the ratio to the first way's."""
    for runner, seconds in race:
        rates = sorted(args.steps * work.batch / taken for taken in seconds)
        yield {
            **row_fields("peers", args, work, runner),
            **{"architecture": work.arch, "queue": work.queue, "first_way": race[0][0].way.name},
            **{"images_per_second": statistics.median(rates), "low": rates[0], "high": rates[-1]},
            "ratio": statistics.median(race[0][1]) / statistics.median(seconds),
        }


def table_line(row: Row) -> str:
    """A line of the table."""
    return (
        f"{row['architecture']:24} {row['pixels']:4} px  {row['way']:26} {row['allocator']:5} "
        f"{row['images_per_second']:7.1f} images/s ({row['low']:.1f} to {row['high']:.1f})  {row['ratio']:.2f} x"
    )


def options() -> argparse.Namespace:
    """What the command line says."""
    parser = parser_of("Whole pretraining against peers.", WAYS)
    parser.set_defaults(sizes=[32, 64, 96], steps=16, turns=3, images=2048, view_backend=["tensor"])
    parser.add_argument("--archs", nargs="+", default=ARCHS)
    parser.add_argument("--queue", type=int, help="keys [65,536; 4,096 for views of 32 px]")
    parser.add_argument("--threads", type=int, default=usable_cpus())
    parser.add_argument("--workers", type=int, help="processes that make batches [as many as threads]")
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"], help="of lwcl")
    parser.add_argument("--install", metavar="FOLDER", help="make that environment here, and do nothing else")
    parser.add_argument("--draw", action="store_true", help="draw what --out has, and do nothing else")
    tiny = {"archs": ["test_efficientnet"], "queue": 16, "steps": 2, "threads": 1, "workers": 0}
    return parse_args(parser, **tiny, precisions=["fp32"])


def install(folder: str) -> int:
    """Makes the peers' environment; gives pip's exit code."""
    venv.create(folder, with_pip=True)
    pip = [f"{folder}/bin/python", "-m", "pip", "install"]
    wanted = (["-r", f"{HERE}/peers.txt"], ["--no-deps", *ALONE])
    return max(subprocess.run([*pip, *words]).returncode for words in wanted)  # noqa: S603


def draw(rows: list[dict[str, object]]) -> int:
    """Draws a picture for each machine: of every way, net and size the last row."""
    keys = ("architecture", "pixels", "way", "allocator")
    of_peers = [row for row in rows if row["benchmark"] == "peers"]
    for cpu in {str(row["cpu"]): None for row in of_peers}:
        latest = {tuple(row[key] for key in keys): row for row in of_peers if row["cpu"] == cpu}
        name = re.sub(r"[^a-z0-9]+", "-", f"peers {cpu}".lower()).strip("-")
        saved(throughput(list(latest.values())), HERE / f"{name}.svg")
    return 0


def works(args: argparse.Namespace, folder: Path) -> Iterator[Work]:
    """What is trained, net by net."""
    workers = args.threads if args.workers is None else args.workers
    for arch, size in itertools.product(args.archs, args.sizes):
        queue = args.queue or (4096 if size <= 32 else 65536)
        yield Work(str(folder), arch, size, args.batch, queue, args.threads, workers, {})


def main() -> int:
    """Measures, prints a table, and appends the rows to results.jsonl (not with --smoke); 1 if a way was left out."""
    args = options()
    if args.install:
        return install(args.install)
    if args.draw:
        return draw([json.loads(line) for line in args.out.read_text().splitlines()])
    with image_folder(args) as folder:
        return run_contest(args, works(args, folder), ways(args), rows, table_line)


if __name__ == "__main__":
    sys.exit(main())
