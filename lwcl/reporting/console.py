"""What a run says while it runs, on stderr: a live panel on a terminal, else plain lines. Results go to stdout.

Names from users are made harmless, and no markup is interpreted. No thread draws, so workers can be forked at any time.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from lwcl.formatting import escape, escape_lines, format_cell, json_document
from lwcl.lazy import Lazy
from lwcl.reporting.throughput import CountProgress, RateLimiter, StepStats, TrainProgress

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

    from lwcl.metrics.health import Health
    from lwcl.reporting import panel
else:
    panel = Lazy("lwcl.reporting.panel")

ROW_SECONDS = 5.0  # between two plain lines
NEWS_SECONDS = 1.0  # the end of an epoch or of a count is told too, unless it took less than this
FRAME_SECONDS = 0.5  # a frame costs some 6 ms


def is_terminal(stream: TextIO) -> bool:
    """Whether `stream` shows a person a terminal that can redraw."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def write_line(text: str, stream: TextIO) -> None:
    """Write a line, in backslashes where the stream's encoding lacks a character."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)


class Screen:
    """Where a run speaks. Every sentence also goes to `log`, which may be set later, when the run's folder is known.

    `quiet`: people see warnings only; the log gets everything.
    """

    def __init__(self, *, quiet: bool = False, log: Callable[[str], None] | None = None) -> None:
        self.quiet, self.log = quiet, log
        self._console: Console | None = (
            panel.rich_console(sys.stderr) if is_terminal(sys.stderr) and not quiet else None
        )
        self._drawn: list[Callable[[], RenderableType]] = []
        self._live: Live | None = None
        self._frame = RateLimiter(FRAME_SECONDS)

    def say(self, text: str) -> None:
        """A sentence, or several lines, for people."""
        self._put(escape_lines(text))

    def warn(self, text: str) -> None:
        """A sentence that people must see, even when all else is quiet."""
        self._put(f"Warning: {escape_lines(text)}", warning=True)

    def line(self, text: str) -> None:
        """A line of progress: for the log, and for people who have no live panel."""
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
        self, title: str, *, start: int, steps: int, steps_per_epoch: int, batch_size: int
    ) -> "Iterator[TrainingDisplay]":
        """Tells of a training to step `steps` from step `start` on; call `step` of what it gives after each."""
        training = TrainingDisplay(self, TrainProgress(escape(title), start, steps, steps_per_epoch, batch_size))
        with self._drawing(lambda: panel.training_panel(training.done)):
            yield training

    @contextlib.contextmanager
    def counting(self, title: str, total: int | None = None) -> "Iterator[CountDisplay]":
        """Tells of work on `total` items, if known; call `advance` of what it gives as they are done."""
        counting = CountDisplay(self, CountProgress(escape(title), total))
        with self._drawing(lambda: panel.count_bar(counting.done)):
            yield counting
        if counting.done.seconds() >= NEWS_SECONDS:
            self.line(counting.done.summary())

    @contextlib.contextmanager
    def _drawing(self, render: "Callable[[], RenderableType]") -> Iterator[None]:
        """Shows what `render` gives, below what is already shown; the outermost stays on the screen when it ends."""
        if self._console is None:
            yield
            return
        self._drawn.append(render)
        self._live = self._live or panel.live_display(self._console, self._drawn)
        try:
            self._live.start()  # does nothing when it has begun
            yield
        finally:
            self._live.refresh()
            if len(self._drawn) == 1:
                self._live.stop()
                self._live = None
            self._drawn.pop()

    def redraw(self) -> None:
        """Draws what is live, if it was not drawn just now."""
        if self._live and self._frame.due():
            self._live.refresh()


class TrainingDisplay:
    """What `Screen.training` gives."""

    def __init__(self, screen: Screen, done: TrainProgress) -> None:
        self.screen, self.done = screen, done
        self._line, self._epoch = RateLimiter(ROW_SECONDS), RateLimiter(NEWS_SECONDS)

    def step(self, step: StepStats, health: "Health | None" = None, found: float | None = None) -> None:
        """Takes note of an optimiser step: microseconds, unless a line is due.

        `found`: the share of queries that found their key. Measures that are not given stay as they were.
        """
        measures = {**(health._asdict() if health else {}), **({} if found is None else {"found": found})}
        self.done.add(step, measures)
        last, ends = step.number >= self.done.steps, step.number % self.done.steps_per_epoch == 0
        if self._line.due() or last or (ends and self._epoch.due()):
            self._line.restart()
            self._epoch.restart()
            self.screen.line(self.done.line())
        self.screen.redraw()

    def monitored(self, epoch: float, accuracy: float) -> None:
        """Takes note of the kNN top-1 on the labelled images after `epoch` epochs, a share of 1."""
        self.done.scores.append((epoch, accuracy))
        self.screen.line(f"kNN top-1 on the monitor's images {self.done.scored()}")

    def timing(self) -> dict[str, float | None]:
        """`images_per_second` (median over the steps), `seconds` in all, `waited` (share of the steps' time)."""
        return self.done.timing()


class CountDisplay:
    """What `Screen.counting` gives."""

    def __init__(self, screen: Screen, done: CountProgress) -> None:
        self.screen, self.done = screen, done
        self._line = RateLimiter(ROW_SECONDS, at_once=False)

    def advance(self, count: int = 1) -> None:
        """`count` more items are done."""
        self.done.count += count
        if self._line.due():
            self.screen.line(self.done.line())
        self.screen.redraw()


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table on stdout: drawn on a terminal, else in plain aligned columns. Numbers stand to the right."""
    if is_terminal(sys.stdout):
        panel.rich_console(sys.stdout).print(panel.rich_table(title, columns, rows))
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
