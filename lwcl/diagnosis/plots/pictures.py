"""The pictures of a diagnosis with their captions: what several encoders share in one, then each encoder's own."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lwcl.diagnosis.plots import curves, heat, maps, thumbnails
from lwcl.diagnosis.plots.captions import CURVE_CAPTIONS
from lwcl.reporting.plots import Series, shorten
from lwcl.reporting.report import Picture

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    from lwcl.diagnosis.plots.thumbnails import Photo

#: What all encoders' own pictures may hold together, so that a page stays below 3 MB.
TOTAL_MAP_POINTS, MAX_POINTS_PER_MAP, MIN_POINTS_PER_MAP = 8000, 1000, 250
TOTAL_SHEET_QUERIES, MAX_QUERIES_PER_SHEET = 20, 5
MAX_SHOWN_CLUSTERS = 40  # rows and columns of a heat map, at most: eyes tell no more apart

LABELLED_CURVES = ("clusters_per_class", "nmi", "held_out_purity", "stability")
UNLABELLED_CURVES = ("silhouette", "stability")


class PictureData(NamedTuple):
    """What an encoder's pictures show; n points of a map, N images."""

    points: "NDArray[numpy.floating]"  # (n, D)
    labels: "NDArray[numpy.int64] | None"  # (n,)
    values: Sequence[float]  # normed singular values
    similar: "Sequence[curves.Histogram]"
    counts: "NDArray[numpy.int64] | None"  # (k, C) images by cluster and class
    mapping: "NDArray[numpy.int64] | None"  # (k,) the class of each cluster
    near: "NDArray[numpy.int64]"  # (queries, 1 + k): queries, then their neighbours
    precision: tuple[Sequence[float], Sequence[float]] | None  # edges and shares


class EncoderPictures(NamedTuple):
    """An encoder in the pictures: its name, what they show, its rows of the sweep over k."""

    name: str
    sketch: PictureData
    clusters: Sequence[Mapping[str, Any]]


class ImageAlbum(NamedTuple):
    """What the images themselves are: names of classes, labels (N,) or None, how to get small photographs of them."""

    classes: Sequence[str]
    labels: "NDArray[numpy.int64] | None"
    photo: "Callable[[int], Photo]"
    samples: "Sequence[Sequence[Photo]]"  # rows of an image plain and in its two views
    views: str  # what the views are


