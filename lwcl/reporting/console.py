"""What a command says while it runs, on stderr: messages, a table of progress, on a terminal a live panel.

Results go to stdout. Text that comes from users is escaped, and no markup is interpreted. No thread draws, so workers
can be forked at any time.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from lwcl.formatting import clock, escape, escape_lines, format_cell, json_document
from lwcl.lazy import Lazy
from lwcl.reporting.progress_table import ProgressTable
from lwcl.reporting.throughput import CountProgress, RateLimiter, StepStats, TrainProgress
from lwcl.system.ranks import current_ranks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console, RenderableType
    from rich.live import Live

    from lwcl.reporting import panel
else:
    panel = Lazy("lwcl.reporting.panel")

ETA_STEPS, LONG_SECONDS = 10, 60.0  # steps after which the time of a run is printed, if it exceeds these seconds
ROW_SECONDS = 60.0  # between two rows within an epoch
EPOCH_SECONDS = 1.0  # epochs shorter than this do not all get a row
COUNT_SECONDS = 5.0  # between two lines of a count
SUMMARY_SECONDS = 1.0  # a count that took less leaves no line
FRAME_SECONDS = 0.5  # drawing a frame takes about 6 ms


def is_terminal(stream: TextIO) -> bool:
    """Whether `stream` shows a person a terminal that can redraw."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def write_line(text: str, stream: TextIO) -> None:
    """Write a line, in backslashes where the stream's encoding lacks a character; only in the first of processes."""
    if not current_ranks().is_first:
        return
    encoding = getattr(stream, "encoding", None) or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)


class Screen:
    """Where a command writes messages and progress. All text also goes to `log`, which may be set later.

    `quiet`: only warnings are shown; the log gets everything.
    """

    def __init__(self, *, quiet: bool = False, log: Callable[[str], None] | None = None) -> None:
        self.quiet, self.log = quiet, log
        self._console: Console | None = (
            panel.rich_console(sys.stderr)
            if is_terminal(sys.stderr) and not quiet and current_ranks().is_first
            else None
        )
        self._drawn: list[Callable[[], RenderableType]] = []
        self._live: Live | None = None
        self._frame = RateLimiter(FRAME_SECONDS)

    def say(self, text: str) -> None:
        """Write a message of one or more lines."""
        self._put(escape_lines(text))

    def warn(self, text: str) -> None:
        """Write a warning, which is shown even when quiet."""
        self._put(f"Warning: {escape_lines(text)}", warning=True)

    def line(self, text: str) -> None:
        """Write a line of progress that a live display makes redundant: to the log, and where there is no terminal."""
        self._put(escape(text), live=False)

    def _put(self, text: str, *, warning: bool = False, live: bool = True) -> None:
        if self.log:
            self.log(text)
        if self._console:
            if live:
                self._console.print(text, style="bold yellow" if warning else "")
        elif warning or not self.quiet:
            write_line(text, sys.stderr)

    @contextlib.contextmanager
    def training(
        self,
        title: str,
        *,
        start: int,
        steps: int,
        steps_per_epoch: int,
        batch_size: int,
        metrics: Sequence[str] = (),
    ) -> "Iterator[TrainingDisplay]":
        """Shows a run from step `start` to `steps`: call `step` of what is returned after each step.

        `metrics` have a column each, see `progress_table.METRIC_TITLES`.
        """
        progress = TrainProgress(escape(title), start, steps, steps_per_epoch, batch_size)
        training = TrainingDisplay(self, progress, metrics)
        with self._drawing(lambda: panel.training_panel(progress)):
            yield training

    @contextlib.contextmanager
    def counting(self, title: str, total: int | None = None) -> "Iterator[CountDisplay]":
        """Shows work on `total` items, if known: call `advance` of what is returned as they are done."""
        counting = CountDisplay(self, CountProgress(escape(title), total))
        with self._drawing(lambda: panel.count_bar(counting.progress)):
            yield counting
        if counting.progress.seconds() >= SUMMARY_SECONDS:
            self.line(counting.progress.summary())

    @contextlib.contextmanager
    def _drawing(self, render: "Callable[[], RenderableType]") -> Iterator[None]:
        """Draw what `render` returns below what is already drawn; the outermost stays on the screen at the end."""
        if self._console is None:
            yield
            return
        self._drawn.append(render)
        self._live = self._live or panel.live_display(self._console, self._drawn)
        try:
            self._live.start()  # does nothing if it has started
            yield
        finally:
            self._live.refresh()
            if len(self._drawn) == 1:
                self._live.stop()
                self._live = None
            self._drawn.pop()

    def redraw(self) -> None:
        """Draw the live display again, unless it was drawn just now."""
        if self._live and self._frame.due():
            self._live.refresh()


