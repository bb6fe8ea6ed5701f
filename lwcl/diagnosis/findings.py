"""What is found out about one encoder from its features of three views: every measure, and what the pictures show."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from lwcl.data.dataset import ImageSet
from lwcl.diagnosis import evidence
from lwcl.diagnosis.plots.curves import Histogram
from lwcl.diagnosis.plots.pictures import PictureData
from lwcl.diagnosis.tables import EncoderMetrics
from lwcl.diagnosis.three_views import ViewFeatures
from lwcl.losses import alignment, l2_normalise
from lwcl.metrics import clusters, contingency, neighbourhood, pairs
from lwcl.metrics.kmeans import kmeans
from lwcl.metrics.spectrum import spectrum
from lwcl.rng import epoch_permutation

SHEET_NEIGHBOURS = 8
SAMPLED_PAIRS = 20_000  # of images, drawn for the histograms of similarities
HISTOGRAM_BINS = 60
QUERY_POOL = 2000  # images that queries of a sheet are chosen among


def known_labels(images: ImageSet) -> Tensor | None:
    """The labels (N,) of images, or None where they say nothing: fewer than two classes."""
    return images.labels if len(set(images.labels.tolist()) - {-1}) > 1 else None


class DiagnosisScope(NamedTuple):
    """How to examine: numbers of clusters to try beside the usual ones, points of a map, queries of a sheet."""

    seed: int
    extra: tuple[int, ...] = ()
    points: int = 1000
    queries: int = 5


def diagnose_features(
    features: ViewFeatures, labels: Tensor | None, boxes: Tensor, scope: DiagnosisScope
) -> tuple[EncoderMetrics, PictureData]:
    """All about the features of N images with labels (N,), their random views cut from boxes (2, N, 4)."""
    plain, first, second = features
    centred, seed = evidence.centre_features(plain), scope.seed
    usual = clusters.cluster_counts(len(plain), class_count(labels))
    rows = clusters.cluster_sweep(centred, labels, sorted({*usual, *scope.extra}), seed)
    near, directions = neighbourhood.nearest_neighbours(centred, evidence.EVIDENCE_NEIGHBOURS), spectrum(plain)
    told = evidence.collect_metrics(
        plain, first, second, labels, seed=seed, rows=[row for row in rows if row.k in usual], near=near
    )
    found = EncoderMetrics(
        classes=class_count(labels),
        evidence=told,
        pairs=pairs.pair_metrics(plain, first, second, labels, seed=seed)._asdict(),
        clusters=tuple(row._asdict() for row in rows),
        spectrum={name: value for name, value in directions._asdict().items() if name != "values"},
        neighbourhood=neighbourhood.neighbourhood_metrics(near, labels)._asdict(),
        overlap=alignment_by_overlap(l2_normalise(first), l2_normalise(second), boxes),
        held_out={},
    )
    order = epoch_permutation(len(plain), seed, 0)
    chosen, queries = order[: scope.points], select_queries(order[:QUERY_POOL], labels, scope.queries)
    counts, mapping = (None, None) if labels is None else matched_contingency(centred, labels, seed)
    precise = None if labels is None else neighbourhood.precision_by_similarity(plain, labels)
    return found, PictureData(
        points=centred[chosen].numpy(),
        labels=None if labels is None else labels[chosen].numpy(),
        values=directions.values.tolist(),
        similar=similarity_histograms(l2_normalise(plain), l2_normalise(first), labels, seed),
        counts=counts,
        mapping=mapping,
        near=torch.cat([queries[:, None], near.indices[queries, :SHEET_NEIGHBOURS]], 1).numpy(),
        precision=None if precise is None else (precise.edges.tolist(), precise.precision.tolist()),
    )


def class_count(labels: Tensor | None) -> int | None:
    """How many classes there are among the labels."""
    return None if labels is None else int(labels.max()) + 1


def alignment_by_overlap(first: Tensor, second: Tensor, boxes: Tensor) -> tuple[Mapping[str, Any], ...]:
    """How near the two views (N, D) of an image are, for crops that share little or much of it: ssl-small's bands."""
    found = []
    for name, chosen in pairs.hardness_masks(pairs.crop_iou(boxes[0], boxes[1])).items():
        count = int(chosen.sum())
        near = float(alignment(first[chosen], second[chosen])) if count else None
        found.append({"band": name, "pairs": count, "alignment": near})
    return tuple(found)


