"""Time to accuracy: what `lwcl pretrain` and its peers teach a net in the same minutes, from the same images.

Claim, machine, date and figures: see `benchmarks/README.md`. The ways:

    lwcl                 `lwcl pretrain`, nothing chosen but net, images and size
    lightly NAME         the examples of lightly (MIT): simclr, moco, fastsiam, dino, swav, by its parts and its
                         settings; "/64": in batches of 64, which gives it more steps
    lightly-train NAME   its command (AGPL: run, not read), with its own settings: simclr

Peers decode the photos in every epoch, as they come; lwcl keeps them shrunk, its own choice. A run of lightly is scored
at each mark of the clock (its learning rate is constant); lwcl and lightly-train, which lower theirs, have a run of
their own for each. Rows that the file has are not measured again, so an interrupted command goes on where it was.

    python benchmarks/peers.py --install /tmp/peers                                   makes the peers' environment
    python benchmarks/learning.py --peers-python /tmp/peers/bin/python --data imagenette224-5k.zip --minutes 5 20
    python benchmarks/learning.py --draw                                              table and picture of the rows
    python benchmarks/learning.py --smoke                                             tiny, without that environment
"""

import argparse
import itertools
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from figures import saved, time_to_accuracy
from peer_ways.budget import Task
from peer_ways.timed import (
    ImagesAndLabels,
    Judge,
    Row,
    Rows,
    difference,
    image_set,
    lwcl_for,
    peer_for,
    percent,
    points,
    write_between,
)

from lwcl.system.limits import usable_cpus

HERE = Path(__file__).parent
RESULTS, PICTURE = HERE / "learning.jsonl", HERE / "learning.svg"
ARCHS = ["resnet18", "mobilenetv3_small_100"]
LIGHTLY = ["simclr", "moco", "fastsiam", "dino", "swav", "simclr/64"]
WAYS = ["lwcl", *(f"lightly {name}" for name in LIGHTLY), "lightly-train simclr"]
UNTRAINED = "untrained"


def flags_of(images: ImagesAndLabels, arch: str, args: argparse.Namespace) -> list[str]:
    """The arguments of `lwcl pretrain`."""
    return [
        *("--data", str(images.folder), "--arch", arch, "--image-size", str(args.size), "--seed", str(args.seed)),
        *args.flags,
    ]


def trained(way: str, images: ImagesAndLabels, arch: str, minutes: list[float], args: Any) -> Iterator[tuple[Row, str]]:
    """For each of the minutes what the way's training cost, and its encoder."""
    with tempfile.TemporaryDirectory(prefix="lwcl-") as out:
        if way == "lwcl":
            for budget in minutes:
                run = lwcl_for("pretrain", flags_of(images, arch, args), budget, images.images, Path(out, "run"))
                yield {"mark": 60 * budget, **run}, f"{out}/run"
            return
        module, _, batch = way.partition("/")
        package, method = module.split()
        cpus, marks = usable_cpus(), [60 * budget for budget in minutes]
        task = Task(method, str(images.folder), arch, args.size, int(batch or 0), cpus, cpus, args.seed, 0, marks, out)
        yield from peer_for(args.peers_python, f"learn_{package.replace('-', '_')}", task)


def measure(args: argparse.Namespace, rows: Rows) -> int:
    """Measures what the rows lack; gives the number of ways that failed, each with its reason on stderr."""
    failed = 0
    with image_set(args.name, args.data, tuple(args.val), args.images) as images:
        judge = Judge(images, args.size)
        for arch, way in itertools.product(args.archs, [UNTRAINED, *args.ways]):
            key = {"set": args.name, "arch": arch, "size": args.size, "way": way, "seed": args.seed}
            key |= {"cpus": usable_cpus()}
            due = [m for m in ([0.0] if way == UNTRAINED else args.minutes) if not rows.find(**key, minutes=m)]
            if not due or (way.startswith("light") and not args.peers_python):
                continue
            try:
                runs = trained(way, images, arch, due, args) if way != UNTRAINED else [({"mark": 0}, f"random/{arch}")]
                for cost, encoder in runs:
                    row = rows.add({**key, "minutes": cost.pop("mark") / 60, **cost, **judge.scores(encoder, arch)})
                    print(line(row), flush=True)
            except RuntimeError as error:
                print(f"{arch}, left out: {error}", file=sys.stderr)
                failed += 1
    return failed


