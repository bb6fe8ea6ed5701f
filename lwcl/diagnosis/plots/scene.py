"""The stage that the pictures of a diagnosis share: a style, axes with room below for a legend, short numbers."""

import contextlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lwcl.reporting import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LONG_NUMBER = re.compile(r"(\d\.\d\d)\d{3,}")  # a coordinate, not what an axis says
LEGEND_ROW = 0.17  # inches
COLUMNS = 2  # of a legend
NAME = 22  # characters of a name that such a column has room for


class Scene:
    """A figure with one pair of axes; `svg` is its text when the `with` block has ended."""

    def __init__(self, figure: "Figure", axes: "Axes") -> None:
        self.figure, self.axes = figure, axes
        self.svg = ""

    def legend(self, **style: Any) -> None:
        """Names what was drawn below the axes."""
        handles, names = self.axes.get_legend_handles_labels()
        if len(handles) > 1:
            self.figure.legend(
                handles, names, loc="lower center", ncols=COLUMNS, frameon=False, fontsize=8, handlelength=1.8,
                columnspacing=1.2, labelspacing=0.3, **style,
            )  # fmt: skip


@contextlib.contextmanager
def scene(
    height: float, *, names: int = 0, columns: int = 2, left: float = 0.55, bottom: float = 0.45
) -> Iterator[Scene]:
    """Axes `height` inches high, above room for a legend of so many names; what is drawn is in the style of reports."""
    import matplotlib

    room = LEGEND_ROW * -(-names // COLUMNS) + 0.1 if names > 1 else 0.0
    whole = height + bottom + room + 0.15
    with matplotlib.rc_context(plots.RC):
        figure, axes = plots.canvas(whole, left)
        box = axes.get_position()
        axes.set_position((box.x0, (bottom + room) / whole, box.width, height / whole))
        made = Scene(figure, axes)
        yield made
        made.svg = LONG_NUMBER.sub(r"\1", plots.as_svg(figure))


def line_style(number: int) -> dict[str, Any]:
    """How the `number`-th curve looks: a colour and a dash of its own, so that grey prints can be read."""
    return {"color": plots.COLOURS[number % 6], "linestyle": plots.STYLES[plots.shape(number)]}
