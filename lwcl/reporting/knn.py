"""The report of a kNN evaluation: the accuracy of each encoder, and whether training helped."""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from lwcl.formatting import percent, plural
from lwcl.reporting import plots
from lwcl.reporting.report import Picture, Report, Table
from lwcl.settings import SettingValue

Interval = tuple[float, float]


class EncoderResult(NamedTuple):
    """The accuracy of an encoder; shares of 1 with 95% bootstrap intervals over images."""

    name: str
    arch: str
    top1: float
    top1_interval: Interval
    top5: float
    top5_interval: Interval
    k: int | None = None  # neighbours, of a kNN accuracy
    untrained: bool = False  # a random initialisation
    gain: tuple[float, Interval] | None = None  # top-1 minus that of the untrained encoder, paired


def knn_report(
    rows: Sequence[EncoderResult], *, images: int, settings: Mapping[str, SettingValue], facts: Mapping[str, Any]
) -> Report:
    """The report of `lwcl knn` on encoders, in the order given, that classified `images` images."""
    return Report(
        kind="knn",
        title="kNN accuracy of " + ", ".join(row.name for row in rows if not row.untrained or len(rows) == 1),
        verdict="\n".join([accuracy_verdict(rows, images, "kNN"), *evaluation_note(facts)]),
        tables=(knn_table(rows, facts),),
        pictures=(accuracy_plot(rows, "kNN"),),
        facts={**facts, "images": images, "encoders": [row._asdict() for row in rows]},
        settings=settings,
    )


def accuracy_plot(rows: Sequence[EncoderResult], protocol: str) -> Picture:
    """Bars of the top-1 accuracy of each encoder."""
    caption = f"{protocol} top-1 in percent; lines: 95% bootstrap intervals over images"
    hatched = "; hatched: untrained encoders" if any(row.untrained for row in rows) else ""
    return Picture("Top-1", f"{caption}{hatched}.", plots.bars_svg(accuracy_bars(rows), f"{protocol} top-1, %"))


def accuracy_bars(rows: Sequence[EncoderResult]) -> list[plots.Bar]:
    """A bar for each encoder, hatched for untrained ones."""
    return [plots.Bar(row.name, *top1_percent(row), row.untrained) for row in rows]


def top1_percent(result: EncoderResult) -> tuple[float, Interval]:
    """Top-1 and its interval in percent."""
    low, high = result.top1_interval
    return 100 * result.top1, (100 * low, 100 * high)


def evaluation_note(facts: Mapping[str, Any]) -> Iterator[str]:
    """On what the accuracy was measured, and what was left out or counts as wrong, a sentence each."""
    if data := facts.get("evaluated on"):
        val, sizes = facts.get("test images from"), facts.get("pixels") or ()
        named = f"{' and '.join(data)}{' against ' + ' and '.join(val) if val else ''}"
        pixels = " and ".join(map(str, sizes))
        yield f"Evaluated on {named}: {plural(facts['classes'], 'class', 'classes')}, {pixels} px."
    yield from facts.get("notes", ())


def knn_table(rows: Sequence[EncoderResult], facts: Mapping[str, Any] = MappingProxyType({})) -> Table:
    """The accuracy of each encoder; also shown on the terminal."""
    columns = ("Encoder", "Top-1", "95% interval", "vs. untrained", "Top-5", "95% interval", "k", "Architecture")
    return Table("kNN", columns, tuple(_cells(rows)), " ".join([INTERVAL_NOTE, *evaluation_note(facts)]))


INTERVAL_NOTE = "95% bootstrap intervals over images; the gain over the untrained encoder is paired by image."


def _cells(rows: Sequence[EncoderResult]) -> Iterator[tuple[Any, ...]]:
    for row in rows:
        top1, top5 = (
            (percent(share), format_interval(interval))
            for share, interval in ((row.top1, row.top1_interval), (row.top5, row.top5_interval))
        )
        yield (row.name, *top1, format_gain(row.gain), *top5, row.k, row.arch)


def format_interval(interval: Interval) -> str:
    """An interval of shares in percent: `41.0 to 47.5`."""
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"


def format_gain(gain: tuple[float, Interval] | None) -> str | None:
    """A gain in percentage points with its interval: `+12.3 (+10.1 to +14.4)`; None where there is none."""
    if gain is None:
        return None
    value, (low, high) = gain
    return f"{100 * value:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def accuracy_verdict(rows: Sequence[EncoderResult], images: int, protocol: str = "kNN") -> str:
    """Accuracy of the best trained encoder, and whether it differs significantly from an untrained one.

    `run1: kNN top-1 17.9% on 960 images (95% interval 15.5 to 20.4), significantly better than an untrained resnet18
    (+3.2 points, 95% interval +0.9 to +5.5).`
    """
    best = max(rows, key=lambda row: (not row.untrained, row.top1))
    interval = format_interval(best.top1_interval)
    accuracy = (
        f"{best.name}: {protocol} top-1 {percent(best.top1)} on {plural(images, 'image')} (95% interval {interval})"
    )
    if best.gain is None:
        return f"{accuracy}."
    gain, (low, high) = best.gain
    effect = "significantly better than" if low > 0 else "significantly worse than" if high < 0 else ""
    difference = f"{100 * gain:+.1f} points, 95% interval {100 * low:+.1f} to {100 * high:+.1f}"
    return f"{accuracy}, {effect or 'no significant difference from'} an untrained {best.arch} ({difference})."
