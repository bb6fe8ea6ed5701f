"""The tables of `modalities.py` from its rows."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from lwcl.metrics.bootstrap import gap_closed
from peer_ways.evidence_tables import short
from peer_ways.modality_sets import RGB
from peer_ways.timed import Row, Rows, difference, percent, points

TEACHER, UNTRAINED = "teacher", "untrained"
MODALITIES = ["gray", "jpeg:10", "size:32", "edges", RGB]
#: Ways of a student, and the command of each that has a teacher.
ACROSS = {"alone": "", "regression": "compress", "1q": "compress", "seed": "distill", "2q": "compress"}
DEFAULT = "default"
#: Bands of the scene, by their number; BM1 is the mean of band 1 over 3 by 3 pixels.
CHANNELS = {
    "1": "*_B{4}.tif",
    "3": "*_B{3,2,1}.tif",
    "4": "*_B{3,2,1,4}.tif",
    "6": "*_B{1,2,3,4,5,7}.tif",
    "12": "*_B{1,2,3,4,5,7,M1,M2,M3,M4,M5,M7}.tif",
}
#: Ways of training on bands, with their flags: jitter changes what bands differ by.
BAND_WAYS = {"crop and flip alone": ["--augmentation", "crop-flip"], DEFAULT: []}
#: Ways of self-distillation: the command, and its flags.
SELF: dict[str, tuple[str, list[str]]] = {
    DEFAULT: ("pretrain", []),
    "isd": ("pretrain", ["--recipe", "isd"]),
    "born again by regression": ("compress", ["--method", "regression"]),
    "born again by 2q": ("compress", ["--method", "2q"]),
    "born again by seed": ("distill", ["--method", "seed"]),
}


def correct(row: Row) -> Tensor:
    """Which queries (N,) bool kNN classifies correctly."""
    return torch.tensor([digit == "1" for digit in f"{int(row['right'], 16):0{row['queries']}b}"])


def works(rows: Rows, table: str) -> Iterator[dict[str, Any]]:
    """The budgets of a table's rows: net, minutes, size, cores and seed."""
    names = ("arch", "minutes", "size", "cpus", "seed")
    found = dict.fromkeys(tuple(row[name] for name in names) for row in rows.rows if row["table"] == table)
    yield from (dict(zip(names, one, strict=True)) for one in found if one[0] and one[1])


def heading(work: dict[str, Any], table: list[Row]) -> str:
    """What the rows have in common."""
    cores = "one core" if work["cpus"] == 1 else f"{work['cpus']} cores"
    where = f"{cores} of {table[0]['cpu']}, {table[0]['date']}"
    return (
        f"{short(work['arch'])}, {work['minutes']:g} minutes each on {where}; views of {work['size']} px; kNN top-1, %:"
    )


def across_table(rows: Rows) -> Iterator[str]:
    """For each modality: teacher, net alone and students, and what part of the teacher's lead crosses."""
    for work in works(rows, "across"):
        own = {name: work[name] for name in ("size", "cpus", "seed")}
        told = [row for row in rows.rows if row["table"] == "across" and row["arch"] == work["arch"]]
        yield from (heading(work, told), "")
        yield "| Student sees | Way | kNN, % | More than alone, points | Part of the teacher's lead |"
        yield "|---|---|---|---|---|"
        teacher = rows.find(table="across", way=TEACHER, modality=RGB, **own)
        for modality in MODALITIES:
            alone = rows.find(table="across", modality=modality, way="alone", **work)
            if reading := rows.find(table="across", modality=modality, way=TEACHER, **own):
                yield f"| {modality} | the teacher itself | {percent(reading['top1'], reading['top1_interval'])} | | |"
            if untrained := rows.find(table="across", modality=modality, way=UNTRAINED, **work | {"minutes": 0}):
                yield f"| {modality} | untrained | {percent(untrained['top1'], untrained['top1_interval'])} | | |"
            for way in ACROSS:
                if row := rows.find(table="across", modality=modality, way=way, **work):
                    scores = f"{percent(row['top1'], row['top1_interval'])} | {gains(row, alone, teacher)}"
                    yield f"| {modality} | {way} | {scores} |"
        yield ""


def gains(row: Row, alone: Row | None, teacher: Row | None) -> str:
    """Two cells: the points that a student has more than the net alone, and their part of the teacher's lead."""
    if not alone or row is alone:
        return "|"
    share = gap_closed(correct(row), correct(teacher), correct(alone)) if teacher else None
    return f"{points(difference(row, alone))} | {percent(share[0], share[1:]) + ' %' if share else ''}"


def self_table(rows: Rows) -> Iterator[str]:
    """The ways of self-distillation against the default in the same minutes."""
    for work in works(rows, "self"):
        told = [row for row in rows.rows if row["table"] == "self" and row["arch"] == work["arch"]]
        yield from (heading(work, told), "")
        yield "| Way | kNN, % | More than the default, points | Linear probe, % | Steps |"
        yield "|---|---|---|---|---|"
        default = rows.find(table="self", way=DEFAULT, **work)
        for way in (UNTRAINED, *SELF):
            row = rows.find(table="self", way=way, **(work | ({"minutes": 0} if way == UNTRAINED else {})))
            if row:
                more = points(difference(row, default)) if default and row is not default else ""
                scores = f"{percent(row['top1'], row['top1_interval'])} | {more}"
                yield f"| {way} | {scores} | {percent(row['probe'], row['probe_interval'])} | {row.get('steps', '')} |"
        yield ""


def channels_table(rows: Rows) -> Iterator[str]:
    """For each number of bands: kNN trained and untrained, speed, memory, and how far the exported files are off."""
    for work in works(rows, "channels"):
        told = [row for row in rows.rows if row["table"] == "channels" and row["arch"] == work["arch"]]
        yield from (heading(work, told), "")
        columns = ("Bands", "Augmentation", "kNN, %", "More than untrained, points", "Images/s", "Peak memory, MB")
        columns += ("ONNX, relative difference", "int8, cosine")
        yield f"| {' | '.join(columns)} |"
        yield "|---" * len(columns) + "|"
        for bands in CHANNELS:
            untrained = rows.find(table="channels", modality=bands, way=UNTRAINED, **work)
            for way in BAND_WAYS:
                row = rows.find(table="channels", modality=bands, way=way, **work)
                if not row or not untrained:
                    continue
                scores = f"{percent(row['top1'], row['top1_interval'])} | {points(difference(row, untrained))}"
                cost = f"{row['images_per_second']:.0f} | {row['peak_mb']:.0f}"
                files = f"{row['onnx']['relative']:.1g} | {row['int8']['as_run']['mean']:.3f}"
                yield f"| {bands} | {way} | {scores} | {cost} | {files} |"
        yield ""
