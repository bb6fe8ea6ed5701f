"""The pictures of a diagnosis with their captions: what several encoders share in one, then each encoder's own."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lwcl.diagnosis.plots import curves, heat, maps, thumbnails
from lwcl.diagnosis.plots.captions import CAPTIONS
from lwcl.reporting.plots import Series, label
from lwcl.reporting.report import Picture

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    from lwcl.diagnosis.plots.thumbnails import Photo

#: What all encoders' own pictures may hold together, so that a page stays below 3 MB.
MAP_POINTS, MOST_POINTS, FEWEST_POINTS = 8000, 1000, 250
SHEET_QUERIES, MOST_QUERIES = 20, 5
SHOWN_CLUSTERS = 40  # rows and columns of a heat map, at most: eyes tell no more apart

WITH_CLASSES = ("clusters_per_class", "nmi", "held_out_purity", "stability")
WITHOUT_CLASSES = ("silhouette", "stability")


class Sketch(NamedTuple):
    """What an encoder's pictures show; n points of a map, N images."""

    points: "NDArray[numpy.floating]"  # (n, D)
    labels: "NDArray[numpy.int64] | None"  # (n,)
    values: Sequence[float]  # normed singular values
    similar: "Sequence[curves.Histogram]"
    counts: "NDArray[numpy.int64] | None"  # (k, C) images by cluster and class
    mapping: "NDArray[numpy.int64] | None"  # (k,) the class of each cluster
    near: "NDArray[numpy.int64]"  # (queries, 1 + k): queries, then their neighbours
    precision: tuple[Sequence[float], Sequence[float]] | None  # edges and shares


class Shown(NamedTuple):
    """An encoder in the pictures: its name, what they show, its rows of the sweep over k."""

    name: str
    sketch: Sketch
    clusters: Sequence[Mapping[str, Any]]


class Album(NamedTuple):
    """What the images themselves are: names of classes, labels (N,) or None, how to get small photographs of them."""

    classes: Sequence[str]
    labels: "NDArray[numpy.int64] | None"
    photo: "Callable[[int], Photo]"
    samples: "Sequence[Sequence[Photo]]"  # rows of an image plain and in its two views
    views: str  # what the views are


