"""What each form of an encoder costs on the device: export, parity, int8's accuracy, size and latency, net by net.

Results: `docs/device.md`, whose tables and picture this writes. Files that are there are not measured again.

    python benchmarks/deployment.py --data imagenette224-5k.zip --encoders ENCODERS --work FOLDER    export and int8
    python benchmarks/deployment.py --encoders ENCODERS --work FOLDER --latency     on a machine with nothing else to do
    python benchmarks/deployment.py --write                                         the tables and the picture alone
    python benchmarks/deployment.py --smoke                                         tiny; nothing kept

ENCODERS are files of lwcl, or a folder of such files, as `evidence.py --keep` leaves them. Latencies are measured form
after form, in rounds, so that a slow moment of the machine meets all; the median of the rounds counts.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from figures import accuracy_and_latency, saved
from peer_ways.evidence_tables import short
from peer_ways.timed import Row, Rows, child, encoder_files, points, write_between

from lwcl.checkpoints.load import load_encoder
from lwcl.evaluation.latency import measure_latency
from lwcl.models.loaded import LoadedEncoder
from lwcl.reporting.pareto import BenchPoint

HERE = Path(__file__).parent
RESULTS, PICTURE = HERE / "deployment.jsonl", HERE / "deployment.svg"
PAGE = HERE.parent / "docs" / "device.md"
TARGETS = ["portable", "vnni"]
FORMS = ["eager", "compiled", "ONNX float32", "ONNX int8"]
ROUNDS = 3


def export(encoder: str, target: str, args: argparse.Namespace) -> Row:
    """Writes the ONNX files of an encoder into the folder of work; what `lwcl export` found."""
    out = Path(args.work, f"{Path(encoder).stem}-{target}")
    words = [sys.executable, "-m", "lwcl", "export", encoder, "--int8", "--int8-target", target, "--quiet"]
    words += ["--arch", args.arch] if encoder.startswith("random/") else []
    words += ["--image-size", str(args.size)] if args.size else []
    code, said, seconds, _ = child([*words, "--calibrate", args.data, "--out", str(out)])
    if code:
        raise RuntimeError(said)
    found = json.loads((out / "onnx.json").read_text())
    return {"export_s": seconds, "parity": found["parity"], "files": found["files"], "int8": found["int8"]}


def forms(encoder: str, work: str, size: int | None) -> dict[str, LoadedEncoder]:
    """The encoder in each form."""
    eager, compiled = (load_encoder(encoder, image_size=size) for _ in range(2))
    compiled.encoder.backbone.compile()
    folder = Path(work, f"{Path(encoder).stem}-{TARGETS[0]}")
    files = (load_encoder(str(folder / name)) for name in ("model.onnx", "model-int8.onnx"))
    return dict(zip(FORMS, (eager, compiled, *files), strict=True))


def latencies(encoder: str, args: argparse.Namespace) -> Row:
    """Milliseconds at batch 1 of each form, one thread: the median of the rounds, their least and most."""
    known = forms(encoder, args.work, args.size)
    rounds: list[dict[str, float]] = []
    for _ in range(ROUNDS):
        rounds.append({name: measure_latency(one, 1, seconds=args.seconds).median for name, one in known.items()})
    torch.compiler.reset()
    return {
        name: {"ms": statistics.median(values), "least": min(values), "most": max(values)}
        for name in known
        for values in [[one[name] for one in rounds]]
    }


def measure(encoders: list[tuple[str, str]], args: argparse.Namespace, rows: Rows) -> None:
    """The exports, or the latencies, that the rows lack."""
    for encoder, args.arch in encoders:
        for target in ["latency"] if args.latency else TARGETS:
            key = {"arch": args.arch, "encoder": Path(encoder).stem, "target": target, "size": args.size}
            if rows.find(**key):
                continue
            begun = time.time()
            found = latencies(encoder, args) if args.latency else export(encoder, target, args)
            rows.add({**key, **found})
            print(f"{args.arch} {target}: {time.time() - begun:.0f} s", flush=True)


def latency_table(rows: Rows, nets: dict[str, str]) -> Iterator[str]:
    """Export time, parity, sizes and latency of each net."""
    yield (
        "| Net | Export, s | Largest difference, relative | Least cosine | float32 / int8, MB | "
        + " | ".join(FORMS)
        + " |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for encoder, arch in nets.items():
        row, timed = (rows.find(encoder=encoder, target=target) for target in (TARGETS[0], "latency"))
        if row is None:
            continue
        parity = row["parity"]
        megabytes = " / ".join(f"{row['files'][name]['bytes'] / 1e6:.1f}" for name in ("model.onnx", "model-int8.onnx"))
        cells = [f"{timed[form]['ms']:.2f}" if timed else "" for form in FORMS]
        cells = [f"{row['export_s']:.0f}", f"{parity['relative']:.0e}", f"{parity['cosine']:.6f}", megabytes, *cells]
        yield f"| {short(arch)} | {' | '.join(cells)} |"


def int8_table(rows: Rows, nets: dict[str, str]) -> Iterator[str]:
    """What int8 costs each net, with both targets."""
    cosine = "Cosine: mean (1st percentile, least)"
    yield f"| Net | Target | int8, MB | {cosine} | Unfused | float32 kNN, % | int8's change, points |"
    yield "|---|---|---|---|---|---|---|"
    for encoder, arch in nets.items():
        for target in TARGETS:
            if row := rows.find(encoder=encoder, target=target):
                run, knn = row["int8"]["as_run"], row["int8"]["knn"]
                cosine = f"{run['mean']:.3f} ({run['percentile_1']:.3f}, {run['least']:.3f})"
                size = f"{row['files']['model-int8.onnx']['bytes'] / 1e6:.1f}"
                change = points(tuple(100 * one for one in (knn["change"], *knn["interval"]))) if knn else ""
                unfused = f"{row['int8']['unfused']['mean']:.3f}"
                top1 = f"{100 * knn['float32']:.1f}" if knn else ""
                yield f"| {short(arch)} | {target} | {size} | {cosine} | {unfused} | {top1} | {change} |"


def picture(rows: Rows, nets: dict[str, str]) -> None:
    """Accuracy against latency of all nets in float32 by PyTorch, and by onnxruntime in float32 and int8."""
    drawn: list[tuple[str, str, BenchPoint]] = []
    for encoder, arch in nets.items():
        row, timed = (rows.find(encoder=encoder, target=target) for target in (TARGETS[0], "latency"))
        if row is None or timed is None or not (knn := row["int8"]["knn"]):
            continue
        large, small = (row["files"][name]["bytes"] / 1e6 for name in ("model.onnx", "model-int8.onnx"))
        for form, top1, megabytes in zip(
            (FORMS[0], *FORMS[2:]), (knn["float32"], knn["float32"], knn["int8"]), (large, large, small), strict=True
        ):
            half = 1.96 * (top1 * (1 - top1) / knn["images"]) ** 0.5
            bounds = (100 * (top1 - half), 100 * (top1 + half))
            point = BenchPoint(f"{short(arch)} {form}", timed[form]["ms"], 100 * top1, bounds, megabytes)
            drawn.append((short(arch), form, point))
    if drawn:
        saved(accuracy_and_latency(drawn), PICTURE)


def write(rows: Rows) -> None:
    """The tables of the page and the picture."""
    nets = {row["encoder"]: row["arch"] for row in rows.rows}
    write_between(PAGE, "latency", list(latency_table(rows, nets)))
    write_between(PAGE, "int8", list(int8_table(rows, nets)))
    picture(rows, nets)


def options() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description="Encoders in the forms that devices run.")
    parser.add_argument("--data", help="labelled images with the folders train and val")
    parser.add_argument("--encoders", nargs="+", type=Path, default=[], metavar="FILE", help="float32 encoders")
    parser.add_argument("--work", metavar="FOLDER", help="for the exported files, which --latency needs again")
    parser.add_argument("--size", type=int, help="pixels [the encoder's]")
    parser.add_argument("--latency", action="store_true", help="measure latencies; else export and compare")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a measurement of latency")
    parser.add_argument("--out", type=Path, default=RESULTS, help="file that the rows are appended to")
    parser.add_argument("--write", action="store_true", help="only write the page and the picture")
    parser.add_argument("--smoke", action="store_true", help="tiny, to see that it runs; nothing kept")
    return parser.parse_args()


def smoke(args: argparse.Namespace) -> None:
    """A tiny net through both parts."""
    with tempfile.TemporaryDirectory() as scratch:
        vars(args).update(data="textures", size=32, seconds=0.1, out=Path(scratch, "rows"), work=scratch)
        encoders = [("random/test_efficientnet", "test_efficientnet")]
        rows = Rows(args.out)
        for args.latency in (False, True):
            measure(encoders, args, rows)
        nets = {row["encoder"]: row["arch"] for row in rows.rows}
        print("\n".join((*latency_table(rows, nets), *int8_table(rows, nets))))


def main() -> int:
    """Measures and writes; 0."""
    args = options()
    if args.smoke:
        smoke(args)
        return 0
    rows = Rows(args.out)
    if not args.write:
        measure(list(encoder_files(args.encoders)), args, rows)
    if args.out == RESULTS:
        write(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