def line(row: Row) -> str:
    """A row as a line."""
    cost = f"{row.get('steps', 0):6} steps {row.get('images_per_second', 0):6.0f} images/s"
    score = percent(row["top1"], row["top1_interval"])
    return f"{row['arch']:24} {row['way']:22} {row['minutes']:5.1f} min {row.get('seconds', 0):6.0f} s {cost}  {score}"


def table(rows: Rows) -> Iterator[str]:
    """Markdown: each way's score at each budget, and lwcl's lead."""
    yield "| Net | Minutes | Way | kNN, % | lwcl's lead, points | Linear probe, % | Rank | Steps | Images/s | Seconds |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    places = {(r["set"], r["arch"], r["minutes"], r["way"], r["seed"], r["cpus"]): r for r in rows.rows}
    ways = [UNTRAINED, *WAYS]
    for key in sorted(places, key=lambda one: (*one[:3], ways.index(one[3]), *one[4:])):
        (_, arch, minutes, way, seed, cpus), row = key, places[key]
        own = rows.find(set=row["set"], arch=arch, minutes=minutes, way="lwcl", seed=seed, cpus=cpus)
        lead = points(difference(own, row)) if own and way not in ("lwcl", UNTRAINED) else ""
        scores = f"{percent(row['top1'], row['top1_interval'])} | {lead} | {100 * row['probe']:.1f} | {row['rank']:.0f}"
        cost = f"{row['steps']} | {row['images_per_second']:.0f} | {row['seconds']:.0f}" if minutes else " | | "
        yield f"| {arch} | {minutes:g} | {way} | {scores} | {cost} |"


def options() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description="Time to accuracy against peers.")
    parser.add_argument("--data", help="folder or zip of photos with classes")
    parser.add_argument("--val", nargs="*", default=[], help="labelled test images [those of --data]")
    parser.add_argument("--name", help="of the set [the file's]")
    parser.add_argument("--images", type=int, default=25_000, help="at most")
    parser.add_argument("--size", type=int, default=64, help="pixels of a view")
    parser.add_argument("--archs", nargs="+", default=ARCHS)
    parser.add_argument("--minutes", nargs="+", type=float, default=[5.0, 20.0])
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peers-python", help="interpreter of the peers' environment")
    parser.add_argument("--out", type=Path, default=RESULTS, help="file that the rows are appended to")
    parser.add_argument("--draw", action="store_true", help="table and picture of what --out has, and nothing else")
    parser.add_argument("--smoke", action="store_true", help="tiny, to see that it runs; nothing kept")
    args = parser.parse_args()
    if not (args.data or args.draw or args.smoke):
        parser.error("--data is missing: a folder or zip of photos with classes")
    args.data = args.data or "textures"
    args.name, args.flags = args.name or Path(args.data).stem, []
    return args


def main() -> int:
    """Measures, prints, keeps; 1 if a way failed."""
    args = options()
    if args.smoke:
        with tempfile.TemporaryDirectory() as scratch:
            vars(args).update(
                archs=["test_efficientnet"], images=48, size=32, minutes=[0.01], out=Path(scratch, "rows")
            )
            args.flags = ["--batch-size", "16"]
            return measure(args, Rows(args.out))
    rows = Rows(args.out)
    failed = 0 if args.draw else measure(args, rows)
    print(*table(rows), sep="\n")
    if rows.rows and args.out == RESULTS:
        saved(time_to_accuracy(rows.rows), PICTURE)
        write_between(HERE / "README.md", "learning", list(table(rows)))
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
