"""Plots of a report: curves, bars with intervals, scatter plots, image sheets. Equal numbers give equal bytes.

The palette is Okabe and Ito's (jfly.uni-koeln.de/color); each colour has its own line style and marker, so that plots
are readable in greyscale. Text stays text, in the reader's font and in the text colour of the page, light or dark.
"""

import base64
import io
import re
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lwcl.formatting import escape

if TYPE_CHECKING:
    import numpy
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
LINE_STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P")
INK, GREY = "#010203", "#8c8c8c"  # INK is replaced by the text colour of the page
FIGURE_WIDTH = 3.8  # inches, about the width of a phone
MAX_PLOT_POINTS = 300  # of a curve; more are averaged
CELL_SIZE, SHEET_ROWS = 96, 8  # pixels of an image in a sheet; most rows

MATPLOTLIB_RC: dict[Any, Any] = {
    "svg.hashsalt": "lwcl",  # identifiers, and so the bytes, depend on the content only
    "svg.fonttype": "none",
    "text.parse_math": False,  # names may contain dollar signs
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.2,
    "axes.axisbelow": True,
    "lines.linewidth": 1.8,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}
SVG_FONT = re.compile(r"font: ([^']*)'[^;\"]*")


class Series(NamedTuple):
    """A curve: its name in the legend and its points; None in `y` is a missing point."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]


class Bar(NamedTuple):
    """A bar: its name, value, and interval; `baseline` marks what the others are compared with."""

    name: str
    value: float
    interval: tuple[float, float]
    baseline: bool = False


class Dot(NamedTuple):
    """A point of a scatter plot: its name, position, and the interval of `y`; `baseline` as for a bar."""

    name: str
    x: float
    y: float
    interval: tuple[float, float]
    baseline: bool = False


def style_index(number: int) -> int:
    """The index of a curve in `LINE_STYLES` and `MARKERS`: the seventh repeats the first's colour, not its style."""
    return (number + number // len(PALETTE)) % len(PALETTE)


def line_style(number: int, *, markers: bool = False) -> dict[str, Any]:
    """The colour, the dashes, and with `markers` the marker of a curve, so that it is distinct in greyscale too."""
    style = {"color": PALETTE[number % len(PALETTE)], "linestyle": LINE_STYLES[style_index(number)]}
    return {**style, "marker": MARKERS[style_index(number)], "markersize": 4} if markers else style


def curves_svg(series: Sequence[Series], x_label: str, *, markers: bool = False, limit: float | None = None) -> str:
    """Curves as SVG text, with a legend if there are several and a dotted line at `limit` if it is in range."""
    import matplotlib

    with matplotlib.rc_context(MATPLOTLIB_RC):
        figure, axes = new_axes(2.1)
        for i, curve in enumerate(series):
            x, y = downsample(curve)
            axes.plot(x, y, label=shorten(curve.name), **line_style(i, markers=markers or len(x) == 1))
        low, high = axes.get_ylim()
        if limit is not None and low <= limit <= high:
            axes.axhline(limit, color=GREY, linestyle=":", linewidth=1.2)
        if len(series) > 1:
            axes.legend(frameon=False)
        axes.set_xlabel(shorten(x_label))
        return figure_svg(figure)


def bars_svg(rows: Sequence[Bar], x_label: str) -> str:
    """Horizontal bars with intervals as SVG text, each below its name, since long names need the whole width."""
    import matplotlib

    with matplotlib.rc_context(MATPLOTLIB_RC):
        figure, axes = new_axes(0.7 + 0.55 * len(rows), left=0.1)
        right = max((row.interval[1] for row in rows), default=1.0) or 1.0
        for i, row in enumerate(rows):
            colour, hatch = (GREY, "//") if row.baseline else (PALETTE[0], "")
            fill = "none" if row.baseline else colour
            axes.barh(i, row.value, height=0.36, color=fill, edgecolor=colour, hatch=hatch)
            axes.plot(row.interval, (i, i), color=INK, linewidth=1.4, marker="|", markersize=8)
            axes.text(0.01 * right, i - 0.23, shorten(row.name), va="bottom")
            axes.text(row.interval[1] + 0.02 * right, i, f"{row.value:.1f}", va="center")
        axes.set(xlim=(0, 1.15 * right), ylim=(len(rows) - 0.6, -0.8), yticks=(), xlabel=shorten(x_label))
        axes.grid(False, axis="y")
        return figure_svg(figure)


def scatter_svg(dots: Sequence[Dot], x_label: str, y_label: str) -> str:
    """A scatter plot with intervals as SVG text, named in a legend; the x axis is logarithmic."""
    import matplotlib
    from matplotlib.ticker import LogLocator, NullLocator

    with matplotlib.rc_context(MATPLOTLIB_RC):
        figure, axes = new_axes(2.4)
        for i, dot in enumerate(dots):
            colour = GREY if dot.baseline else PALETTE[i % 6]
            axes.plot((dot.x, dot.x), dot.interval, color=colour, linewidth=1.2)
            style: dict[str, Any] = {
                "color": colour,
                "markerfacecolor": "none" if dot.baseline else colour,
                "markersize": 7,
            }
            axes.plot(dot.x, dot.y, MARKERS[style_index(i)], label=shorten(dot.name), **style)
        axes.set(xscale="log", xlabel=shorten(x_label), ylabel=shorten(y_label))
        axes.set_xlim(0.5 * min(dot.x for dot in dots), 2 * max(dot.x for dot in dots))  # so 1, 2 or 5 is in sight
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter("{x:g}")
        axes.margins(y=0.15)
        axes.legend(frameon=False)
        return figure_svg(figure)


def new_axes(height: float, left: float = 0.55) -> "tuple[Figure, Axes]":
    """A figure `height` inches high, with `left` inches for the tick labels; independent of pyplot's state."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(FIGURE_WIDTH, height))
    right, bottom, top = 0.1, 0.45, 0.15
    box = (
        left / FIGURE_WIDTH,
        bottom / height,
        (FIGURE_WIDTH - left - right) / FIGURE_WIDTH,
        (height - bottom - top) / height,
    )
    return figure, figure.add_axes(box)


def figure_svg(figure: "Figure") -> str:
    """The figure as an `<svg>` element without metadata, drawn in the text colour around it."""
    written = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # the reader's fonts draw it, not ours
        figure.savefig(written, format="svg", transparent=True, metadata=nothing)
    text = written.getvalue()
    text = SVG_FONT.sub(r"font: \1system-ui, sans-serif", text[text.index("<svg") :])
    return text.replace(INK, "currentColor")


def downsample(series: Series) -> tuple[list[float], list[float]]:
    """The known points of a curve, averaged down to at most `MAX_PLOT_POINTS`."""
    known = [(x, y) for x, y in zip(series.x, series.y, strict=True) if y is not None]
    count = min(MAX_PLOT_POINTS, len(known))
    parts = [known[len(known) * i // count : len(known) * (i + 1) // count] for i in range(count)]
    means = [tuple(sum(axis) / len(part) for axis in zip(*part, strict=True)) for part in parts]
    return [x for x, _ in means], [y for _, y in means]


def shorten(text: str, length: int = 48) -> str:
    """`text`, escaped, without its middle if it is longer than `length`: the end of a path says the most."""
    text = escape(text)
    if len(text) <= length:
        return text
    return f"{text[: length // 3]}…{text[-(length - length // 3 - 1) :]}"


def sheet_png(images: "NDArray[numpy.uint8]") -> bytes:
    """A PNG of the first rows of `images` (rows, columns, height, width, 3) uint8, with clear gaps between."""
    from PIL import Image

    rows, columns, height, width, _ = images[:SHEET_ROWS].shape
    scale = CELL_SIZE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    gap = 4
    whole = Image.new("RGBA", (columns * (size[0] + gap) - gap, rows * (size[1] + gap) - gap))
    how = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST
    for row in range(rows):
        for column in range(columns):
            cell = Image.fromarray(images[row, column]).resize(size, how)
            whole.paste(cell, (column * (size[0] + gap), row * (size[1] + gap)))
    written = io.BytesIO()
    whole.save(written, "PNG", optimize=True)
    return written.getvalue()


def png_data_uri(png: bytes) -> str:
    """A PNG as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
