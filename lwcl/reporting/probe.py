"""The report of a linear probe: how often each encoder's classifier is right, and whether training helped."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from lwcl.formatting import duration, percent
from lwcl.reporting import plots
from lwcl.reporting.knn import EncoderResult, Interval, accuracy_verdict, format_gain, format_interval
from lwcl.reporting.report import Picture, Report, Table
from lwcl.settings import SettingValue


class FractionResult(NamedTuple):
    """How an encoder did with a share of the labels."""

    share: float
    images: int
    top1: float
    interval: Interval


class ProbeRow(NamedTuple):
    """How an encoder did after the last epoch, and on the way there."""

    score: EncoderResult
    curve: tuple[float, ...]  # top-1 after each epoch; empty where there are no epochs
    chosen: str  # form of the features, learning rate and the like
    seconds: float
    images: int  # that the classifier was trained on
    teacher: bool = False
    shares: tuple[FractionResult, ...] = ()

    @property
    def best(self) -> tuple[int, float] | None:
        """The epoch (from 1) with the highest top-1, the first of equals, and that top-1."""
        highest = max(self.curve, default=0.0)
        return (self.curve.index(highest) + 1, highest) if self.curve else None

    def document(self) -> dict[str, Any]:
        """All of it as JSON values."""
        score = {name: value for name, value in self.score._asdict().items() if name != "k"}
        rest = {name: value for name, value in self._asdict().items() if name not in ("score", "shares")}
        return score | rest | {"best": self.best, "shares": [share._asdict() for share in self.shares]}


def probe_report(
    rows: Sequence[ProbeRow],
    protocol: str,
    *,
    command: str,
    environment: Mapping[str, Any],
    facts: Mapping[str, Any],
    settled: Mapping[str, SettingValue],
    images: int,
) -> Report:
    """The report of `lwcl probe` on encoders, in the order given, that were judged on `images` images."""
    trained = [row for row in rows if not row.score.untrained and not row.teacher] or list(rows)
    told = ", ".join(f"{row.score.name} {percent(row.score.top1)}" for row in trained)
    return Report(
        kind="probe",
        title=f"Linear probe ({protocol}): {told}",
        verdict=probe_verdict(rows, images),
        tables=(probe_table(rows, protocol), *fraction_tables(rows)),
        pictures=tuple(probe_pictures(rows)),
        facts={**facts, "protocol": protocol, "images": images, "encoders": [row.document() for row in rows]},
        settings=settled,
        environment=environment,
        command=command,
    )


def probe_table(rows: Sequence[ProbeRow], protocol: str) -> Table:
    """The numbers of each encoder; also what the terminal shows."""
    columns = ("Encoder", "Top-1", "Top-1 interval", "Above untrained", "Top-5", "Best epoch", "Classifier", "Seconds")
    cells = []
    for row in rows:
        score, best = row.score, row.best
        name = f"{score.name} (teacher)" if row.teacher else score.name
        epoch = f"{percent(best[1])} at {best[0]} of {len(row.curve)}" if best else None
        top1 = (
            percent(score.top1),
            format_interval(score.top1_interval),
            format_gain(score.gain) if score.gain else None,
        )
        cells.append((name, *top1, percent(score.top5), epoch, row.chosen, round(row.seconds, 1)))
    note = (
        "Top-1 and top-5 after the last epoch, with 95% bootstrap intervals over images; the gain is paired, image by "
        "image. The best epoch was found on the images to judge by, so it flatters."
    )
    return Table(f"Linear probe, {protocol}", columns, tuple(cells), note)


def fraction_tables(rows: Sequence[ProbeRow]) -> Iterator[Table]:
    """Top-1 by the share of the labels, where several were probed with."""
    shares = [(share.share, share.images) for share in rows[0].shares]
    if shares:
        columns = ("Encoder", *(f"{100 * share:g}% ({images:,} images)" for share, images in shares))
        cells = [
            (row.score.name, *(f"{percent(at.top1)} ({format_interval(at.interval)})" for at in row.shares))
            for row in rows
        ]
        yield Table("Top-1 by labels", columns, tuple(cells), "With 95% bootstrap intervals.")


def probe_pictures(rows: Sequence[ProbeRow]) -> Iterator[Picture]:
    """Bars of the scores, the way there by epochs, and the curve over shares of the labels."""
    bars = []
    for row in rows:
        low, high = row.score.top1_interval
        bars.append(plots.Bar(row.score.name, 100 * row.score.top1, (100 * low, 100 * high), row.score.untrained))
    caption = "Top-1 of the linear probe in percent, with 95% bootstrap intervals over images"
    hatched = "; hatched: untrained encoders" if any(row.score.untrained for row in rows) else ""
    yield Picture("Right answers", f"{caption}{hatched}.", plots.bars_svg(bars, "top-1, %"))
    ways = [
        plots.Series(row.score.name, range(1, len(row.curve) + 1), to_percent(row.curve)) for row in rows if row.curve
    ]
    if any(len(way.x) > 1 for way in ways):
        yield Picture("Epochs", "Top-1 in percent after each epoch.", plots.curves_svg(ways, "epoch"))
    if rows[0].shares:
        curves = [
            plots.Series(
                row.score.name, [100 * at.share for at in row.shares], to_percent([at.top1 for at in row.shares])
            )
            for row in rows
        ]
        drawn = plots.curves_svg(curves, "share of the labels, %", markers=True)
        yield Picture("Fewer labels", "Top-1 in percent by the share of the labels that was trained on.", drawn)


def to_percent(shares: Sequence[float]) -> list[float]:
    """Shares of 1 in percent."""
    return [100 * share for share in shares]


def probe_verdict(rows: Sequence[ProbeRow], images: int) -> str:
    """How often the best encoder is right, whether training helped, what the best epoch would say, and the teacher."""
    own = [row for row in rows if not row.teacher] or list(rows)
    told = [accuracy_verdict([row.score for row in own], images)]
    winner = max(own, key=lambda row: (not row.score.untrained, row.score.top1))
    if winner.best and winner.best[1] > winner.score.top1:
        epoch, top1 = winner.best
        told.append(f"That is after the last epoch; the best, {epoch} of {len(winner.curve)}, has {percent(top1)}.")
    told += [f"The teacher {row.score.name} is right for {percent(row.score.top1)}." for row in rows if row.teacher]
    return " ".join(told)


def probe_time(rows: Sequence[ProbeRow]) -> str:
    """How long the classifiers took, in words."""
    return f"{len(rows)} classifiers in {duration(sum(row.seconds for row in rows))}."
