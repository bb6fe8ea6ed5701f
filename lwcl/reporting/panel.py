"""What a terminal shows, drawn with rich: the panel of a training run, the bar of a count, tables of results."""

from collections.abc import Callable, Iterator, Sequence
from typing import TextIO

from rich.box import ROUNDED, SIMPLE_HEAD
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lwcl.formatting import clock, duration, escape, format_cell, percent, sparkline
from lwcl.reporting.health_ranges import HEALTH_METRICS, format_metric, known_metrics, out_of_range
from lwcl.reporting.plots import shorten
from lwcl.reporting.progress_table import format_loss
from lwcl.reporting.throughput import CountProgress, TrainProgress

MAX_PANEL_WIDTH = 110  # columns: longer lines are hard to read
MAX_FOLDED_COLUMNS = 3  # of a table whose long cells may be folded: names, numbers, and a text
MAX_NAME_WIDTH = 28


def rich_console(stream: TextIO) -> Console:
    """A console that interprets no markup, emoji codes, or numbers; rich itself honours NO_COLOR."""
    return Console(file=stream, markup=False, emoji=False, highlight=False)


def live_display(on: Console, renders: Sequence[Callable[[], RenderableType]]) -> Live:
    """A display, refreshed by hand, of what each of `renders` returns; other output on stderr appears above it."""

    def render_all() -> RenderableType:
        return Group(*(render() for render in renders))

    return Live(console=on, auto_refresh=False, redirect_stdout=False, get_renderable=render_all)


def progress_bar(done: float, total: float, text: str) -> Table:
    """A progress bar over the width that is left beside `text`."""
    grid = Table.grid(expand=True, padding=(0, 1))
    grid.add_column(ratio=1)
    grid.add_column(no_wrap=True)
    grid.add_row(ProgressBar(total=max(total, 1), completed=done, complete_style="blue"), Text(text))
    return grid


def training_panel(progress: TrainProgress) -> Panel:
    """The panel of a training run: at most eight lines."""
    where = f"{progress.epoch:.2f}/{progress.epochs:g}   step {progress.step:,}/{progress.steps:,}"
    rows: list[tuple[str, RenderableType]] = [("epoch", progress_bar(progress.step, progress.steps, where))]
    if progress.losses.points:
        rows += [("speed", speed_text(progress)), ("loss", loss_text(progress))]
    if progress.metrics:
        rows.append(("health", health_text(progress)))
    if progress.knn:
        rows.append(("kNN", knn_text(progress)))
    grid = Table.grid(expand=True, padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(ratio=1)
    for row in rows:
        grid.add_row(*row)
    title, width = Text(progress.title), MAX_PANEL_WIDTH
    return Panel(grid, title=title, title_align="left", box=ROUNDED, border_style="blue", width=width)


def speed_text(progress: TrainProgress) -> Text:
    """The throughput, the share of waiting, and the remaining time."""
    waiting = f"{100 * progress.waiting():.0f}% waiting for data"
    return Text(f"{progress.speed():,.0f} images/s   {waiting}   {clock(progress.remaining())} left")


def loss_text(progress: TrainProgress) -> Text:
    """The loss, its curve, and the learning rate."""
    curve = sparkline(progress.losses.points)
    return Text.assemble(f"{format_loss(progress.loss)}  ", (curve, "cyan"), f"   lr {progress.lr:.1e}")


def health_text(progress: TrainProgress) -> Columns:
    """The latest metrics, a word beside those out of range, and the step that they were measured in."""
    cells = []
    for name, value in known_metrics(progress.metrics).items():
        word = out_of_range(name, value, progress.batch_size)
        text = f"{HEALTH_METRICS[name].title} {format_metric(name, value)}"
        cells.append(Text.assemble(text, (f" {word}" if word else "", "yellow")))
    return Columns([*cells, Text(f"(step {progress.measured_at:,})", "dim")], padding=(0, 3))


def knn_text(progress: TrainProgress) -> Text:
    """The latest kNN accuracy, the best if it was another, and the curve."""
    epoch, latest = progress.knn[-1]
    best_epoch, best = max(progress.knn, key=lambda score: score[1])
    text = f"top-1 {percent(latest)} after epoch {epoch:g}"
    text += "" if best <= latest else f" (best {percent(best)} after epoch {best_epoch:g})"
    return Text(f"{text}   {sparkline([accuracy for _, accuracy in progress.knn], 20)}")


def count_bar(done: CountProgress) -> RenderableType:
    """A bar for a count, or the bare count where the total is not known."""
    if done.total is None:
        return Text(done.line())
    grid = Table.grid(expand=True, padding=(0, 2))
    grid.add_column(no_wrap=True, max_width=40)
    grid.add_column(ratio=1)
    text = f"{done.count:,}/{done.total:,}   {duration(done.remaining())} left"
    grid.add_row(Text(done.title), progress_bar(done.count, done.total, text))
    return grid


def rich_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], width: int) -> RenderableType:
    """A table of results with right-aligned numbers; one that is wider than `width` as a block for each row.

    Names that make it too wide lose their middle first. Tables of few columns have long texts, which are folded.
    """
    numeric = [any(isinstance(row[i], int | float) for row in rows) for i in range(len(columns))]
    cells = [list(map(escape, columns)), *([format_cell(value) for value in row] for row in rows)]
    heading = Text(escape(title), style="bold") if title else None
    many = len(columns) > MAX_FOLDED_COLUMNS
    if many and table_width(cells) > width:
        shortened = [[shorten(row[0], MAX_NAME_WIDTH), *row[1:]] for row in cells]
        if table_width(shortened) > width:
            return Group(*([heading] if heading else []), *blocks(cells, width))
        cells = shortened
    table = Table(title=heading, title_justify="left", box=SIMPLE_HEAD)
    for name, is_number in zip(cells[0], numeric, strict=True):
        table.add_column(Text(name), justify="right" if is_number else "left", overflow="fold")
    for row in cells[1:]:
        table.add_row(*map(Text, row))
    return table


def blocks(cells: Sequence[Sequence[str]], width: int) -> Iterator[RenderableType]:
    """Each row below its first cell, with a line for each other column that has a value in it."""
    for name, *values in cells[1:]:
        yield Text(f"\n{shorten(name, width)}", style="bold")
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(overflow="fold")
        for title, value in zip(cells[0][1:], values, strict=True):
            if value != "-":
                grid.add_row(Text(title), Text(value))
        yield Padding.indent(grid, 2)


def table_width(cells: Sequence[Sequence[str]]) -> int:
    """Characters of a row of a table: the longest cell of each column and the padding."""
    return sum(max(map(len, column)) + 2 for column in zip(*cells, strict=True)) + len(cells[0]) + 1