class TrainingDisplay:
    """The progress of a run as rows, one per epoch and at most one per minute within an epoch."""

    def __init__(self, screen: Screen, progress: TrainProgress, metrics: Sequence[str] = ()) -> None:
        self.screen, self.progress = screen, progress
        self._table, self._has_header, self._told = ProgressTable(progress, metrics), False, False
        self._row, self._epoch = RateLimiter(ROW_SECONDS, at_once=False), RateLimiter(EPOCH_SECONDS)

    def step(self, step: StepStats, metrics: "Mapping[str, float] | None" = None) -> None:
        """Account for an optimizer step and the metrics measured in it; microseconds, unless a row is due."""
        self.progress.add(step, metrics or {})
        if not self._has_header:
            self.screen.say(self._table.header())
            self._has_header = True
        if not self._told and self.progress.known_steps() >= ETA_STEPS:
            self._told = True
            if (rest := self.progress.remaining()) > LONG_SECONDS:
                self.screen.say(f"About {clock(rest)} to go. Ctrl-C saves, and the same command resumes.")
        epoch_ends = step.number % self.progress.steps_per_epoch == 0
        if step.number >= self.progress.steps or (epoch_ends and self._epoch.due()) or self._row.due():
            self._row.restart()
            self._epoch.restart()
            self.screen.say(self._table.row())
        self.screen.redraw()

    def knn(self, epoch: float, accuracy: float) -> None:
        """Account for the kNN accuracy, a fraction in [0, 1], after `epoch` epochs."""
        self.progress.add_knn(epoch, accuracy)

    def timing(self) -> dict[str, float | None]:
        """`images_per_second` (median over the steps), `seconds` in total, `waited` (share of the steps' time)."""
        return self.progress.timing()


class CountDisplay:
    """The progress of a count as lines, one every few seconds."""

    def __init__(self, screen: Screen, progress: CountProgress) -> None:
        self.screen, self.progress = screen, progress
        self._line = RateLimiter(COUNT_SECONDS, at_once=False)

    def advance(self, count: int = 1) -> None:
        """Account for `count` more items."""
        self.update(self.progress.count + count)

    def update(self, done: int, _total: int | None = None) -> None:
        """Account for `done` items so far."""
        self.progress.count = done
        if self._line.due():
            self.screen.line(self.progress.line())
        self.screen.redraw()


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table on stdout: drawn on a terminal, else plain aligned columns. Numbers are right-aligned."""
    if is_terminal(sys.stdout) and current_ranks().is_first:
        terminal = panel.rich_console(sys.stdout)
        terminal.print(panel.rich_table(title, columns, rows, terminal.width))
        return
    cells = [list(map(escape, columns)), *([format_cell(value) for value in row] for row in rows)]
    right = [any(isinstance(row[i], int | float) for row in rows) for i in range(len(columns))]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    if title:
        write_line(escape(title), sys.stdout)
    for row in cells:
        aligned = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True))
        write_line("  ".join(aligned).rstrip(), sys.stdout)


def print_json(document: Any) -> None:
    """A document as JSON on stdout."""
    write_line(json_document(document), sys.stdout)