def held_out_metrics(
    bank: Tensor, labels: Tensor | None, features: ViewFeatures, own: Tensor | None, seed: int
) -> dict[str, Any]:
    """What is measured on held-out images: telling instances apart, and with labels clusters and best-NN of the bank.

    `bank` (N, D) and `labels` (N,) are those of the images that are diagnosed; `own` the labels of the held-out ones.
    """
    told = pairs.pair_metrics(*features, own, seed=seed)
    found: dict[str, Any] = {
        "images": len(features.plain), "d_sd": told.d_sd, "sd_sd": told.sd_sd, "alignment_d_sd": told.alignment_d_sd,
        "intra_d": told.intra_d, "uniformity_d": told.uniformity_d,
    }  # fmt: skip
    if labels is None or own is None:
        return found
    known, asked = labels >= 0, own >= 0
    given = features.plain[asked], own[asked], bank[known], labels[known]
    best = pairs.best_nn(*given)
    aligned = clusters.cluster_alignment(given[2], given[3], given[0], given[1], seed=seed)
    return {**found, "cluster_alignment": aligned, "best_nn": float(best.top1.float().mean()), "best_nn_k": best.k}


def select_queries(order: Tensor, labels: Tensor | None, count: int) -> Tensor:
    """The first `count` images in this order, of different classes as far as there are any: int64 (count,)."""
    if labels is None:
        return order[:count]
    own = labels[order]
    earlier = torch.stack([(own[:place] == own[place]).sum() for place in range(len(own))])
    return order[earlier.argsort(stable=True)[:count]]


def matched_contingency(
    centred: Tensor, labels: Tensor, seed: int
) -> tuple[NDArray[numpy.int64], NDArray[numpy.int64]]:
    """As many clusters as classes: images by cluster and class (k, C), and the class that each cluster matches (k,)."""
    classes = class_count(labels) or 1
    found = kmeans(centred, min(classes, len(centred)), seed=seed)
    counts = contingency.contingency_matrix(found.labels, labels, len(found.centroids), classes)
    return counts.numpy(), contingency.align_clusters(counts, cost="count").numpy()


def similarity_histograms(plain: Tensor, first: Tensor, labels: Tensor | None, seed: int) -> tuple[Histogram, ...]:
    """How alike an image and its view are, two images of a class, and two of different classes: cosines, counted."""
    generator = torch.Generator().manual_seed(seed)
    left, right = torch.randint(len(plain), (2, SAMPLED_PAIRS), generator=generator)
    left, right = left[left != right], right[left != right]
    cosines = (plain[left] * plain[right]).sum(1)
    found = {"an image and its view": (plain * first).sum(1)}
    if labels is None:
        found["two images"] = cosines
    else:
        known = (labels[left] >= 0) & (labels[right] >= 0)
        same = labels[left] == labels[right]
        found["same class"], found["other class"] = cosines[known & same], cosines[known & ~same]
    low = min(float(values.min()) for values in found.values() if len(values))
    edges = torch.linspace(min(low, 0.99), 1.0, HISTOGRAM_BINS + 1)
    return tuple(Histogram(name, edges.tolist(), histogram_counts(values, edges)) for name, values in found.items())


def histogram_counts(values: Tensor, edges: Tensor) -> list[int]:
    """How many values lie between neighbouring edges; those beyond an end count to the last bin there."""
    places = torch.bucketize(values, edges[1:-1])
    return places.bincount(minlength=len(edges) - 1).tolist()
