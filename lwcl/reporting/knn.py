"""The report of a kNN evaluation: how often each encoder is right, and whether training helped."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lwcl.formatting import percent
from lwcl.reporting import plots
from lwcl.reporting.report import Picture, Report, Table
from lwcl.settings import SettingValue

Interval = tuple[float, float]


class EncoderResult(NamedTuple):
    """How an encoder did; all scores are shares of 1 with 95% bootstrap intervals over images."""

    name: str
    arch: str
    top1: float
    top1_interval: Interval
    top5: float
    top5_interval: Interval
    k: int
    untrained: bool = False  # the encoder is a random initialisation
    gain: tuple[float, Interval] | None = None  # top-1 above the untrained encoder of its architecture, paired


def knn_report(
    rows: Sequence[EncoderResult],
    *,
    title: str,
    images: int,
    settled: Mapping[str, SettingValue],
    facts: Mapping[str, Any],
    environment: Mapping[str, Any],
    command: str,
) -> Report:
    """The report of `lwcl knn` on encoders, in the order given, that classified `images` images."""
    drawn = [
        plots.Bar(row.name, 100 * row.top1, (100 * row.top1_interval[0], 100 * row.top1_interval[1]), row.untrained)
        for row in rows
    ]
    caption = "kNN top-1 in percent; the thin lines are 95% bootstrap intervals over images"
    if any(row.untrained for row in rows):
        caption += "; hatched: untrained encoders"
    return Report(
        kind="knn",
        title=title,
        verdict=accuracy_verdict(rows, images),
        tables=(knn_table(rows),),
        pictures=(Picture("Right answers", f"{caption}.", plots.bars_svg(drawn, "kNN top-1, %")),),
        facts={**facts, "images": images, "encoders": [row._asdict() for row in rows]},
        settings=settled,
        environment=environment,
        command=command,
    )


def knn_table(rows: Sequence[EncoderResult]) -> Table:
    """The numbers of each encoder; also what the terminal shows."""
    columns = ("Encoder", "Top-1", "Top-1 interval", "Above untrained", "Top-5", "Top-5 interval", "k", "Architecture")
    cells = []
    for row in rows:
        top1, top5 = (
            (percent(row.top1), format_interval(row.top1_interval)),
            (percent(row.top5), format_interval(row.top5_interval)),
        )
        cells.append((row.name, *top1, format_gain(row.gain) if row.gain else None, *top5, row.k, row.arch))
    return Table(
        "kNN", columns, tuple(cells), "95% bootstrap intervals over images; the gain is paired, image by image."
    )


def format_interval(interval: Interval) -> str:
    """An interval of shares in percent: `41.0 to 47.5`."""
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"


def format_gain(gain: tuple[float, Interval]) -> str:
    """A gain in percentage points with its interval: `+12.3 (+10.1 to +14.4)`."""
    value, (low, high) = gain
    return f"{100 * value:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def accuracy_verdict(rows: Sequence[EncoderResult], images: int) -> str:
    """How often the best trained encoder is right, and whether that is more than without training."""
    best = max(rows, key=lambda row: (not row.untrained, row.top1))
    share = f"{percent(best.top1)} of {images:,} images (95% interval {format_interval(best.top1_interval)})"
    told = f"{best.name} is right for {share}"
    if best.gain is None:
        return f"{told}."
    low, high = best.gain[1]
    helped = "training helped" if low > 0 else "training hurt" if high < 0 else "that training helped cannot be told"
    return f"{told}, {format_gain(best.gain)} points above an untrained {best.arch}: {helped}."
