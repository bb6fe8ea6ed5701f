"""The report of `lwcl bench`."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lwcl.formatting import percent
from lwcl.reporting.pareto import BenchPoint, pareto_front, pareto_svg
from lwcl.reporting.report import Picture, Report, Table
from lwcl.settings import SettingValue

BENCH_NOTE = (
    "Latency: median and interquartile range. MACs per image, of the PyTorch model. Memory: peak beyond the runtime "
    "at batch 1. Size: the file that is loaded."
)


class BenchRow(NamedTuple):
    """An encoder's cost, and its accuracy with a 95% interval if it was measured; None where unknown."""

    name: str
    kind: str  # PyTorch, ONNX or ONNX int8
    size: int  # pixels
    parameters: int | None
    macs: int | None
    megabytes: float
    latency: float
    latency_iqr: float
    batch_latency: float  # per image
    memory: float | None
    top1: float | None = None
    interval: tuple[float, float] = (0.0, 0.0)


def bench_table(rows: Sequence[BenchRow], batch: int) -> Table:
    """The encoders side by side."""
    columns = ("Encoder", "Kind", "px", "Params (M)", "MACs (M)", "Size (MB)", "ms", "IQR", f"ms/image at {batch}",
               "Memory (MB)", "kNN top-1")  # fmt: skip
    cells = tuple(
        (
            row.name,
            row.kind,
            row.size,
            None if row.parameters is None else round(row.parameters / 1e6, 2),
            None if row.macs is None else round(row.macs / 1e6, 1),
            round(row.megabytes, 2),
            round(row.latency, 2),
            round(row.latency_iqr, 2),
            round(row.batch_latency, 2),
            None if row.memory is None else round(row.memory, 1),
            None if row.top1 is None else percent(row.top1),
        )
        for row in rows
    )
    return Table("", columns, cells, note=BENCH_NOTE)


def bench_report(
    rows: Sequence[BenchRow],
    *,
    batch: int,
    threads: int,
    settings: Mapping[str, SettingValue],
    facts: Mapping[str, Any],
) -> Report:
    """The report: the table, and accuracy against latency if accuracy was measured."""
    points = [
        BenchPoint(
            row.name,
            row.latency,
            100 * row.top1,
            (100 * row.interval[0], 100 * row.interval[1]),
            row.megabytes,
        )
        for row in rows
        if row.top1 is not None
    ]
    fastest = min(rows, key=lambda row: row.latency)
    verdict = f"Fastest on {threads} thread(s): {fastest.name}, {fastest.latency:.2f} ms at {fastest.size} px."
    pictures: tuple[Picture, ...] = ()
    if points:
        names = ", ".join(one.name for one in pareto_front(points))
        verdict += f" Pareto front of accuracy and latency: {names}."
        caption = "Areas are sizes on disk, lines 95% bootstrap intervals over images; dashed: the Pareto front."
        pictures = (Picture("Accuracy against latency", caption, pareto_svg(points)),)
    return Report(
        kind="bench",
        title=f"Benchmark of {len(rows)} encoders",
        verdict=verdict,
        tables=(bench_table(rows, batch),),
        pictures=pictures,
        facts={**facts, "encoders": [row._asdict() for row in rows]},
        settings=settings,
    )
