"""The metrics plotted over the number of clusters k: title, axis label, how to read them, and their values."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from lwcl.metrics.clusters import ClusterRow


class ClusterCurve(NamedTuple):
    """A metric of k clusters."""

    title: str
    y_label: str
    caption: str
    value: "Callable[[ClusterRow], float | None]"


STABILITY = ClusterCurve(
    "Stability of clusters",
    "stability (ARI)",
    "Agreement of k-means clusters from three seeds (adjusted Rand index): 1 identical, 0 chance level.",
    lambda row: row.stability,
)
LABELLED_CURVES = (
    ClusterCurve(
        "Clusters per class",
        "clusters per class",
        "How many of k clusters hold 90% of a class, on average. 1 is best at k = number of classes. The higher the "
        "curve, the more clusters a class is split into.",
        lambda row: row.clusters_per_class,
    ),
    ClusterCurve(
        "Normalised mutual information",
        "NMI",
        "Of clusters and classes: 1 identical, 0 independent. It grows with k by chance, so compare with the untrained "
        "encoder's curve.",
        lambda row: row.nmi,
    ),
    ClusterCurve(
        "Purity of clusters",
        "leave-one-out purity",
        "How often the majority of a cluster's other images has an image's class. Unlike plain purity, small clusters "
        "gain nothing by chance.",
        lambda row: row.held_out_purity,
    ),
    STABILITY,
)
UNLABELLED_CURVES = (
    ClusterCurve(
        "Silhouette",
        "silhouette",
        "1: clusters are compact and far apart; 0: they touch. A peak suggests the number of groups in the features.",
        lambda row: row.silhouette,
    ),
    STABILITY,
)
