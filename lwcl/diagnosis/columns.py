"""The columns of a diagnosis's tables: title and value of each, and notes on what the metrics mean."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from lwcl.diagnosis.results import EncoderMetrics
from lwcl.diagnosis.thresholds import threshold

if TYPE_CHECKING:
    from lwcl.metrics.clusters import ClusterRow

T = TypeVar("T")


class Column(NamedTuple, Generic[T]):
    """A measure: its title, its value in a row, which direction is better, and what is usual.

    A fraction in [0, 1] is shown in percent.
    """

    title: str
    value: Callable[[T], Any]
    is_share: bool = False
    better: str = ""
    usual: str = ""


def at(values: Sequence[float] | None, position: int) -> float | None:
    """An element of a sequence that may be missing."""
    return None if values is None else values[position]


def of_at_least(name: str, unit: str = "") -> str:
    """What is usual, by a threshold of the verdicts."""
    value = threshold(name)
    return f"{100 * value:.0f}% or more" if unit == "%" else f"{value:g} or more"


Columns = tuple[Column[EncoderMetrics], ...]
SAME_CLASS_COLUMN: Column[EncoderMetrics] = Column(
    "Neighbours of the same class, %", lambda m: m.neighbourhood.same_class, True, "higher", "well above chance"
)
OWN_VIEW_COLUMN: Column[EncoderMetrics] = Column(
    "Nearest to their own view, %", lambda m: m.pairs.d_sd[0], True, "higher", of_at_least("instances", "%")
)
RANK_COLUMN: Column[EncoderMetrics] = Column(
    "Effective rank", lambda m: m.spectrum.centred_rank, False, "higher", of_at_least("rank")
)
OVERVIEW_COLUMNS: Columns = (
    OWN_VIEW_COLUMN,
    RANK_COLUMN,
    Column("Alignment", lambda m: m.pairs.alignment_d_sd),
    Column("Intra-class", lambda m: m.pairs.intra_d),
    Column("Uniformity", lambda m: m.pairs.uniformity_d),
)
DISTANCE_RANGE = "0 (equal) to 4"
INSTANCE_COLUMNS: Columns = (
    OWN_VIEW_COLUMN,
    Column("Own view among the nearest 5, %", lambda m: m.pairs.d_sd[4], True, "higher"),
    Column("Two views of an image nearest, %", lambda m: at(m.pairs.sd_sd, 0), True, "higher", "below the first"),
    Column("Two views among the nearest 5, %", lambda m: at(m.pairs.sd_sd, 4), True, "higher"),
)
DISTANCE_COLUMNS: Columns = (
    Column("Alignment: image to view", lambda m: m.pairs.alignment_d_sd, False, "lower", DISTANCE_RANGE),
    Column("Alignment: view to view", lambda m: m.pairs.alignment_sd_sd, False, "lower", DISTANCE_RANGE),
    Column("Intra-class: images", lambda m: m.pairs.intra_d, False, "lower", "below 2, that of any two images"),
    Column("Intra-class: views", lambda m: m.pairs.intra_sd, False, "lower", "below 2"),
    Column("Uniformity: images", lambda m: m.pairs.uniformity_d, False, "lower", "-4 (uniform) to 0 (one point)"),
    Column("Uniformity: views", lambda m: m.pairs.uniformity_sd, False, "lower", "-4 to 0"),
    Column("Uniformity: all pairs", lambda m: m.pairs.exact_uniformity_d, False, "lower", "-4 to 0"),
)
SPECTRUM_COLUMNS: Columns = (
    Column("Effective rank, raw", lambda m: m.spectrum.effective_rank, False, "higher"),
    Column("Effective rank, centred", lambda m: m.spectrum.centred_rank, False, "higher", of_at_least("rank")),
    Column(
        "Dimensions by variance (participation ratio)",
        lambda m: m.spectrum.participation,
        False,
        "higher",
        of_at_least("participation"),
    ),
    Column(
        "Std times √d", lambda m: m.spectrum.std, False, "higher", f"collapsed below {threshold('std'):g}; at most 1"
    ),
    Column("Mean cosine of two images", lambda m: m.spectrum.mean_cosine, False, "lower", "near 1 if untrained"),
    Column("Variation of norms", lambda m: m.spectrum.norm_variation),
    Column("Dimensions that never vary, %", lambda m: m.spectrum.dead, True, "lower", "0"),
)
NEIGHBOUR_COLUMNS: Columns = (
    SAME_CLASS_COLUMN,
    Column("Same class by chance, %", lambda m: m.neighbourhood.chance, True),
    Column("Hubness", lambda m: m.neighbourhood.hubness, False, "lower", "above 2: a few images are near most others"),
    Column("Orphans: no image's neighbour, %", lambda m: m.neighbourhood.orphans, True, "lower"),
    Column("With a copy (cosine 0.95 or more), %", lambda m: m.neighbourhood.duplicates, True, "lower"),
)
HELD_OUT_COLUMNS: Columns = (
    Column("Images", lambda m: m.held_out and m.held_out.images),
    Column("Nearest to their own view, %", lambda m: m.held_out and m.held_out.d_sd[0], True, "higher"),
    Column("Two views nearest, %", lambda m: m.held_out and at(m.held_out.sd_sd, 0), True, "higher"),
    Column("Alignment", lambda m: m.held_out and m.held_out.alignment_d_sd, False, "lower", DISTANCE_RANGE),
    Column("Intra-class", lambda m: m.held_out and m.held_out.intra_d, False, "lower", "below 2"),
    Column("Class by cluster, %", lambda m: m.held_out and m.held_out.cluster_alignment, True, "higher"),
    Column("Class by best kNN, %", lambda m: m.held_out and m.held_out.best_nn, True, "higher"),
    Column("Its number of neighbours", lambda m: m.held_out and m.held_out.best_nn_k),
)
CLUSTER_COLUMNS: "tuple[Column[ClusterRow], ...]" = (
    Column("k", lambda row: row.k),
    Column("Silhouette", lambda row: row.silhouette),
    Column("Stability", lambda row: row.stability),
    Column("Matching accuracy, %", lambda row: row.alignment, True),
    Column("Matching by count, %", lambda row: row.count_alignment, True),
    Column("NMI", lambda row: row.nmi),
    Column("ARI", lambda row: row.ari),
    Column("Purity, %", lambda row: row.purity, True),
    Column("Purity, leave-one-out, %", lambda row: row.held_out_purity, True),
    Column("Clusters/class", lambda row: row.clusters_per_class),
    Column("Classes/cluster", lambda row: row.classes_per_cluster),
)


class MetricTable(NamedTuple):
    """A table with a row for each encoder, and what its metrics mean."""

    title: str
    columns: Columns
    note: str


METRIC_TABLES = (
    MetricTable(
        "Instance discrimination, %",
        INSTANCE_COLUMNS,
        "How often an image is closer to its own view than to any other image (ssl-small's d-sd), and a view to the "
        "other view of the image (sd-sd).",
    ),
    MetricTable(
        "Alignment and uniformity",
        DISTANCE_COLUMNS,
        "Mean squared distances: of an image and its view (alignment), of two images of a class (intra-class). Close "
        "views while images of a class are as far apart as any others are what arXiv 2107.14762 calls over-clustering.",
    ),
    MetricTable(
        "Spectrum",
        SPECTRUM_COLUMNS,
        "Effective rank (RankMe): how many directions the features use, of raw and of mean-centred features.",
    ),
    MetricTable(
        "Ten nearest neighbours",
        NEIGHBOUR_COLUMNS,
        "Of the ten images nearest to each image. Hubs and orphans make neighbours less useful.",
    ),
    MetricTable(
        "Held-out images",
        HELD_OUT_COLUMNS,
        "Class by cluster: clusters and their classes come from the other images, as in CompRess (arXiv 2010.14713). "
        "Best kNN: the best majority vote of 1 to 101 neighbours.",
    ),
)
OVERVIEW_NOTE = (
    "Nearest to their own view: percent of images closer to their own view than to any other image; higher is better. "
    "Effective rank: how many directions the features use; higher is better. Neighbours: percent of the ten nearest "
    "that have the same class. Alignment, Intra-class: mean squared distance of an image and its view, of two images "
    "of a class. NMI, Clusters/class: with as many clusters as classes."
)
CLUSTER_NOTE = (
    "k-means of mean-centred unit features; the best of three runs, whose agreement (ARI) is the stability. Alignment: "
    "accuracy of clusters matched one-to-one to classes, by precision or by count. Leave-one-out purity: by the "
    "majority of the cluster's other images."
)
EVIDENCE_NOTE = (
    "Of mean-centred unit features, except std and mean cosine. Fine: with many clusters, about 16 times as many as "
    "classes."
)
OVERLAP_NOTE = "Mean squared distance of the two views of an image, by the IoU of their crops."
