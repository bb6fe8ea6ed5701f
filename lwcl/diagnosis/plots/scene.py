"""The stage that the pictures of a diagnosis share: a style, axes with room below for a legend, short numbers."""

import contextlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lwcl.reporting import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LONG_DECIMAL = re.compile(r"(\d\.\d\d)\d{3,}")  # a coordinate, not what an axis says
LEGEND_ROW_HEIGHT = 0.17  # inches
LEGEND_COLUMNS = 2  # of a legend
LEGEND_NAME_LENGTH = 22  # characters of a name that such a column has room for


class PlotScene:
    """A figure with one pair of axes; `svg` is its text when the `with` block has ended."""

    def __init__(self, figure: "Figure", axes: "Axes") -> None:
        self.figure, self.axes = figure, axes
        self.svg = ""

    def legend(self, **style: Any) -> None:
        """Names what was drawn below the axes."""
        handles, names = self.axes.get_legend_handles_labels()
        if len(handles) > 1:
            self.figure.legend(
                handles, names, loc="lower center", ncols=LEGEND_COLUMNS, frameon=False, fontsize=8, handlelength=1.8,
                columnspacing=1.2, labelspacing=0.3, **style,
            )  # fmt: skip


@contextlib.contextmanager
def plot_scene(
    height: float, *, names: int = 0, columns: int = 2, left: float = 0.55, bottom: float = 0.45
) -> Iterator[PlotScene]:
    """Axes `height` inches high, above room for a legend of so many names; what is drawn is in the style of reports."""
    import matplotlib

    room = LEGEND_ROW_HEIGHT * -(-names // LEGEND_COLUMNS) + 0.1 if names > 1 else 0.0
    whole = height + bottom + room + 0.15
    with matplotlib.rc_context(plots.MATPLOTLIB_RC):
        figure, axes = plots.new_axes(whole, left)
        box = axes.get_position()
        axes.set_position((box.x0, (bottom + room) / whole, box.width, height / whole))
        made = PlotScene(figure, axes)
        yield made
        made.svg = LONG_DECIMAL.sub(r"\1", plots.figure_svg(figure))


def line_style(number: int) -> dict[str, Any]:
    """How the `number`-th curve looks: a colour and a dash of its own, so that grey prints can be read."""
    return {"color": plots.PALETTE[number % 6], "linestyle": plots.LINE_STYLES[plots.style_index(number)]}
