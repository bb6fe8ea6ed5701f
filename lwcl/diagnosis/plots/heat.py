"""The contingency matrix of clusters and classes as a heat map."""

from collections.abc import Sequence

import numpy
from numpy.typing import NDArray

from lwcl.diagnosis.plots.scene import plot_scene
from lwcl.reporting import plots

MAX_LABELLED_CELLS = 12  # rows or columns up to which cells show numbers, and axes names
LIGHT_BLUE, DARK_BLUE = numpy.array([0xF4, 0xF7, 0xFB]) / 255, numpy.array([0x00, 0x4C, 0x80]) / 255


def order_clusters(counts: NDArray[numpy.int64], mapping: NDArray[numpy.int64]) -> NDArray[numpy.int64]:
    """The rows (clusters) of counts (k, C) in the order of their classes; those that match no class come last."""
    places = numpy.where(mapping < 0, counts.shape[1], mapping)
    return counts[numpy.argsort(places, kind="stable")]


def heat_map(counts: NDArray[numpy.int64], classes: Sequence[str], rows_are: str = "cluster") -> str:
    """The share of each cluster's images (row; or what `rows_are`) that have each class (column), as SVG text."""
    rows, columns = counts.shape
    shares = counts / numpy.maximum(counts.sum(1, keepdims=True), 1)
    written = max(rows, columns) <= MAX_LABELLED_CELLS
    with plot_scene(3.0, left=0.75, bottom=0.85 if written else 0.45) as drawing:
        axes = drawing.axes
        colours = LIGHT_BLUE + shares[..., None] * (DARK_BLUE - LIGHT_BLUE)
        axes.imshow((255 * colours).round().astype(numpy.uint8), aspect="auto", interpolation="none")
        axes.grid(visible=False)
        axes.set(xlabel="" if written else "class", ylabel=f"{rows_are} (number of images)" if written else rows_are)
        if written:
            axes.set_xticks(range(columns), [plots.shorten(name, 11) for name in classes], rotation=45, ha="right")
            axes.set_yticks(range(rows), [f"{total:,}" for total in counts.sum(1)])
            for row, column in numpy.ndindex(rows, columns):
                if shares[row, column] >= 0.005:
                    colour = "#ffffff" if shares[row, column] > 0.5 else "#1a1c1f"
                    text = f"{100 * shares[row, column]:.0f}"
                    axes.text(column, row, text, color=colour, ha="center", va="center", fontsize=7)
    return drawing.svg