def points_per_map(encoders: int) -> int:
    """How many points a map may have, for so many encoders."""
    return min(MAX_POINTS_PER_MAP, max(MIN_POINTS_PER_MAP, TOTAL_MAP_POINTS // (2 * encoders)))


def queries_per_sheet(encoders: int) -> int:
    """How many queries a sheet of neighbours may have, for so many encoders."""
    return min(MAX_QUERIES_PER_SHEET, max(1, TOTAL_SHEET_QUERIES // encoders))


def diagnosis_pictures(shown: Sequence[EncoderPictures], album: ImageAlbum, seed: int) -> Iterator[Picture]:
    """All pictures, in the order of the page."""
    for name in UNLABELLED_CURVES if album.labels is None else LABELLED_CURVES:
        title, y_label, caption = CURVE_CAPTIONS[name]
        yield Picture(title, caption, curves.cluster_curves([cluster_series(one, name) for one in shown], y_label))
    values = [Series(one.name, range(1, len(one.sketch.values) + 1), list(one.sketch.values)) for one in shown]
    caption = (
        "Singular values of the features, each as a share of their sum. A cliff: the directions behind it are unused."
    )
    yield Picture("Spectrum", caption, curves.spectrum_curves(values))
    if precise := [precision_series(one) for one in shown if one.sketch.precision]:
        caption = "Of two images whose features have this cosine, how often both are of one class."
        yield Picture("Same class by similarity", caption, curves.precision_curves(precise))
    for kind in (tsne_pictures, pca_pictures, similarity_pictures, confusion_pictures, neighbour_pictures):
        for one in shown:
            yield from kind(one, album, seed)
    if album.samples:
        yield sample_picture(album)


def cluster_series(one: EncoderPictures, name: str) -> Series:
    """A measure of an encoder's clusters against k."""
    return Series(one.name, [row["k"] for row in one.clusters], [row[name] for row in one.clusters])


def precision_series(one: EncoderPictures) -> Series:
    """How often two images are of one class, by their cosine."""
    assert one.sketch.precision
    edges, shares = one.sketch.precision
    return Series(one.name, [(a + b) / 2 for a, b in itertools.pairwise(edges)], list(shares))


def tsne_pictures(one: EncoderPictures, album: ImageAlbum, seed: int) -> Iterator[Picture]:
    """The map by t-SNE, if there are points for one."""
    points = one.sketch.points
    if len(points) >= maps.MIN_MAP_POINTS:
        known, by = map_classes(one.sketch, album)
        caption = (
            f"t-SNE of {len(points):,} images, {by}. What lies near is alike; distances between groups say nothing."
        )
        yield Picture(picture_title("t-SNE", one), caption, maps.draw_map(maps.tsne_coordinates(points, seed), known))


def pca_pictures(one: EncoderPictures, album: ImageAlbum, seed: int) -> Iterator[Picture]:
    """The map by the first two principal components."""
    points, shares = maps.principal_components(one.sketch.points, 2)
    if points.shape[1] == 2:
        known, by = map_classes(one.sketch, album)
        first, second = (f"{100 * share:.1f}% of the variance" for share in shares)
        caption = f"The two directions in which the same images differ most, {by}."
        yield Picture(picture_title("PCA", one), caption, maps.draw_map(points, known, (first, second)))


def map_classes(sketch: PictureData, album: ImageAlbum) -> tuple[maps.PointClasses | None, str]:
    """The classes of a map's points, and how they are shown, in words."""
    known = None if sketch.labels is None else maps.PointClasses(sketch.labels, album.classes)
    if known is None:
        return None, "in grey, since there are no labels"
    return known, "coloured by class" if known.coloured else "in grey, since there are more than ten classes"


def similarity_pictures(one: EncoderPictures, album: ImageAlbum, seed: int) -> Iterator[Picture]:
    """How alike views, images of a class and other images are."""
    caption = (
        "Cosines of features, each curve scaled to its own height. Good: views of an image lie right of other images"
    )
    if album.labels is not None:
        caption += (
            ", and images of a class, too. Over-clustered: views lie far right, and a class lies where all others lie"
        )
    yield Picture(
        picture_title("Similarities", one), f"{caption}.", curves.histogram_curves(one.sketch.similar, "cosine")
    )


def confusion_pictures(one: EncoderPictures, album: ImageAlbum, seed: int) -> Iterator[Picture]:
    """Clusters against classes, or the first of them where there are many; nothing without labels."""
    counts, mapping = one.sketch.counts, one.sketch.mapping
    if counts is None or mapping is None:
        return
    caption = (
        "As many clusters as classes, each in the row of the class that the Hungarian method gives it. Numbers and "
        "shades: percent of the cluster's images that are of the class. Good: a dark diagonal."
    )
    if max(counts.shape) > MAX_SHOWN_CLUSTERS:
        caption += f" Only the first {MAX_SHOWN_CLUSTERS} are shown."
    counts = heat.order_clusters(counts, mapping)[:MAX_SHOWN_CLUSTERS, :MAX_SHOWN_CLUSTERS]
    yield Picture(picture_title("Clusters and classes", one), caption, heat.heat_map(counts, album.classes))


def neighbour_pictures(one: EncoderPictures, album: ImageAlbum, seed: int) -> Iterator[Picture]:
    """Some images and their nearest neighbours."""
    rows = []
    for query, *near in one.sketch.near.tolist():
        right = [is_same_class(album.labels, query, other) for other in near]
        told = class_name(album, query)
        known = [one for one in right if one is not None]
        text = f"{told}: {sum(known)} of {len(known)} right" if known else told
        rows.append(thumbnails.NeighbourRow(album.photo(query), [album.photo(other) for other in near], right, text))
    caption = "Large: an image. Small: the images with the nearest features, the nearest first, line by line."
    if album.labels is not None:
        caption += " Whole frame and tick: the same class; dashed frame and cross: another class."
    yield Picture(picture_title("Nearest neighbours", one), caption, thumbnails.neighbour_sheet(rows))


def picture_title(kind: str, one: EncoderPictures) -> str:
    """The title of an encoder's own picture."""
    return f"{kind}, {shorten(one.name, 30)}"


def is_same_class(labels: "NDArray[numpy.int64] | None", first: int, second: int) -> bool | None:
    """Whether two images are of one class; None where it is not known."""
    if labels is None or min(labels[first], labels[second]) < 0:
        return None
    return bool(labels[first] == labels[second])


def class_name(album: ImageAlbum, image: int) -> str:
    """The class of an image, or its number where it is not known."""
    known = album.labels is not None and album.labels[image] >= 0
    return album.classes[int(album.labels[image])] if known and album.labels is not None else f"image {image + 1}"


def sample_picture(album: ImageAlbum) -> Picture:
    """Some images in their three views."""
    caption = f"Images as they are judged (plain), and in the two random views that were compared: {album.views}."
    half = -(-len(album.samples) // 2)
    pairs = [[*left, *right] for left, right in zip(album.samples[:half], [*album.samples[half:], []], strict=False)]
    return Picture("Sample views", caption, thumbnails.view_grid(pairs, ("plain", "view 1", "view 2") * 2))
