"""Curves that compare encoders: metrics against k, the spectrum, and the cosines of different kinds of pairs."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from lwcl.diagnosis.plots.scene import LEGEND_NAME_LENGTH, plot_scene
from lwcl.reporting import plots

MIN_SINGULAR_SHARE = 1e-6  # smaller singular values, as a share of their sum, are rounding noise


class Histogram(NamedTuple):
    """Counts of values between neighbouring edges."""

    name: str
    edges: Sequence[float]
    counts: Sequence[int]


def cluster_curves(series: Sequence[plots.Series], y_label: str) -> str:
    """A metric against the number of clusters k, on a logarithmic axis; a curve for each encoder."""
    with plot_scene(1.9, names=len(series)) as drawing:
        ticks = sorted({x for one in series for x in one.x})
        for number, one in enumerate(series):
            known = [(x, y) for x, y in zip(one.x, one.y, strict=True) if y is not None and math.isfinite(y)]
            style = plots.line_style(number, markers=True)
            drawing.axes.plot(
                [x for x, _ in known], [y for _, y in known], label=plots.shorten(one.name, LEGEND_NAME_LENGTH), **style
            )
        drawing.axes.set_xscale("log")
        drawing.axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        drawing.axes.minorticks_off()
        drawing.axes.set(xlabel="number of clusters k", ylabel=y_label)
        drawing.legend()
    return drawing.svg


def precision_curves(series: Sequence[plots.Series]) -> str:
    """The share of same-class pairs by cosine; a curve for each encoder."""
    with plot_scene(1.9, names=len(series)) as drawing:
        for number, one in enumerate(series):
            known = [(x, y) for x, y in zip(one.x, one.y, strict=True) if y is not None and math.isfinite(y)]
            drawing.axes.plot(
                *zip(*known, strict=True), label=plots.shorten(one.name, LEGEND_NAME_LENGTH), **plots.line_style(number)
            )
        drawing.axes.set(ylim=(0, 1.03), xlabel="cosine of two images", ylabel="same class")
        drawing.legend()
    return drawing.svg


def spectrum_curves(series: Sequence[plots.Series]) -> str:
    """Singular values, largest first, as shares of their sum, on a logarithmic axis; a curve for each encoder."""
    with plot_scene(1.9, names=len(series), left=0.8) as drawing:
        for number, one in enumerate(series):
            above = [(x, y) for x, y in zip(one.x, one.y, strict=True) if y is not None and y > MIN_SINGULAR_SHARE]
            drawing.axes.plot(
                *zip(*above, strict=True), label=plots.shorten(one.name, LEGEND_NAME_LENGTH), **plots.line_style(number)
            )
        drawing.axes.set(yscale="log", xlabel="singular value", ylabel="share of the sum")
        drawing.axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        drawing.legend()
    return drawing.svg


def histogram_curves(histograms: Sequence[Histogram], x_label: str) -> str:
    """Histograms as filled steps, each scaled to its highest bin: only their position matters."""
    with plot_scene(1.6, names=len(histograms), left=0.2) as drawing:
        for number, one in enumerate(histograms):
            top = max(one.counts) or 1
            heights = [count / top for count in one.counts]
            style = plots.line_style(number)
            drawing.axes.stairs(heights, one.edges, fill=True, color=style["color"], alpha=0.14, linewidth=0)
            drawing.axes.stairs(
                heights, one.edges, label=plots.shorten(one.name, LEGEND_NAME_LENGTH), linewidth=1.6, **style
            )
        drawing.axes.set(ylim=(0, 1.08), yticks=(), xlabel=x_label)
        drawing.axes.locator_params(axis="x", nbins=5)
        drawing.legend()
    return drawing.svg
