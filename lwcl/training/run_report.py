"""The report of a run as far as it has come, and the page that shows it while it trains (`--html`)."""

import time
from collections.abc import Mapping
from typing import Any

import numpy
from numpy.typing import NDArray

from lwcl.data.loader import Loader
from lwcl.errors import DataError
from lwcl.reporting.report import Report
from lwcl.reporting.throughput import RateLimiter
from lwcl.reporting.training import training_report
from lwcl.runs.folder import RunFolder
from lwcl.system.atomic_files import write_atomically
from lwcl.system.device import current_command
from lwcl.system.environment import describe_environment
from lwcl.training.dry_run import sample_views
from lwcl.training.state import TrainingState

PAGE_SECONDS = 20.0  # at least, between two pages at epoch ends
MID_EPOCH_PAGE_SECONDS = 60.0  # between two pages within an epoch
PAGE_DRAWN_SECONDS = 1.0  # what a page takes


def run_report(
    training: TrainingState,
    folder: RunFolder,
    timing: Mapping[str, float | None],
    facts: Mapping[str, Any],
    *,
    ended: bool = True,
) -> Report:
    """The report of a run with these facts and the metrics so far."""
    return training_report(
        training.config.command,
        f"{training.config.method.name} on {training.net.student.arch}",
        folder.metrics(),
        settings=training.config.values,
        facts=facts,
        environment=describe_environment(),
        command=current_command(),
        timing={**timing, "seconds": training.seconds()},
        chance=training.config.method.chance(training.loader.batch_size // training.config.optimization.accumulate),
        samples=samples_or_none(training.loader),
        colours=training.loader.student.input_spec.pixel_format.false_colours,
        ended=ended,
    )


def samples_or_none(loader: Loader) -> NDArray[numpy.uint8] | None:
    """Sample views for the report; None where the images can no longer be read."""
    try:
        return sample_views(loader)
    except (DataError, OSError):
        return None


def pages_in(epoch: float) -> float:
    """How many pages `LivePage` writes in an epoch of so many seconds."""
    return max(min(1.0, epoch / PAGE_SECONDS), epoch / MID_EPOCH_PAGE_SECONDS)


class LivePage:
    """Writes report.html while a run trains, for a browser that loads it again by itself."""

    def __init__(self, training: TrainingState, folder: RunFolder) -> None:
        self.training, self.folder = training, folder
        self._limit, self._patience = RateLimiter(PAGE_SECONDS), RateLimiter(MID_EPOCH_PAGE_SECONDS, at_once=False)

    def update(self, step: int) -> None:
        """Writes the page, if `--html` asked for it, at epoch ends when it is some seconds old, else after a minute."""
        if not self.training.config.options.html:
            return
        epoch_ends = step % self.training.loader.steps_per_epoch == 0
        if not (epoch_ends and self._limit.due()) and not self._patience.due():
            return
        self._limit.restart()
        self._patience.restart()
        report = run_report(self.training, self.folder, {}, {"images": len(self.training.images)}, ended=False)
        done = f"{step:,} of {self.training.steps:,} steps at {time.strftime('%H:%M:%S')}"
        state = f"Still training: {done}. This page loads itself again."
        write_atomically(self.folder.report_html, report.to_html(refresh=int(PAGE_SECONDS), state=state))
