"""The metrics that the clustering verdict rests on, computed from features of images and of their views.

The std is that of the raw unit features. All else is measured on mean-centred unit features: an untrained network maps
all images to nearly one direction, and what it discriminates is in the rest. N images, features of width D.
"""

import statistics
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lwcl.diagnosis.verdict import Evidence
from lwcl.losses import l2_normalise
from lwcl.metrics import clusters, neighbourhood, pairs
from lwcl.metrics.clusters import ClusterRow
from lwcl.metrics.neighbourhood import Neighbours
from lwcl.metrics.spectrum import spectrum

COARSE_CLUSTERS = 10  # "few" clusters, about, where there are no labels
EVIDENCE_NEIGHBOURS = 10  # or half the images of a class, if that is fewer
KMEANS_RUNS = 2  # where the sweep is made for the verdict alone


def centre_features(x: Tensor) -> Tensor:
    """Unit features (N, D) minus their mean, L2-normalised again: norms and a shared direction do not count."""
    rows = l2_normalise(x)
    return l2_normalise(rows.sub_(rows.mean(0)))


def collect_metrics(
    original: Tensor,
    first: Tensor,
    second: Tensor | None = None,
    labels: Tensor | None = None,
    *,
    seed: int = 0,
    sweep: Sequence[ClusterRow] | None = None,
    near: Neighbours | None = None,
) -> Evidence:
    """The evidence from features (N, D) of N >= 8 images, and of one or two augmented views of each.

    Labels (N,) below 0 are unknown. `sweep`: that of `centre_features(original)` over `cluster_counts`, and `near`: its
    `EVIDENCE_NEIGHBOURS` neighbours, where they were computed before.
    """
    if labels is not None and not bool((labels >= 0).any()):
        labels = None
    classes = None if labels is None else len(torch.unique(labels[labels >= 0]))
    mean = l2_normalise(original).mean(0)
    x, *views = (
        l2_normalise(l2_normalise(features).sub_(mean))
        for features in (original, first, second)
        if features is not None
    )
    counts = clusters.cluster_counts(len(x), classes)
    few = min(counts, key=lambda k: abs(k - (classes or COARSE_CLUSTERS)))
    sweep = sweep or clusters.cluster_sweep(x, labels, sorted({few, counts[-1]}), seed, KMEANS_RUNS)
    coarse, fine = min(sweep, key=lambda row: abs(row.k - few)), max(sweep, key=lambda row: row.k)
    k = min(EVIDENCE_NEIGHBOURS, max(1, len(x) // (2 * (classes or 1))))
    near = near.nearest(k) if near else neighbourhood.nearest_neighbours(x, k)
    (raw, _), (centred, _) = spectrum(original), spectrum(x)
    return Evidence(
        images=len(x),
        classes=classes,
        std=raw.std,
        mean_cosine=raw.mean_cosine,
        effective_rank=centred.centred_rank,
        participation=centred.participation,
        instances=statistics.fmean(pairs.instance_discrimination(x, view, (1,), near)[0] for view in views),
        view_cosine=statistics.fmean(float((x * view).sum(1).mean()) for view in views),
        neighbour_cosine=float(near.similarity[:, 0].mean()),
    )._replace(**neighbour_evidence(near, labels), **cluster_evidence(coarse, fine))


def neighbour_evidence(near: Neighbours, labels: Tensor | None) -> dict[str, Any]:
    """What the nearest neighbours contribute to the evidence."""
    graph = neighbourhood.neighbourhood_metrics(near, labels)
    return {"duplicates": graph.duplicates, "same_class": graph.same_class, "chance": graph.chance}


def cluster_evidence(coarse: ClusterRow, fine: ClusterRow) -> dict[str, Any]:
    """What few and many clusters contribute to the evidence."""
    return {
        "stability": coarse.stability,
        "silhouette": coarse.silhouette,
        "fine_clusters": fine.k,
        "fine_stability": fine.stability,
        "fine_silhouette": fine.silhouette,
        "cluster_accuracy": coarse.count_alignment,
        "clusters_per_class": coarse.clusters_per_class,
        "fine_purity": fine.held_out_purity,
    }
