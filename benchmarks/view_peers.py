"""Two MoCo v2 views of each image and nothing after them: lwcl against peers, each in its own environment.

Claim, machine, date and figures: see `benchmarks/README.md`. The ways (`peer_ways/views_*.py`), all on the same 224 px
JPEG files, in batches of 128, by one thread and no worker process:

    papers              Pillow and torchvision v1 transforms: the papers' way, written here
    lightly             1.6.0 (MIT): its MoCo v2 transform and data set
    solo-learn          1.0.2 (MIT): its ImageNet transform and data set, of a file run by itself, as the package needs
                        lightning-bolts to be imported, which does not work with pytorch-lightning 2
    albumentations      2.0.8 (MIT) on OpenCV, on which lightly-train (AGPL, not read or run here) builds: written here
    stable-pretraining  0.1.8 (MIT): its transforms for a CPU and data set; those for batches on a GPU are not measured
    lwcl                the batches of a run's loader, by tensors and by OpenCV, from its store, from shrunk JPEG, and
                        decoding the files every time

Peers decode each image every time. A store does not, so with --decoded they are measured a second time, on images that
are decoded before, shrunk as lwcl's store keeps them, and held in memory; lwcl's ratio is given to both.

Each way is a process; they take turns, and a first turn warms up. Times are CPU time of the process, so that other
load on the machine counts as little as it can. Peers run twice: stock, and with the allocator settings that lwcl gives
itself ("kept"). Printed: microseconds a view, median, least and most, and how many times as fast that is as the papers'
way, stock, from files and from decoded images. Loaders differ a little in what they do: solo-learn crops bicubic,
albumentations without antialiasing, stable-pretraining notes what it drew.

    python benchmarks/peers.py --install /tmp/peers                       makes the peers' environment
    python benchmarks/view_peers.py --peers-python /tmp/peers/bin/python [--data photos.zip] [--sizes 64] [--decoded]
    python benchmarks/view_peers.py --smoke                               tiny, without that environment
"""

import argparse
import itertools
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

from peer_ways.contest import CACHES, Raced, Row, image_folder, parse_args, parser_of, row_fields, run_contest
from peer_ways.runner import Way
from peer_ways.turns import Work
from peer_ways.views_alone import shrunk_folder

from lwcl.data.cache.policy import CACHED_SIDE_RATIO
from lwcl.data.decode import decode, downscale

PEERS = {
    "lightly": "views_lightly",
    "solo-learn": "views_solo",
    "albumentations": "views_albumentations",
    "stable-pretraining": "views_stable",
}
QUIET = {"NO_ALBUMENTATIONS_UPDATE": "1"}  # or it asks the net for a newer release
ARCH = "test_efficientnet"  # lwcl's loader belongs to a run, and that to a net; it does no step
DECODED = "papers decoded"


def ways(args: argparse.Namespace) -> list[Way]:
    """All ways to compare: the papers', those of the peers' environment if it is there, lwcl's."""
    peers = {"papers": ("views_papers", sys.executable)}
    if args.peers_python:
        peers |= {name: (module, args.peers_python) for name, module in PEERS.items()}
    sources = [("", {}), (" decoded", {"decoded": "yes"})] if args.decoded else [("", {})]
    found = [
        Way(name + source, *peer, allocator, options, QUIET)
        for (source, options), (name, peer), allocator in itertools.product(sources, peers.items(), args.allocators)
    ]
    for cache, by in itertools.product(args.caches, args.view_backend):
        options = {"cache": CACHES[cache], "view_backend": by, "precision": "fp32"}
        found.append(Way(f"lwcl {cache} {by}", "views_lwcl", sys.executable, "kept", options))
    return [way for way in found if way.name.split()[0] in args.ways]


def rows(args: argparse.Namespace, work: Work, race: Raced) -> Iterator[Row]:
    """Microseconds a view of each way, and how many times as fast as the first and as the papers' on decoded images."""
    first = statistics.median(race[0][1]) if race else 0.0
    decoded = next((statistics.median(seconds) for runner, seconds in race if runner.way.name == DECODED), None)
    for runner, seconds in race:
        low, middle, high = min(seconds), statistics.median(seconds), max(seconds)
        view = 2 * args.steps * work.batch / 1e6
        yield {
            **row_fields("view_peers", args, work, runner),
            **{"images": args.images, "first_way": race[0][0].way.name},
            **{"us_per_view": middle / view, "low": low / view, "high": high / view, "ratio": first / middle},
            "ratio_decoded": decoded / middle if decoded else None,
        }


def table_line(row: Row) -> str:
    """A line of the table."""
    decoded = f" {row['ratio_decoded']:6.2f} x decoded" if row["ratio_decoded"] else ""
    return (
        f"{row['pixels']:4} px  {row['way']:26} {row['allocator']:5} {row['us_per_view']:7.1f} us a view "
        f"({row['low']:.1f} to {row['high']:.1f}) {row['ratio']:6.2f} x{decoded}"
    )


def options() -> argparse.Namespace:
    """What the command line says."""
    parser = parser_of("Speed of two MoCo v2 views against peers.", ["papers", *PEERS, "lwcl"])
    parser.set_defaults(sizes=[32, 64, 96, 224], steps=4, turns=5, images=512, view_backend=["tensor", "opencv"])
    parser.add_argument("--decoded", action="store_true", help="peers on images decoded before, too")
    parser.add_argument("--caches", nargs="+", default=list(CACHES), choices=CACHES, help="of lwcl")
    return parse_args(parser, steps=1, view_backend=["opencv"], caches=["store"], decoded=True)


def shrunk(work: Work) -> None:
    """Fills `shrunk_folder` with the images as lwcl's store keeps them for views of this size."""
    folder = shrunk_folder(work)
    folder.mkdir()
    for file in Path(work.folder).iterdir():
        image = downscale(decode(file.read_bytes()), round(work.size * CACHED_SIDE_RATIO))
        image.save(folder / f"{file.stem}.bmp")


def works(args: argparse.Namespace, folder: Path) -> Iterator[Work]:
    """Which views are made, size by size."""
    for size in args.sizes:
        work = Work(str(folder), ARCH, size, args.batch, args.batch, threads=1, workers=0, options={})
        if args.decoded:
            shrunk(work)
        yield work


def main() -> int:
    """Measures, prints a table, and appends the rows to results.jsonl (not with --smoke); 1 if a way was left out."""
    args = options()
    with image_folder(args) as folder:
        return run_contest(args, works(args, folder), ways(args), rows, table_line)


if __name__ == "__main__":
    sys.exit(main())
