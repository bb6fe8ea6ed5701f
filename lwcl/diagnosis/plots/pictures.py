"""The plots of a diagnosis with their captions: first those that compare encoders, then each encoder's own."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from lwcl.diagnosis.plots import curves, heat, maps, thumbnails
from lwcl.diagnosis.plots.captions import LABELLED_CURVES, UNLABELLED_CURVES
from lwcl.formatting import plural
from lwcl.reporting.plots import Series, shorten
from lwcl.reporting.report import Picture

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    from lwcl.diagnosis.plots.thumbnails import Photo
    from lwcl.metrics.clusters import ClusterRow

#: Limits on the plots of all encoders together, so that a page stays below 3 MB.
TOTAL_MAP_POINTS, MAX_POINTS_PER_MAP, MIN_POINTS_PER_MAP = 8000, 1000, 250
TOTAL_SHEET_QUERIES, MAX_QUERIES_PER_SHEET = 20, 5
MAX_SHOWN_CLUSTERS = 40  # rows and columns of a heat map: more cannot be told apart


class PictureData(NamedTuple):
    """What the plots of an encoder show; n points of a map, N images."""

    points: "NDArray[numpy.floating]"  # (n, D)
    labels: "NDArray[numpy.int64] | None"  # (n,)
    singular_values: Sequence[float]  # summing to 1
    similarities: "Sequence[curves.Histogram]"
    counts: "NDArray[numpy.int64] | None"  # (k, C) images by cluster and class
    mapping: "NDArray[numpy.int64] | None"  # (k,) the class of each cluster
    neighbours: "NDArray[numpy.int64]"  # (queries, 1 + k): each query, then its neighbours
    precision: tuple[Sequence[float], Sequence[float]] | None  # bin edges and shares


class EncoderPictures(NamedTuple):
    """An encoder in the plots: its name, their data, its sweep over k."""

    name: str
    data: PictureData
    clusters: "Sequence[ClusterRow]"


class ImageAlbum(NamedTuple):
    """The images: names of classes, labels (N,) or None, their thumbnails."""

    classes: Sequence[str]
    labels: "NDArray[numpy.int64] | None"
    thumbnail: "Callable[[int], Photo]"
    samples: "Sequence[Sequence[Photo]]"  # rows of an image's three views
    views: str  # the augmentation of the random views


def points_per_map(encoders: int) -> int:
    """How many points a map may have, given the number of encoders."""
    return min(MAX_POINTS_PER_MAP, max(MIN_POINTS_PER_MAP, TOTAL_MAP_POINTS // (2 * encoders)))


def queries_per_sheet(encoders: int) -> int:
    """How many queries a sheet of neighbours may have, given the number of encoders."""
    return min(MAX_QUERIES_PER_SHEET, max(1, TOTAL_SHEET_QUERIES // encoders))


def diagnosis_pictures(shown: Sequence[EncoderPictures], album: ImageAlbum, seed: int) -> Iterator[Picture]:
    """All plots, in the order of the page: first the map and the neighbours of the first encoder."""
    for plot in (tsne_pictures, neighbour_pictures):
        yield from plot(shown[0], album, seed)
    for title, y_label, caption, value in UNLABELLED_CURVES if album.labels is None else LABELLED_CURVES:
        series = [Series(one.name, [row.k for row in one.clusters], [*map(value, one.clusters)]) for one in shown]
        yield Picture(title, caption, curves.cluster_curves(series, y_label))
    values = [
        Series(one.name, range(1, len(one.data.singular_values) + 1), list(one.data.singular_values)) for one in shown
    ]
    caption = "Singular values of the centred features as shares of their sum. Beyond a cliff, directions are unused."
    yield Picture("Singular values", caption, curves.spectrum_curves(values))
    if precision := [precision_series(one.name, *one.data.precision) for one in shown if one.data.precision]:
        caption = "Share of the pairs of images at this cosine that have the same class."
        yield Picture("Same class by cosine", caption, curves.precision_curves(precision))
    for plot in (tsne_pictures, neighbour_pictures):
        for one in shown[1:]:
            yield from plot(one, album, seed)
    for plot in (pca_pictures, similarity_pictures, confusion_pictures):
        for one in shown:
            yield from plot(one, album, seed)
    if album.samples:
        yield sample_picture(album)


def precision_series(name: str, edges: Sequence[float], shares: Sequence[float]) -> Series:
    """The share of same-class pairs at the middle of each bin of cosine."""
    return Series(name, [(a + b) / 2 for a, b in itertools.pairwise(edges)], list(shares))


def tsne_pictures(one: EncoderPictures, album: ImageAlbum, seed: int) -> Iterator[Picture]:
    """The t-SNE map, if there are enough points for one."""
    points = one.data.points
    if len(points) >= maps.MIN_MAP_POINTS:
        classes, colours = map_classes(one.data, album)
        caption = f"t-SNE of {plural(len(points), 'image')}, {colours}. Distances between groups mean nothing."
        svg = maps.draw_map(maps.tsne_coordinates(points, seed), classes)
        yield Picture(picture_title("t-SNE", one), caption, svg)


def pca_pictures(one: EncoderPictures, album: ImageAlbum, seed: int) -> Iterator[Picture]:
    """The map of the first two principal components."""
    points, shares = maps.principal_components(one.data.points, 2)
    if points.shape[1] == 2:
        classes, colours = map_classes(one.data, album)
        first, second = (f"{100 * share:.1f}% of the variance" for share in shares)
        caption = f"The first two principal components of the same images, {colours}."
        yield Picture(picture_title("PCA", one), caption, maps.draw_map(points, classes, (first, second)))


def map_classes(data: PictureData, album: ImageAlbum) -> tuple[maps.PointClasses | None, str]:
    """The classes of a map's points, and how they are shown, in words."""
    if data.labels is None:
        return None, "in grey, as there are no labels"
    classes = maps.PointClasses(data.labels, album.classes)
    return classes, "coloured by class" if classes.coloured else "in grey, as there are more than ten classes"


