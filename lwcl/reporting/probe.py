"""The report of a linear probe: the accuracy of each encoder's classifier, and whether training helped."""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from lwcl.formatting import duration, percent, plural
from lwcl.reporting import plots
from lwcl.reporting.knn import (
    INTERVAL_NOTE,
    EncoderResult,
    Interval,
    accuracy_plot,
    accuracy_verdict,
    evaluation_note,
    format_gain,
    format_interval,
)
from lwcl.reporting.report import Picture, Report, Table
from lwcl.settings import SettingValue


class FractionResult(NamedTuple):
    """Accuracy of an encoder with a fraction of the labels."""

    fraction: float
    images: int
    top1: float
    interval: Interval


class ProbeRow(NamedTuple):
    """Accuracy of an encoder's classifier after the last epoch, and how it was trained."""

    result: EncoderResult
    curve: tuple[float, ...]  # top-1 after each epoch; empty where there are no epochs
    selected: str  # form of the features, learning rate and the like
    seconds: float
    images: int  # training images of the classifier
    teacher: bool = False
    fractions: tuple[FractionResult, ...] = ()

    @property
    def best(self) -> tuple[int, float] | None:
        """The first epoch (from 1) with the highest top-1, and that top-1."""
        highest = max(self.curve, default=0.0)
        return (self.curve.index(highest) + 1, highest) if self.curve else None

    def document(self) -> dict[str, Any]:
        """All of it as JSON values."""
        result = {name: value for name, value in self.result._asdict().items() if name != "k"}
        rest = {name: value for name, value in self._asdict().items() if name not in ("result", "fractions")}
        return result | rest | {"best": self.best, "fractions": [row._asdict() for row in self.fractions]}


def probe_report(
    rows: Sequence[ProbeRow],
    protocol: str,
    *,
    facts: Mapping[str, Any],
    settings: Mapping[str, SettingValue],
    images: int,
) -> Report:
    """The report of `lwcl probe` on encoders, in the order given, that classified `images` images."""
    trained = [row for row in rows if not row.result.untrained and not row.teacher] or list(rows)
    accuracies = ", ".join(f"{row.result.name} {percent(row.result.top1)}" for row in trained)
    return Report(
        kind="probe",
        title=f"Linear probe ({protocol}): {accuracies}",
        verdict="\n".join([probe_verdict(rows, images), *evaluation_note(facts)]),
        tables=(probe_table(rows, protocol, facts), *fraction_tables(rows)),
        pictures=tuple(probe_pictures(rows)),
        facts={**facts, "protocol": protocol, "images": images, "encoders": [row.document() for row in rows]},
        settings=settings,
    )


def probe_table(rows: Sequence[ProbeRow], protocol: str, facts: Mapping[str, Any] = MappingProxyType({})) -> Table:
    """The accuracy of each encoder; also shown on the terminal."""
    columns = ("Encoder", "Top-1", "95% interval", "vs. untrained", "Top-5", "Best epoch", "Classifier", "Seconds")
    cells = []
    for row in rows:
        result, best = row.result, row.best
        name = f"{result.name} (teacher)" if row.teacher else result.name
        epoch = f"{percent(best[1])} at {best[0]} of {len(row.curve)}" if best else None
        top1 = percent(result.top1), format_interval(result.top1_interval), format_gain(result.gain)
        cells.append((name, *top1, percent(result.top5), epoch, row.selected, round(row.seconds, 1)))
    note = (
        f"Top-1 and top-5 after the last epoch. {INTERVAL_NOTE} The best epoch was selected on the test images, so "
        "it is optimistic."
    )
    return Table(f"Linear probe, {protocol}", columns, tuple(cells), " ".join([note, *evaluation_note(facts)]))


def fraction_tables(rows: Sequence[ProbeRow]) -> Iterator[Table]:
    """Top-1 by fraction of the labels, where there are several."""
    fractions = [(result.fraction, result.images) for result in rows[0].fractions]
    if fractions:
        columns = ("Encoder", *(f"{100 * share:g}% ({plural(images, 'image')})" for share, images in fractions))
        cells = [
            (row.result.name, *(f"{percent(at.top1)} ({format_interval(at.interval)})" for at in row.fractions))
            for row in rows
        ]
        yield Table("Top-1 by fraction of the labels", columns, tuple(cells), "With 95% bootstrap intervals.")


def probe_pictures(rows: Sequence[ProbeRow]) -> Iterator[Picture]:
    """Bars of the accuracies, the accuracy by epoch, and by fraction of the labels."""
    yield accuracy_plot([row.result for row in rows], "linear probe")
    epochs = [
        plots.Series(row.result.name, range(1, len(row.curve) + 1), to_percent(row.curve)) for row in rows if row.curve
    ]
    if any(len(series.x) > 1 for series in epochs):
        yield Picture("Top-1 by epoch", "Top-1 in percent after each epoch.", plots.curves_svg(epochs, "epoch"))
    if rows[0].fractions:
        series = [
            plots.Series(
                row.result.name,
                [100 * at.fraction for at in row.fractions],
                to_percent([at.top1 for at in row.fractions]),
            )
            for row in rows
        ]
        drawn = plots.curves_svg(series, "fraction of the labels, %", markers=True)
        yield Picture("Top-1 by fraction", "Top-1 in percent by the fraction of the labels used for training.", drawn)


def to_percent(shares: Sequence[float]) -> list[float]:
    """Shares of 1 in percent."""
    return [100 * share for share in shares]


def probe_verdict(rows: Sequence[ProbeRow], images: int) -> str:
    """Accuracy of the best encoder, whether training helped, the accuracy of its best epoch, and of the teacher."""
    own = [row for row in rows if not row.teacher] or list(rows)
    sentences = [accuracy_verdict([row.result for row in own], images, "linear probe")]
    winner = max(own, key=lambda row: (not row.result.untrained, row.result.top1))
    if winner.best and winner.best[1] > winner.result.top1:
        epoch, top1 = winner.best
        sentences.append(f"Best epoch: {epoch} of {len(winner.curve)}, {percent(top1)}.")
    sentences += [f"Teacher {row.result.name}: {percent(row.result.top1)}." for row in rows if row.teacher]
    return " ".join(sentences)


def probe_time(rows: Sequence[ProbeRow]) -> str:
    """The time that training the classifiers took, in words."""
    return f"Trained {plural(len(rows), 'classifier')} in {duration(sum(row.seconds for row in rows))}."