def points_each(encoders: int) -> int:
    """How many points a map may have, for so many encoders."""
    return min(MOST_POINTS, max(FEWEST_POINTS, MAP_POINTS // (2 * encoders)))


def queries_each(encoders: int) -> int:
    """How many queries a sheet of neighbours may have, for so many encoders."""
    return min(MOST_QUERIES, max(1, SHEET_QUERIES // encoders))


def pictures(shown: Sequence[Shown], album: Album, seed: int) -> Iterator[Picture]:
    """All pictures, in the order of the page."""
    for name in WITHOUT_CLASSES if album.labels is None else WITH_CLASSES:
        title, y_label, caption = CAPTIONS[name]
        yield Picture(title, caption, curves.over_clusters([sweep(one, name) for one in shown], y_label))
    values = [Series(one.name, range(1, len(one.sketch.values) + 1), list(one.sketch.values)) for one in shown]
    caption = (
        "Singular values of the features, each as a share of their sum. A cliff: the directions behind it are unused."
    )
    yield Picture("Spectrum", caption, curves.spectra(values))
    if precise := [precision(one) for one in shown if one.sketch.precision]:
        caption = "Of two images whose features have this cosine, how often both are of one class."
        yield Picture("Same class by similarity", caption, curves.precisions(precise))
    for kind in (tsne, principal, similarities, confusion, neighbours):
        for one in shown:
            yield from kind(one, album, seed)
    if album.samples:
        yield samples(album)


def sweep(one: Shown, name: str) -> Series:
    """A measure of an encoder's clusters against k."""
    return Series(one.name, [row["k"] for row in one.clusters], [row[name] for row in one.clusters])


def precision(one: Shown) -> Series:
    """How often two images are of one class, by their cosine."""
    assert one.sketch.precision
    edges, shares = one.sketch.precision
    return Series(one.name, [(a + b) / 2 for a, b in itertools.pairwise(edges)], list(shares))


def tsne(one: Shown, album: Album, seed: int) -> Iterator[Picture]:
    """The map by t-SNE, if there are points for one."""
    points = one.sketch.points
    if len(points) >= maps.FEWEST:
        known, by = colouring(one.sketch, album)
        caption = (
            f"t-SNE of {len(points):,} images, {by}. What lies near is alike; distances between groups say nothing."
        )
        yield Picture(titled("t-SNE", one), caption, maps.drawn(maps.tsne(points, seed), known))


def principal(one: Shown, album: Album, seed: int) -> Iterator[Picture]:
    """The map by the first two principal components."""
    points, shares = maps.principal(one.sketch.points, 2)
    if points.shape[1] == 2:
        known, by = colouring(one.sketch, album)
        first, second = (f"{100 * share:.1f} % of the variance" for share in shares)
        caption = f"The two directions in which the same images differ most, {by}."
        yield Picture(titled("PCA", one), caption, maps.drawn(points, known, (first, second)))


def colouring(sketch: Sketch, album: Album) -> tuple[maps.Classes | None, str]:
    """The classes of a map's points, and how they are shown, in words."""
    known = None if sketch.labels is None else maps.Classes(sketch.labels, album.classes)
    if known is None:
        return None, "in grey, since there are no labels"
    return known, "coloured by class" if known.coloured else "in grey, since there are more than ten classes"


def similarities(one: Shown, album: Album, seed: int) -> Iterator[Picture]:
    """How alike views, images of a class and other images are."""
    caption = (
        "Cosines of features, each curve scaled to its own height. Good: views of an image lie right of other images"
    )
    if album.labels is not None:
        caption += (
            ", and images of a class, too. Over-clustered: views lie far right, and a class lies where all others lie"
        )
    yield Picture(titled("Similarities", one), f"{caption}.", curves.densities(one.sketch.similar, "cosine"))


def confusion(one: Shown, album: Album, seed: int) -> Iterator[Picture]:
    """Clusters against classes, or the first of them where there are many; nothing without labels."""
    counts, mapping = one.sketch.counts, one.sketch.mapping
    if counts is None or mapping is None:
        return
    caption = (
        "As many clusters as classes, each in the row of the class that the Hungarian method gives it. Numbers and "
        "shades: percent of the cluster's images that are of the class. Good: a dark diagonal."
    )
    if max(counts.shape) > SHOWN_CLUSTERS:
        caption += f" Only the first {SHOWN_CLUSTERS} are shown."
    counts = heat.ordered(counts, mapping)[:SHOWN_CLUSTERS, :SHOWN_CLUSTERS]
    yield Picture(titled("Clusters and classes", one), caption, heat.heat_map(counts, album.classes))


def neighbours(one: Shown, album: Album, seed: int) -> Iterator[Picture]:
    """Some images and their nearest neighbours."""
    rows = []
    for query, *near in one.sketch.near.tolist():
        right = [same(album.labels, query, other) for other in near]
        told = class_of(album, query)
        known = [one for one in right if one is not None]
        text = f"{told}: {sum(known)} of {len(known)} right" if known else told
        rows.append(thumbnails.Row(album.photo(query), [album.photo(other) for other in near], right, text))
    caption = "Large: an image. Small: the images with the nearest features, the nearest first, line by line."
    if album.labels is not None:
        caption += " Whole frame and tick: the same class; dashed frame and cross: another class."
    yield Picture(titled("Nearest neighbours", one), caption, thumbnails.neighbour_sheet(rows))


def titled(kind: str, one: Shown) -> str:
    """The title of an encoder's own picture."""
    return f"{kind}, {label(one.name, 30)}"


def same(labels: "NDArray[numpy.int64] | None", first: int, second: int) -> bool | None:
    """Whether two images are of one class; None where it is not known."""
    if labels is None or min(labels[first], labels[second]) < 0:
        return None
    return bool(labels[first] == labels[second])


def class_of(album: Album, image: int) -> str:
    """The class of an image, or its number where it is not known."""
    known = album.labels is not None and album.labels[image] >= 0
    return album.classes[int(album.labels[image])] if known and album.labels is not None else f"image {image + 1}"


def samples(album: Album) -> Picture:
    """Some images in their three views."""
    caption = f"Images as they are judged (plain), and in the two random views that were compared: {album.views}."
    half = -(-len(album.samples) // 2)
    pairs = [[*left, *right] for left, right in zip(album.samples[:half], [*album.samples[half:], []], strict=False)]
    return Picture("Sample views", caption, thumbnails.grid(pairs, ("plain", "view 1", "view 2") * 2))
