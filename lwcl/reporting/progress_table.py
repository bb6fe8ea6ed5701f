"""The progress of a training run as a plain-text table: a header, then fixed-width rows that fit 80 columns."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from lwcl.formatting import clock
from lwcl.reporting.health_ranges import format_metric
from lwcl.reporting.throughput import TrainProgress

MAX_TABLE_WIDTH = 80
METRIC_TITLES = {"std": "std", "effective_rank": "eff.rank", "top1": "top-1", "knn_top1": "kNN"}


class ProgressColumn(NamedTuple):
    """A right-aligned column: its title, its width in characters, and the text of its cells."""

    title: str
    width: int
    cell: Callable[[TrainProgress, Mapping[str, float]], str]  # of the progress and the averages of the row


class ProgressTable:
    """The header and rows of a run's progress, with a column for each of `metrics`, names of `METRIC_TITLES`.

    The loss and the metrics are averages of what was measured since the row before; a cell is blank if nothing was.
    """

    def __init__(self, progress: TrainProgress, metrics: Sequence[str] = ()) -> None:
        self._progress = progress
        self._columns, self._gap = counters(progress) + columns(metrics), "  "
        if self._width() > MAX_TABLE_WIDTH:
            self._gap = " "
        if self._width() > MAX_TABLE_WIDTH:  # long runs: the epoch says how far it is
            self._columns = counters(progress, of_steps="") + columns(metrics)

    def _width(self) -> int:
        return sum(column.width for column in self._columns) + len(self._gap) * (len(self._columns) - 1)

    def header(self) -> str:
        """The titles of the columns."""
        return self._line([column.title for column in self._columns])

    def row(self) -> str:
        """The progress now."""
        averages = self._progress.take_averages()
        return self._line([column.cell(self._progress, averages) for column in self._columns])

    def _line(self, cells: list[str]) -> str:
        return self._gap.join(c.rjust(column.width) for c, column in zip(cells, self._columns, strict=True)).rstrip()


def counters(progress: TrainProgress, of_steps: str | None = None) -> list[ProgressColumn]:
    """The columns of the epoch in progress, from 1, and of the step, each with its total."""
    of_epochs = f"/{math.ceil(progress.epochs)}"
    of_steps = f"/{progress.steps}" if of_steps is None else of_steps
    per_epoch, digits = progress.steps_per_epoch, len(str(progress.steps))
    return [
        ProgressColumn(
            "epoch", max(5, 2 * len(of_epochs) - 1), lambda p, _: f"{math.ceil(p.step / per_epoch)}{of_epochs}"
        ),
        ProgressColumn("step", max(5, digits + len(of_steps)), lambda p, _: f"{p.step}{of_steps}"),
    ]


def columns(metrics: Sequence[str]) -> list[ProgressColumn]:
    """The columns of the loss, the learning rate, the speed, and each of `metrics`."""
    return [
        ProgressColumn("loss", 6, lambda _, averages: format_loss(averages["loss"])),
        ProgressColumn("lr", 7, lambda p, _: f"{p.lr:.1e}"),
        ProgressColumn("img/s", 5, lambda p, _: f"{p.speed():.{0 if p.speed() >= 10 else 1}f}"),
        ProgressColumn("wait", 4, lambda p, _: f"{100 * p.waiting():.0f}%"),
        ProgressColumn("eta", 8, lambda p, _: clock(p.remaining())),
        *(metric_column(name, METRIC_TITLES[name]) for name in metrics),
    ]


def metric_column(name: str, title: str) -> ProgressColumn:
    """The column of a metric."""

    def cell(_: TrainProgress, averages: Mapping[str, float]) -> str:
        return format_metric(name, averages[name]) if name in averages else ""

    return ProgressColumn(title, 4 if name == "std" else max(6, len(title)), cell)


def format_loss(loss: float) -> str:
    """A loss in six characters, where its size allows."""
    return f"{loss:.3f}" if abs(loss) < 100 else f"{loss:.1f}" if abs(loss) < 10_000 else f"{loss:.0e}"
