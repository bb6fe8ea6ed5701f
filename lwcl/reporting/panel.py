"""What a terminal shows, drawn with rich: the panel of a training, a bar for a count, a table of results."""

from collections.abc import Callable, Sequence
from typing import TextIO

from rich.box import ROUNDED, SIMPLE_HEAD
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lwcl.formatting import duration, escape, format_cell, sparkline
from lwcl.reporting import health_words
from lwcl.reporting.throughput import CountProgress, TrainProgress

SEVERITY_COLOURS = ("green", "yellow", "red")  # for good, fair, worse; the word says the same


def rich_console(stream: TextIO) -> Console:
    """A console that interprets no markup, emoji codes or numbers in what it is given; rich itself honours NO_COLOR."""
    return Console(file=stream, markup=False, emoji=False, highlight=False)


def live_display(on: Console, drawn: Sequence[Callable[[], RenderableType]]) -> Live:
    """A display, refreshed by hand, of what all of `drawn` give; what else goes to stderr appears above it."""

    def render() -> RenderableType:
        return Group(*(draw() for draw in drawn))

    return Live(console=on, auto_refresh=False, redirect_stdout=False, get_renderable=render)


def progress_bar(done: float, total: float, told: str) -> Table:
    """A progress bar over the width that is left beside what is told."""
    grid = Table.grid(expand=True, padding=(0, 1))
    grid.add_column(ratio=1)
    grid.add_column(no_wrap=True)
    grid.add_row(ProgressBar(total=max(total, 1), completed=done, complete_style="blue"), Text(told))
    return grid


def training_panel(done: TrainProgress) -> Panel:
    """The panel of a training."""
    epochs = f"{done.epoch:.2f} of {done.epochs:g}   step {done.number:,} of {done.steps:,}"
    rows: list[tuple[str, RenderableType]] = [("epoch", progress_bar(done.number, done.steps, epochs))]
    if done.losses.points:
        rows += [("speed", Text(done.pace())), ("loss", loss_text(done))]
    if done.measures:
        rows.append(("health", health_text(done)))
    if done.scores:
        curve = sparkline([score for _, score in done.scores], 20)
        rows.append(("monitor", Text(f"kNN top-1 {done.scored()}   {curve}")))
    grid = Table.grid(expand=True, padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(ratio=1)
    for row in rows:
        grid.add_row(*row)
    return Panel(grid, title=Text(done.title), title_align="left", box=ROUNDED, border_style="blue")


def loss_text(done: TrainProgress) -> Text:
    """The loss, its curve and the learning rate."""
    return Text.assemble(
        f"{done.loss:.4f}  ", (sparkline(done.losses.points), "cyan"), f"   learning rate {done.lr:.3g}"
    )


def health_text(done: TrainProgress) -> Columns:
    """Each measure of the embedding with its word, coloured by how good it is."""
    told = []
    for name, value in done.measures.items():
        word = health_words.health_word(name, value, done.batch_size)
        colour = SEVERITY_COLOURS[health_words.severity(name, value, done.batch_size)]
        told.append(
            Text.assemble(
                f"{health_words.HEALTH_METRICS[name].title} {health_words.format_metric(name, value)} ", (word, colour)
            )
        )
    return Columns(told, padding=(0, 3))


def count_bar(done: CountProgress) -> RenderableType:
    """A bar for a count, or the bare count where the end is not known."""
    if done.total is None:
        return Text(done.line())
    grid = Table.grid(expand=True, padding=(0, 2))
    grid.add_column(no_wrap=True, max_width=40)
    grid.add_column(ratio=1)
    told = f"{done.count:,} of {done.total:,}   {duration(done.remaining())} left"
    grid.add_row(Text(done.title), progress_bar(done.count, done.total, told))
    return grid


def rich_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """A table of results; numbers stand to the right."""
    heading = Text(escape(title), style="bold") if title else None
    drawn = Table(title=heading, title_justify="left", box=SIMPLE_HEAD)
    for i, column in enumerate(columns):
        number = any(isinstance(row[i], int | float) for row in rows)
        drawn.add_column(Text(escape(column)), justify="right" if number else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(format_cell(value)) for value in row))
    return drawn
