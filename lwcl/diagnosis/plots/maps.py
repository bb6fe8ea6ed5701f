"""Two-dimensional maps of an embedding by t-SNE (van der Maaten & Hinton, JMLR 2008) and by PCA.

As ssl-small draws them (arXiv 2107.14762): at most 50 principal components first, perplexity 30.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy
from numpy.typing import NDArray

from lwcl.diagnosis.plots.scene import LEGEND_NAME_LENGTH, plot_scene
from lwcl.reporting import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PCA_COMPONENTS, TSNE_PERPLEXITY = 50, 30
MIN_MAP_POINTS = 5
MAX_COLOURED_CLASSES = 10  # more cannot be told apart by colour and shape
CLASS_MARKERS = (*plots.MARKERS, "X", "<", "*", ">")
MIN_VARIANCE_SHARE = 1e-12  # a variance below this share of the mean squared norm counts as none

PointArray = NDArray[numpy.floating]


class PointClasses(NamedTuple):
    """The class of each point (N,), -1 where it is unknown, and the names of the classes."""

    labels: NDArray[numpy.int64]
    names: Sequence[str]

    @property
    def coloured(self) -> bool:
        """Whether there are few enough classes to be told apart by colour."""
        return 2 <= len(self.names) <= MAX_COLOURED_CLASSES


def principal_components(x: PointArray, components: int = PCA_COMPONENTS) -> tuple[PointArray, NDArray[numpy.floating]]:
    """The points (N, D) in their first principal components (N, c), and each one's share of the variance (c,).

    The signs are such that the largest coordinate of each component is positive.
    """
    centred = x - x.mean(0)
    left, values, _ = numpy.linalg.svd(centred.astype(numpy.float64), full_matrices=False)
    if (values**2).sum() <= MIN_VARIANCE_SHARE * len(x) * max(1.0, float((x**2).sum(1).mean())):
        return numpy.zeros((len(x), min(components, len(values)))), numpy.zeros(min(components, len(values)))
    rows = numpy.abs(left).argmax(0)
    signs = numpy.sign(left[rows, numpy.arange(len(values))])
    return (left * signs * values)[:, :components], (values**2 / (values**2).sum())[:components]


def tsne_coordinates(x: PointArray, seed: int) -> PointArray:
    """t-SNE coordinates (N, 2) of the points (N, D); all zero where the points coincide."""
    from sklearn.manifold import TSNE

    reduced, shares = principal_components(x)
    if not shares.any():
        return numpy.zeros((len(x), 2))
    perplexity = min(TSNE_PERPLEXITY, (len(x) - 1) / 3)
    map_of = TSNE(perplexity=perplexity, init="random" if reduced.shape[1] < 2 else "pca", random_state=seed, n_jobs=1)
    return numpy.asarray(map_of.fit_transform(reduced.astype(numpy.float32)))


def draw_map(points: PointArray, classes: PointClasses | None, labels: tuple[str, str] = ("", "")) -> str:
    """The points (N, 2) as SVG text: coloured by class if there are at most `MAX_COLOURED_CLASSES`, else grey."""
    names = list(classes.names) if classes and classes.coloured else []
    with plot_scene(3.4, names=len(names), left=0.2, bottom=0.3 if labels[0] else 0.1) as drawing:
        drawing.axes.set(xticks=(), yticks=(), xlabel=labels[0], ylabel=labels[1])
        drawing.axes.grid(visible=False)
        if names and classes:
            draw_classes(drawing.axes, points, classes)
            drawing.legend(markerscale=1.8, handletextpad=0.2)
        else:
            draw_points(drawing.axes, points, colour=plots.GREY, shape="o")
        fit_axes(drawing.axes, points)
    return drawing.svg


def draw_classes(axes: "Axes", points: PointArray, classes: PointClasses) -> None:
    """The points of each class in a colour and a shape of their own; those of unknown class small and grey, below."""
    draw_points(axes, points[classes.labels < 0], colour=plots.GREY, shape=".")
    for number, name in enumerate(classes.names):
        own = points[classes.labels == number]
        draw_points(
            axes,
            own,
            colour=plots.PALETTE[number % 6],
            shape=CLASS_MARKERS[number],
            name=plots.shorten(name, LEGEND_NAME_LENGTH),
        )


def draw_points(axes: "Axes", points: PointArray, *, colour: str, shape: str, name: str | None = None) -> None:
    """Points of one look."""
    axes.plot(
        *points.T, linestyle="none", marker=shape, markersize=3.6, color=colour, markeredgewidth=0, alpha=0.85,
        label=name,
    )  # fmt: skip


def fit_axes(axes: "Axes", points: PointArray) -> None:
    """Shows all points with a margin, on equal scales; a single place gets room around it."""
    low, high = points.min(0), points.max(0)
    half = 0.53 * max(float((high - low).max()), 1e-6)
    middle = (low + high) / 2
    axes.set(xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] - half, middle[1] + half))
