"""A measurement of ways that take turns: what its command line says, its images, its turns, and the rows it keeps."""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lwcl
from lwcl.system.environment import cpu_name
from peer_ways.pictures import pictures
from peer_ways.runner import ALLOCATORS, Runner, Way
from peer_ways.turns import Work

RESULTS = Path(__file__).parents[1] / "results.jsonl"
CACHES = {"store": "ram", "jpeg": "jpeg", "decoding": "off"}
TINY = {"sizes": [32], "batch": 4, "images": 12, "turns": 1, "allocators": ["stock"], "peers_python": None}

Row = dict[str, Any]
Raced = list[tuple[Runner, list[float]]]  # each way's process, and the seconds of its turns


def parser_of(description: str, ways: list[str]) -> argparse.ArgumentParser:
    """What every such command line says."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--sizes", nargs="+", type=int, help="pixels of a view")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, help="of a turn")
    parser.add_argument("--turns", type=int, help="after the one that warms up")
    parser.add_argument("--data", help="folder or zip of images [drawn ones]")
    parser.add_argument("--images", type=int, help="how many to take or draw")
    parser.add_argument("--ways", nargs="+", default=ways, choices=ways, help="only these")
    parser.add_argument("--allocators", nargs="+", default=list(ALLOCATORS), choices=ALLOCATORS, help="of peers")
    parser.add_argument("--view-backend", nargs="+", choices=["tensor", "opencv"], help="of lwcl")
    parser.add_argument("--peers-python", help="interpreter of the peers' environment")
    parser.add_argument("--out", type=Path, default=RESULTS, help="file that the rows are appended to")
    parser.add_argument("--smoke", action="store_true", help="tiny, to see that it runs; nothing kept")
    return parser


def parse_args(parser: argparse.ArgumentParser, **tiny: object) -> argparse.Namespace:
    """What the command line says; with --smoke, `tiny` and what is `TINY` everywhere."""
    args = parser.parse_args()
    if args.smoke:
        vars(args).update(TINY | tiny)
    return args


@contextmanager
def image_folder(args: argparse.Namespace) -> Iterator[Path]:
    """A folder of the images, with room for others next to it."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "images")
        folder.mkdir()
        pictures(args.data, folder, args.images)
        yield folder


def begun(ways: Iterable[Way], work: Work) -> Iterator[Runner]:
    """The ways' processes, after a turn that warms up; a way that fails is left out, with its reason."""
    for way in ways:
        try:
            runner = Runner(way, work)
            runner.turn(2)
            yield runner
        except RuntimeError as error:
            print(f"{work.arch}, {work.size} px, left out: {error}", file=sys.stderr)


def run_turns(args: argparse.Namespace, work: Work, ways: Iterable[Way]) -> Raced:
    """The ways' turns, one way after the other in each."""
    race: Raced = [(runner, []) for runner in begun(ways, work)]
    for _ in range(args.turns):
        for runner, seconds in race:
            seconds.append(runner.turn(args.steps))
    for runner, _ in race:
        runner.end()
    return race


def row_fields(benchmark: str, args: argparse.Namespace, work: Work, runner: Runner) -> Row:
    """What every row says: of what, when, where and with what a way was measured."""
    return {
        **{"benchmark": benchmark, "date": f"{datetime.now(UTC):%Y-%m-%d}", "lwcl": lwcl.__version__},
        **{"versions": runner.versions, "cpu": cpu_name(), "load": os.getloadavg()[0]},
        "data": args.data and Path(args.data).name,
        **{"pixels": work.size, "batch": work.batch, "threads": work.threads, "workers": work.workers},
        **{"steps": args.steps, "turns": args.turns, "way": runner.way.name, "allocator": runner.way.allocator},
    }


def run_contest(
    args: argparse.Namespace,
    works: Iterable[Work],
    ways: list[Way],
    rows_of: Callable[[argparse.Namespace, Work, Raced], Iterable[Row]],
    table_line: Callable[[Row], str],
) -> int:
    """Measures every work, prints its rows, and keeps them (not with --smoke); 1 if a way was left out."""
    missing = 0
    for work in works:
        race = run_turns(args, work, ways)
        missing += len(ways) - len(race)
        for row in rows_of(args, work, race):
            print(table_line(row), flush=True)
            if not args.smoke:
                with args.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
    return int(missing > 0)
