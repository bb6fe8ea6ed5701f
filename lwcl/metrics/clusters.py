"""k-means clusters against classes and against each other: NMI, ARI, alignment, stability, and a sweep over k.

Cluster alignment is CompRess's protocol (arXiv 2010.14713); NMI and ARI are scikit-learn's. N rows of width D, k
clusters. Labels below 0 are unknown and left out. Memory is that of `kmeans`.
"""

import itertools
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import torch
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from torch import Tensor

from lwcl.losses import l2_normalise
from lwcl.metrics import contingency
from lwcl.metrics.contingency import align_clusters, aligned_accuracy, contingency_matrix
from lwcl.metrics.kmeans import KMeans, assign_clusters, kmeans
from lwcl.metrics.nearest import METRIC_CHUNK_BYTES

CLASS_MULTIPLES = (1 / 3, 1, 2, 4, 8, 16)  # numbers of clusters in a sweep, in multiples of the number of classes
UNLABELLED_KS = (4, 8, 16, 32, 64, 128, 256, 512)
MIN_IMAGES_PER_CLUSTER = 4  # on average: smaller clusters say nothing about structure


def cluster_alignment(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    query_labels: Tensor,
    *,
    k: int | None = None,
    seed: int,
    cost: str = "precision",
    iterations: int = 20,
) -> float:
    """CompRess's protocol: k clusters of a bank (k: classes), matched to classes; the accuracy on queries."""
    classes = int(max(bank_labels.max(), query_labels.max())) + 1
    found = kmeans(bank, k or classes, seed=seed, iterations=iterations)
    mapping = align_clusters(contingency_matrix(found.labels, bank_labels, len(found.centroids), classes), cost=cost)
    labels, _ = assign_clusters(queries, found.centroids)
    return aligned_accuracy(contingency_matrix(labels, query_labels, len(found.centroids), classes), mapping)


def nmi(labels: Tensor, classes: Tensor) -> float:
    """Normalised mutual information (arithmetic mean of the entropies) of clusters and classes (N,), 0 to 1."""
    return float(normalized_mutual_info_score(*known_label_arrays(labels, classes)))


def ari(labels: Tensor, classes: Tensor) -> float:
    """Adjusted Rand index of clusters and classes (N,): 1 identical, 0 chance level."""
    return float(adjusted_rand_score(*known_label_arrays(labels, classes)))


def known_label_arrays(labels: Tensor, classes: Tensor) -> tuple[object, object]:
    """Classes and clusters of the images of known class, as arrays."""
    known = classes >= 0
    return classes[known].cpu().numpy(), labels[known].cpu().numpy()


def simplified_silhouette(x: Tensor, found: KMeans) -> float:
    """The simplified silhouette of spherical clusters of x (N, D): (b - a) / max(a, b), averaged; -1 to 1.

    a and b are distances to the own centroid and the nearest other one, instead of mean distances to rows (Hruschka et
    al., 2004): N k products instead of N^2. nan for one cluster.
    """
    if len(found.centroids) < 2:
        return float("nan")
    total = 0.0
    chunk = max(1, METRIC_CHUNK_BYTES // (4 * len(found.centroids)))
    for rows, labels in zip(torch.split(l2_normalise(x).float(), chunk), torch.split(found.labels, chunk), strict=True):
        distances = (2 - 2 * rows @ found.centroids.T).clamp_min(0).sqrt()
        own = distances.gather(1, labels[:, None])[:, 0]
        other = distances.scatter_(1, labels[:, None], torch.inf).amin(1)
        total += float(((other - own) / torch.maximum(own, other).clamp_min(1e-12)).double().sum())
    return total / len(x)


def kmeans_runs(x: Tensor, k: int, seed: int, runs: int) -> list[KMeans]:
    """k-means of x (N, D) from `runs` seeds."""
    return [kmeans(x, k, seed=seed * runs + run) for run in range(runs)]


def mean_pairwise_ari(found: Sequence[KMeans]) -> float:
    """Stability: mean ARI over pairs of clusterings of the same rows; nan for a single one."""
    scores = [ari(a.labels, b.labels) for a, b in itertools.combinations(found, 2)]
    return statistics.fmean(scores) if scores else float("nan")


class ClusterRow(NamedTuple):
    """k-means with k clusters: the best run, the stability over runs, and agreement with classes if known."""

    k: int
    inertia: float  # mean squared distance to the own centroid
    silhouette: float
    stability: float
    alignment: float | None = None  # accuracy of one-to-one matching by precision (CompRess)
    count_alignment: float | None = None  # by count
    nmi: float | None = None
    ari: float | None = None
    purity: float | None = None
    held_out_purity: float | None = None
    clusters_per_class: float | None = None
    classes_per_cluster: float | None = None


def cluster_counts(images: int, classes: int | None) -> list[int]:
    """Numbers of clusters to sweep: a third to 16 times the number of classes; without classes 4, 8, ..., 512."""
    wanted = [round(times * classes) for times in CLASS_MULTIPLES] if classes else UNLABELLED_KS
    most = max(2, images // MIN_IMAGES_PER_CLUSTER)
    return sorted({min(max(2, k), most) for k in wanted})


def cluster_sweep(x: Tensor, classes: Tensor | None, ks: Sequence[int], seed: int, runs: int = 3) -> list[ClusterRow]:
    """Spherical k-means of x (N, D) for each k, from `runs` seeds, against classes (N,) where there are labels."""
    if classes is not None and not bool((classes >= 0).any()):
        classes = None
    rows = []
    for k in ks:
        clusterings = kmeans_runs(x, k, seed, runs)
        best = min(clusterings, key=lambda run: run.inertia)
        row = ClusterRow(k, best.inertia / len(x), simplified_silhouette(x, best), mean_pairwise_ari(clusterings))
        rows.append(row if classes is None else with_class_metrics(row, best.labels, classes))
    return rows


def with_class_metrics(row: ClusterRow, labels: Tensor, classes: Tensor) -> ClusterRow:
    """The row with the agreement of its clusters (N,) with classes (N,)."""
    counts = contingency_matrix(labels, classes, row.k)
    return row._replace(
        alignment=aligned_accuracy(counts, align_clusters(counts)),
        count_alignment=aligned_accuracy(counts, align_clusters(counts, cost="count")),
        nmi=nmi(labels, classes),
        ari=ari(labels, classes),
        purity=contingency.cluster_purity(counts),
        held_out_purity=contingency.held_out_purity(counts),
        clusters_per_class=contingency.clusters_per_class(counts),
        classes_per_cluster=contingency.classes_per_cluster(counts),
    )
