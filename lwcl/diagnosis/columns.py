"""The columns of a diagnosis's tables: title and value of each, and notes on what the metrics mean."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from lwcl.diagnosis.results import EncoderMetrics

if TYPE_CHECKING:
    from lwcl.metrics.clusters import ClusterRow

T = TypeVar("T")


class Column(NamedTuple, Generic[T]):
    """A column of a table: its title and how its value follows from a row; a fraction in [0, 1] is shown in percent."""

    title: str
    value: Callable[[T], Any]
    is_share: bool = False


def at(values: Sequence[float] | None, position: int) -> float | None:
    """An element of a sequence that may be missing."""
    return None if values is None else values[position]


Columns = tuple[Column[EncoderMetrics], ...]
SAME_CLASS_COLUMN: Column[EncoderMetrics] = Column("Neighbours, %", lambda m: m.neighbourhood.same_class, True)
OVERVIEW_COLUMNS: Columns = (
    Column("d-sd, %", lambda m: m.pairs.d_sd[0], True),
    Column("Alignment", lambda m: m.pairs.alignment_d_sd),
    Column("Intra-class", lambda m: m.pairs.intra_d),
    Column("Uniformity", lambda m: m.pairs.uniformity_d),
    Column("Eff. rank", lambda m: m.spectrum.centred_rank),
)
INSTANCE_COLUMNS: Columns = (
    Column("d-sd top-1", lambda m: m.pairs.d_sd[0], True),
    Column("d-sd top-5", lambda m: m.pairs.d_sd[4], True),
    Column("sd-sd top-1", lambda m: at(m.pairs.sd_sd, 0), True),
    Column("sd-sd top-5", lambda m: at(m.pairs.sd_sd, 4), True),
)
DISTANCE_COLUMNS: Columns = (
    Column("Alignment D-SD", lambda m: m.pairs.alignment_d_sd),
    Column("Alignment SD-SD", lambda m: m.pairs.alignment_sd_sd),
    Column("Intra-class D", lambda m: m.pairs.intra_d),
    Column("Intra-class SD", lambda m: m.pairs.intra_sd),
    Column("Uniformity D", lambda m: m.pairs.uniformity_d),
    Column("Uniformity SD", lambda m: m.pairs.uniformity_sd),
    Column("Uniformity D, all pairs", lambda m: m.pairs.exact_uniformity_d),
)
SPECTRUM_COLUMNS: Columns = (
    Column("Effective rank", lambda m: m.spectrum.effective_rank),
    Column("Effective rank, centred", lambda m: m.spectrum.centred_rank),
    Column("Participation ratio", lambda m: m.spectrum.participation),
    Column("Std", lambda m: m.spectrum.std),
    Column("Mean cosine", lambda m: m.spectrum.mean_cosine),
    Column("Norm variation", lambda m: m.spectrum.norm_variation),
    Column("Dead, %", lambda m: m.spectrum.dead, True),
)
NEIGHBOUR_COLUMNS: Columns = (
    Column("Same class, %", lambda m: m.neighbourhood.same_class, True),
    Column("Same class by chance, %", lambda m: m.neighbourhood.chance, True),
    Column("Hubness", lambda m: m.neighbourhood.hubness),
    Column("Orphans, %", lambda m: m.neighbourhood.orphans, True),
    Column("Duplicates, %", lambda m: m.neighbourhood.duplicates, True),
)
HELD_OUT_COLUMNS: Columns = (
    Column("Images", lambda m: m.held_out and m.held_out.images),
    Column("d-sd, %", lambda m: m.held_out and m.held_out.d_sd[0], True),
    Column("sd-sd, %", lambda m: m.held_out and at(m.held_out.sd_sd, 0), True),
    Column("Alignment", lambda m: m.held_out and m.held_out.alignment_d_sd),
    Column("Intra-class", lambda m: m.held_out and m.held_out.intra_d),
    Column("Cluster alignment, %", lambda m: m.held_out and m.held_out.cluster_alignment, True),
    Column("best-NN, %", lambda m: m.held_out and m.held_out.best_nn, True),
    Column("k", lambda m: m.held_out and m.held_out.best_nn_k),
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
        "How often an image is closer to its own view than to any other image (d-sd), and a view to the other view of "
        "the image (sd-sd).",
    ),
    MetricTable(
        "Alignment and uniformity",
        DISTANCE_COLUMNS,
        "Mean squared distance, 0 to 4: of an image and its view (alignment), of two images of a class (intra-class). "
        "Uniformity: -4 uniform on the sphere, 0 a single point. D: images, SD: augmented views. Close views while "
        "images of a class are as far apart as any others are what arXiv 2107.14762 calls over-clustering.",
    ),
    MetricTable(
        "Spectrum",
        SPECTRUM_COLUMNS,
        "Effective rank (RankMe) of raw and of mean-centred features. Std: 1 fills the sphere, 0 is a single point. "
        "Dead: dimensions that never vary.",
    ),
    MetricTable(
        "Ten nearest neighbours",
        NEIGHBOUR_COLUMNS,
        "Share of the same class, and what chance would give. Hubness above 2: a few images are neighbours of most "
        "others. Orphans are no image's neighbour. Duplicates have a neighbour at a cosine of at least 0.95.",
    ),
    MetricTable(
        "Held-out images",
        HELD_OUT_COLUMNS,
        "Cluster alignment: clusters and their classes come from the other images, as in CompRess (arXiv 2010.14713). "
        "best-NN: the best majority vote of 1 to 101 neighbours.",
    ),
)
OVERVIEW_NOTE = (
    "d-sd: percent of images closer to their own view than to any other image. Alignment, Intra-class: mean squared "
    "distance of an image and its view, of two images of a class. NMI, Clusters/class: with as many clusters as "
    "classes. Neighbours: percent of the ten nearest that have the same class."
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
