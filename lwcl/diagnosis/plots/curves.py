"""Curves over encoders: over-clustering against k, the spectrum, and how alike different kinds of pairs are."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from lwcl.diagnosis.plots.scene import LEGEND_NAME_LENGTH, line_style, plot_scene
from lwcl.reporting import plots

MIN_SINGULAR_SHARE = 1e-6  # singular values below this share of all are what is left of rounding


class Histogram(NamedTuple):
    """How many values lie between neighbouring edges."""

    name: str
    edges: Sequence[float]
    counts: Sequence[int]


def cluster_curves(series: Sequence[plots.Series], y_label: str) -> str:
    """A measure against the number of clusters k, which doubles from mark to mark; a curve for each encoder."""
    with plot_scene(1.9, names=len(series)) as made:
        ticks = sorted({x for one in series for x in one.x})
        for number, one in enumerate(series):
            known = [(x, y) for x, y in zip(one.x, one.y, strict=True) if y is not None and math.isfinite(y)]
            style = {**line_style(number), "marker": plots.MARKERS[plots.style_index(number)], "markersize": 4}
            made.axes.plot(
                [x for x, _ in known], [y for _, y in known], label=plots.shorten(one.name, LEGEND_NAME_LENGTH), **style
            )
        made.axes.set_xscale("log")
        made.axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        made.axes.minorticks_off()
        made.axes.set(xlabel="number of clusters k", ylabel=y_label)
        made.legend()
    return made.svg


def precision_curves(series: Sequence[plots.Series]) -> str:
    """The share of pairs that are of one class, by their cosine; a curve for each encoder."""
    with plot_scene(1.9, names=len(series)) as made:
        for number, one in enumerate(series):
            known = [(x, y) for x, y in zip(one.x, one.y, strict=True) if y is not None and math.isfinite(y)]
            made.axes.plot(
                *zip(*known, strict=True), label=plots.shorten(one.name, LEGEND_NAME_LENGTH), **line_style(number)
            )
        made.axes.set(ylim=(0, 1.03), xlabel="cosine of two images", ylabel="same class")
        made.legend()
    return made.svg


def spectrum_curves(series: Sequence[plots.Series]) -> str:
    """Singular values, largest first, as shares of their sum, on a logarithmic scale; a curve for each encoder."""
    with plot_scene(1.9, names=len(series), left=0.8) as made:
        for number, one in enumerate(series):
            above = [(x, y) for x, y in zip(one.x, one.y, strict=True) if y is not None and y > MIN_SINGULAR_SHARE]
            made.axes.plot(
                *zip(*above, strict=True), label=plots.shorten(one.name, LEGEND_NAME_LENGTH), **line_style(number)
            )
        made.axes.set(yscale="log", xlabel="direction, the largest first", ylabel="share of all")
        made.axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        made.legend()
    return made.svg


def histogram_curves(histograms: Sequence[Histogram], x_label: str) -> str:
    """Histograms as steps over a light ground, each scaled to its highest bin: what counts is where they lie."""
    with plot_scene(1.6, names=len(histograms), left=0.2) as made:
        for number, one in enumerate(histograms):
            top = max(one.counts) or 1
            heights = [count / top for count in one.counts]
            style = line_style(number)
            made.axes.stairs(heights, one.edges, fill=True, color=style["color"], alpha=0.14, linewidth=0)
            made.axes.stairs(
                heights, one.edges, label=plots.shorten(one.name, LEGEND_NAME_LENGTH), linewidth=1.6, **style
            )
        made.axes.set(ylim=(0, 1.08), yticks=(), xlabel=x_label)
        made.axes.locator_params(axis="x", nbins=5)
        made.legend()
    return made.svg