def similarity_pictures(one: EncoderPictures, album: ImageAlbum, seed: int) -> Iterator[Picture]:
    """Cosines of views, of images of a class, and of other images."""
    healthy = "Healthy: views of an image lie to the right of other images"
    if album.labels is not None:
        healthy += ", and so do images of the same class. Over-clustered: only the views do"
    caption = f"Cosines of features, each curve scaled to its maximum. {healthy}."
    svg = curves.histogram_curves(one.data.similarities, "cosine")
    yield Picture(picture_title("Similarities", one), caption, svg)


def confusion_pictures(one: EncoderPictures, album: ImageAlbum, seed: int) -> Iterator[Picture]:
    """Clusters against classes, or the first of them where there are many; nothing without labels."""
    counts, mapping = one.data.counts, one.data.mapping
    if counts is None or mapping is None:
        return
    caption = (
        "As many clusters as classes, each in the row of the class that Hungarian matching assigns. Numbers and "
        "shades: percent of the cluster's images that have the class. Healthy: a dark diagonal."
    )
    if max(counts.shape) > MAX_SHOWN_CLUSTERS:
        caption += f" Only the first {MAX_SHOWN_CLUSTERS} are shown."
    counts = heat.order_clusters(counts, mapping)[:MAX_SHOWN_CLUSTERS, :MAX_SHOWN_CLUSTERS]
    yield Picture(picture_title("Clusters and classes", one), caption, heat.heat_map(counts, album.classes))


def neighbour_pictures(one: EncoderPictures, album: ImageAlbum, seed: int) -> Iterator[Picture]:
    """Some images and their nearest neighbours."""
    rows = []
    for query, *near in one.data.neighbours.tolist():
        correct = [is_same_class(album.labels, query, other) for other in near]
        known = [match for match in correct if match is not None]
        name = class_name(album, query)
        text = f"{name}: {sum(known)} of {len(known)} correct" if known else name
        photos = [album.thumbnail(other) for other in near]
        rows.append(thumbnails.NeighbourRow(album.thumbnail(query), photos, correct, text))
    caption = "Large: a query image. Small: its nearest neighbours, the nearest first, row by row."
    if album.labels is not None:
        caption += " Solid frame and tick: same class; dashed frame and cross: another class."
    yield Picture(picture_title("Nearest neighbours", one), caption, thumbnails.neighbour_sheet(rows))


def picture_title(kind: str, one: EncoderPictures) -> str:
    """The title of an encoder's own plot."""
    return f"{kind}, {shorten(one.name, 30)}"


def is_same_class(labels: "NDArray[numpy.int64] | None", first: int, second: int) -> bool | None:
    """Whether two images have the same class; None where it is unknown."""
    if labels is None or min(labels[first], labels[second]) < 0:
        return None
    return bool(labels[first] == labels[second])


def class_name(album: ImageAlbum, image: int) -> str:
    """The class of an image, or the image's number where the class is unknown."""
    label = -1 if album.labels is None else int(album.labels[image])
    return album.classes[label] if label >= 0 else f"image {image + 1}"


def sample_picture(album: ImageAlbum) -> Picture:
    """Some images in their three views."""
    caption = f"Center crops (plain) and the two random views that were compared: {album.views}."
    half = -(-len(album.samples) // 2)
    pairs = [[*left, *right] for left, right in zip(album.samples[:half], [*album.samples[half:], []], strict=False)]
    return Picture("Sample views", caption, thumbnails.view_grid(pairs, ("plain", "view 1", "view 2") * 2))
