"""Few bits: a float32 encoder quantised after training, with batch norm re-estimated, and trained, side by side.

Results: `docs/device.md`, whose table this writes after each run. Runs that the file has are not measured again.

    python benchmarks/low_bits.py --data imagenette224-5k.zip --encoders ENCODERS      every run
    python benchmarks/low_bits.py --write                                              the table alone
    python benchmarks/low_bits.py --smoke                                              tiny; nothing kept

ENCODERS are files of lwcl, or a folder of such files, as `evidence.py --keep` leaves them. Each is its students' start
and their teacher. The labels of the images serve the evaluation alone.
"""

import argparse
import itertools
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from peer_ways.evidence_tables import short
from peer_ways.timed import Row, Rows, encoder_files, lwcl_run, percent, points, write_between

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "low_bits.jsonl", HERE.parent / "docs" / "device.md"
EPOCHS = {8: 2, 4: 2, 2: 6, 1: 6}  # of training, by bits of the weights
WAYS = ["post-training", "post-training, batch norm", "trained"]


def measured(encoder: str, arch: str, bits: int, seed: int, args: argparse.Namespace) -> Row:
    """A training, and what its report says of the four encoders and of the untrained one."""
    epochs = args.epochs or EPOCHS[bits]
    flags = ["--data", args.data, "--arch", arch, "--init", encoder, "--teacher", "self", "--bits", str(bits)]
    flags += ["--image-size", str(args.size), "--epochs", str(epochs), "--seed", str(seed), *args.flags]
    with tempfile.TemporaryDirectory(prefix="lwcl-") as scratch:
        cost = lwcl_run("compress", flags, Path(scratch, "run"))
        facts = json.loads(Path(scratch, "run", "report.json").read_text())["facts"]
    return {**cost, "rows": facts["few_bits"], "untrained": facts["knn"][-1]["top1"]}


def table(rows: list[Row]) -> Iterator[str]:
    """A line for each net and number of bits; of several seeds the mean, the least and most, and the least lead."""
    yield "| Net | Bits | Seeds | float32 | " + " | ".join(WAYS) + " | trained, above the best without | gain kept |"
    yield "|---|---|---|---|---|---|---|---|---|"
    works = dict.fromkeys((row["arch"], row["bits"]) for row in rows)
    nets = [arch for arch, _ in works]
    for arch, bits in sorted(works, key=lambda one: (nets.index(one[0]), -one[1])):
        own = [row for row in rows if (row["arch"], row["bits"]) == (arch, bits)]
        known = [{one["name"]: one for one in row["rows"]} for row in own]
        float32 = known[0]["float32 twin"]
        cells = [percent(float32["top1"], float32["interval"])]
        cells += [spread([100 * one[way]["top1"] for one in known]) for way in WAYS]
        cells.append(points(min(map(lead, known))))
        cells.append(spread([100 * kept(one, row["untrained"]) for one, row in zip(known, own, strict=True)]) + "%")
        yield f"| {short(arch)} | {bits} | {len(own)} | {' | '.join(cells)} |"


def spread(values: list[float]) -> str:
    """The mean, and of several values the least and most."""
    mean = f"{statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.1f} to {max(values):.1f})"


def lead(known: dict[str, Row]) -> tuple[float, float, float]:
    """How far training is above the better of the two without, points with the paired 95% interval."""
    best = max(WAYS[:2], key=lambda way: known[way]["top1"])
    gain, (low, high) = known[best]["gain"]  # of that row over the trained one
    return -100 * gain, -100 * high, -100 * low


def kept(known: dict[str, Row], untrained: float) -> float:
    """The share of the float32 encoder's gain over an untrained one that the trained student keeps."""
    whole = known["float32 twin"]["top1"] - untrained
    return (known["trained"]["top1"] - untrained) / whole if whole else math.nan


def options() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description="Students of few bits beside quantisation after training.")
    parser.add_argument("--data", help="labelled images with the folders train and val")
    parser.add_argument("--encoders", nargs="+", type=Path, default=[], metavar="FILE", help="float32 encoders")
    parser.add_argument("--bits", nargs="+", type=int, default=[2, 1, 4, 8])
    parser.add_argument("--size", type=int, default=64, help="pixels")
    parser.add_argument("--epochs", type=int, help="of training [2 from 4 bits on, 6 below]")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--out", type=Path, default=RESULTS, help="file that the rows are appended to")
    parser.add_argument("--write", action="store_true", help="only write the table")
    parser.add_argument("--smoke", action="store_true", help="tiny, to see that it runs; nothing kept")
    args = parser.parse_args()
    args.flags = []
    return args


def measure(encoders: list[tuple[str, str]], args: argparse.Namespace, rows: Rows) -> None:
    """The runs that the rows lack."""
    for seed, bits, (encoder, arch) in itertools.product(args.seeds, args.bits, encoders):
        key = {"arch": arch, "encoder": Path(encoder).stem, "bits": bits, "size": args.size, "seed": seed}
        if rows.find(**key):
            continue
        row = rows.add({**key, **measured(encoder, arch, bits, seed, args)})
        print(arch, bits, {one["name"]: one["top1"] for one in row["rows"]}, flush=True)
        if args.out == RESULTS:
            write_between(PAGE, "low bits", list(table(rows.rows)))


def main() -> int:
    """Measures and writes; 0."""
    args = options()
    if args.smoke:
        with tempfile.TemporaryDirectory() as scratch:
            vars(args).update(data="textures", size=32, bits=[2], epochs=1, out=Path(scratch, "rows"))
            args.flags = ["--fast-dev-run", "2", "--batch-size", "16"]
            rows = Rows(args.out)
            measure([("random/test_efficientnet", "test_efficientnet")], args, rows)
            print("\n".join(table(rows.rows)))
        return 0
    rows = Rows(args.out)
    if not args.write:
        measure(list(encoder_files(args.encoders)), args, rows)
    write_between(PAGE, "low bits", list(table(rows.rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
