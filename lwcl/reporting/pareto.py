"""Accuracy against latency: a scatter plot whose areas are sizes on disk, with the Pareto front."""

from collections.abc import Sequence
from typing import NamedTuple

from lwcl.reporting.plots import GREY, MARKERS, MATPLOTLIB_RC, PALETTE, figure_svg, new_axes, shorten, style_index

AREA_OF_LARGEST = 220.0  # points^2


class BenchPoint(NamedTuple):
    """An encoder: milliseconds at batch 1, top-1 in percent with its interval, 10^6 bytes on disk."""

    name: str
    latency: float
    top1: float
    interval: tuple[float, float]
    megabytes: float


def pareto_front(points: Sequence[BenchPoint]) -> list[BenchPoint]:
    """The points that no other beats in latency and accuracy, fastest first."""
    front: list[BenchPoint] = []
    for point in sorted(points, key=lambda one: (one.latency, -one.top1)):
        if not front or point.top1 > front[-1].top1:
            front.append(point)
    return front


def pareto_svg(points: Sequence[BenchPoint]) -> str:
    """The plot as SVG text."""
    import matplotlib

    with matplotlib.rc_context(MATPLOTLIB_RC):
        figure, axes = new_axes(2.4 + 0.18 * len(points))
        front = pareto_front(points)
        axes.plot([one.latency for one in front], [one.top1 for one in front], color=GREY, linestyle="--", zorder=1)
        largest = max(one.megabytes for one in points)
        for number, one in enumerate(points):
            colour = PALETTE[number % len(PALETTE)]
            axes.plot((one.latency, one.latency), one.interval, color=colour, linewidth=1.2, zorder=2)
            axes.scatter(
                one.latency,
                one.top1,
                s=AREA_OF_LARGEST * one.megabytes / largest,
                color=colour,
                marker=MARKERS[style_index(number)],
                zorder=3,
            )
            axes.plot([], [], MARKERS[style_index(number)], color=colour, label=shorten(one.name))
        axes.set(xlabel="Latency at batch 1, ms", ylabel="kNN top-1, %")
        axes.set_xlim(left=0)
        axes.margins(y=0.15)
        figure.legend(frameon=False, loc="upper left", fontsize=8)
        box = axes.get_position()
        axes.set_position((box.x0, box.y0, box.width, box.height * 2.0 / (2.4 + 0.18 * len(points))))
        return figure_svg(figure)
