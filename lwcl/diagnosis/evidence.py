"""From features of images and of their views to the `Evidence` that a verdict is made of: defined here, judged there.

Spread is that of the unit features as they are. All else is measured on unit features less their mean: an untrained net
gives all images nearly one direction, and what it knows is in the rest. N images, features of width D.
"""

import statistics
from collections.abc import Sequence

import torch
from torch import Tensor

from lwcl.diagnosis.verdict import Evidence
from lwcl.losses import l2_normalise
from lwcl.metrics import clusters, neighbourhood, pairs
from lwcl.metrics.clusters import ClusterRow
from lwcl.metrics.neighbourhood import Neighbours
from lwcl.metrics.spectrum import spectrum

COARSE_CLUSTERS = 10  # clusters, about, that stand for structure where no classes are known
EVIDENCE_NEIGHBOURS = 10  # or half the images of a class, if that is fewer
KMEANS_RUNS = 2  # of k-means, where a sweep has to be made for the verdict alone


def centre_features(x: Tensor) -> Tensor:
    """Unit features (N, D) less their mean, and unit again: lengths, and a direction that all share, do not count."""
    rows = l2_normalise(x)
    return l2_normalise(rows.sub_(rows.mean(0)))


def collect_metrics(
    original: Tensor,
    first: Tensor,
    second: Tensor | None = None,
    labels: Tensor | None = None,
    *,
    seed: int = 0,
    rows: Sequence[ClusterRow] | None = None,
    near: Neighbours | None = None,
) -> Evidence:
    """The evidence of an encoder's features (N, D) of N >= 8 images, and of one or two augmented views of each.

    Classes (N,) below 0 are unknown. `rows` may be a sweep of `centred(original)` over `cluster_counts`, and `near`
    its `NEIGHBOURS` neighbours, if they are there already.
    """
    if labels is not None and not bool((labels >= 0).any()):
        labels = None
    classes = None if labels is None else len(torch.unique(labels[labels >= 0]))
    mean = l2_normalise(original).mean(0)
    x, *views = (l2_normalise(l2_normalise(one).sub_(mean)) for one in (original, first, second) if one is not None)
    numbers = clusters.cluster_counts(len(x), classes)
    wanted = min(numbers, key=lambda k: abs(k - (classes or COARSE_CLUSTERS)))
    rows = rows or clusters.cluster_sweep(x, labels, sorted({wanted, numbers[-1]}), seed, KMEANS_RUNS)
    coarse, fine = min(rows, key=lambda row: abs(row.k - wanted)), max(rows, key=lambda row: row.k)
    count = min(EVIDENCE_NEIGHBOURS, max(1, len(x) // (2 * (classes or 1))))
    found = near.nearest(count) if near else neighbourhood.nearest_neighbours(x, count)
    graph = neighbourhood.neighbourhood_metrics(found, labels)
    shape, directions = spectrum(original), spectrum(x)
    return Evidence(
        images=len(x),
        classes=classes,
        spread=shape.spread,
        mean_cosine=shape.mean_cosine,
        rank=directions.centred_rank,
        participation=directions.participation,
        instances=statistics.fmean(pairs.instance_discrimination(x, view, (1,), found)[0] for view in views),
        view_cosine=statistics.fmean(float((x * view).sum(1).mean()) for view in views),
        neighbour_cosine=float(found.similarity[:, 0].mean()),
        duplicates=graph.duplicates,
        stability=coarse.stability,
        silhouette=coarse.silhouette,
        fine_clusters=fine.k,
        fine_stability=fine.stability,
        fine_silhouette=fine.silhouette,
        same_class=graph.same_class,
        chance=graph.chance,
        alignment=coarse.count_alignment,
        clusters_per_class=coarse.clusters_per_class,
        fine_purity=fine.held_out_purity,
    )
