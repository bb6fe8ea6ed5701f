"""The figure that the plots of a diagnosis share: a style, axes with room below for a legend, short numbers."""

import contextlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lwcl.reporting import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LONG_DECIMAL = re.compile(r"(\d\.\d\d)\d{3,}")  # a coordinate, not a tick label
LEGEND_ROW_HEIGHT = 0.17  # inches
LEGEND_COLUMNS = 2  # columns of a legend
LEGEND_NAME_LENGTH = 22  # characters of a name that fit such a column


class PlotScene:
    """A figure with one pair of axes; `svg` holds its text after the `with` block."""

    def __init__(self, figure: "Figure", axes: "Axes") -> None:
        self.figure, self.axes = figure, axes
        self.svg = ""

    def legend(self, **style: Any) -> None:
        """Draws the legend below the axes."""
        handles, names = self.axes.get_legend_handles_labels()
        if len(handles) > 1:
            self.figure.legend(
                handles, names, loc="lower center", ncols=LEGEND_COLUMNS, frameon=False, fontsize=8, handlelength=1.8,
                columnspacing=1.2, labelspacing=0.3, **style,
            )  # fmt: skip


@contextlib.contextmanager
def plot_scene(height: float, *, names: int = 0, left: float = 0.55, bottom: float = 0.45) -> Iterator[PlotScene]:
    """Axes `height` inches high in the style of reports, above a legend with `names` entries."""
    import matplotlib

    room = LEGEND_ROW_HEIGHT * -(-names // LEGEND_COLUMNS) + 0.1 if names > 1 else 0.0
    whole = height + bottom + room + 0.15
    with matplotlib.rc_context(plots.MATPLOTLIB_RC):
        figure, axes = plots.new_axes(whole, left)
        box = axes.get_position()
        axes.set_position((box.x0, (bottom + room) / whole, box.width, height / whole))
        drawing = PlotScene(figure, axes)
        yield drawing
        drawing.svg = LONG_DECIMAL.sub(r"\1", plots.figure_svg(figure))
