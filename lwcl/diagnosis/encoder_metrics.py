"""All metrics of one encoder from its features of three views, and the data of its plots."""

from typing import NamedTuple

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from lwcl.data.dataset import ImageSet
from lwcl.diagnosis import evidence
from lwcl.diagnosis.plots.curves import Histogram
from lwcl.diagnosis.plots.pictures import PictureData
from lwcl.diagnosis.results import EncoderMetrics, HeldOutMetrics, OverlapRow
from lwcl.diagnosis.three_views import ViewFeatures
from lwcl.losses import alignment, l2_normalise
from lwcl.metrics import clusters, contingency, neighbourhood, pairs
from lwcl.metrics.bootstrap import mean_top1
from lwcl.metrics.kmeans import kmeans
from lwcl.metrics.knn import best_knn
from lwcl.metrics.spectrum import spectrum
from lwcl.rng import epoch_permutation

SHEET_NEIGHBOURS = 8
SAMPLED_PAIRS = 20_000  # of images, for the histograms of similarities
HISTOGRAM_BINS = 60
QUERY_POOL = 2000  # images that the queries of a sheet are selected from


def known_labels(images: ImageSet) -> Tensor | None:
    """The labels (N,) of images, or None where there are fewer than two classes."""
    return images.labels if len(set(images.labels.tolist()) - {-1}) > 1 else None


class DiagnosisScope(NamedTuple):
    """How to examine: extra numbers of clusters, points of a map, queries of a sheet of neighbours."""

    seed: int
    extra_ks: tuple[int, ...] = ()
    points: int = 1000
    queries: int = 5


def diagnose_features(
    features: ViewFeatures, labels: Tensor | None, boxes: Tensor, scope: DiagnosisScope
) -> tuple[EncoderMetrics, PictureData]:
    """All metrics of features of N images with labels (N,), their random views cropped to boxes (2, N, 4)."""
    plain, first, second = features
    centred, seed = evidence.centre_features(plain), scope.seed
    ks = clusters.cluster_counts(len(plain), class_count(labels))
    sweep = clusters.cluster_sweep(centred, labels, sorted({*ks, *scope.extra_ks}), seed)
    near = neighbourhood.nearest_neighbours(centred, evidence.EVIDENCE_NEIGHBOURS)
    spectrum_metrics, singular_values = spectrum(plain)
    metrics = EncoderMetrics(
        classes=class_count(labels),
        evidence=evidence.collect_metrics(
            plain, first, second, labels, seed=seed, sweep=[row for row in sweep if row.k in ks], near=near
        ),
        pairs=pairs.pair_metrics(plain, first, second, labels, seed=seed),
        clusters=tuple(sweep),
        spectrum=spectrum_metrics,
        neighbourhood=neighbourhood.neighbourhood_metrics(near, labels),
        overlap=alignment_by_overlap(l2_normalise(first), l2_normalise(second), boxes),
    )
    order = epoch_permutation(len(plain), seed, 0)
    points, queries = order[: scope.points], select_queries(order[:QUERY_POOL], labels, scope.queries)
    counts, mapping = (None, None) if labels is None else matched_contingency(centred, labels, seed)
    precision = None if labels is None else neighbourhood.precision_by_similarity(plain, labels)
    return metrics, PictureData(
        points=centred[points].numpy(),
        labels=None if labels is None else labels[points].numpy(),
        singular_values=singular_values.tolist(),
        similarities=similarity_histograms(l2_normalise(plain), l2_normalise(first), labels, seed),
        counts=counts,
        mapping=mapping,
        neighbours=torch.cat([queries[:, None], near.indices[queries, :SHEET_NEIGHBOURS]], 1).numpy(),
        precision=None if precision is None else (precision.edges.tolist(), precision.precision.tolist()),
    )


def class_count(labels: Tensor | None) -> int | None:
    """The number of classes among the labels."""
    return None if labels is None else int(labels.max()) + 1


def alignment_by_overlap(first: Tensor, second: Tensor, boxes: Tensor) -> tuple[OverlapRow, ...]:
    """Alignment of the two views (N, D) of an image by the IoU of their crops, in ssl-small's bands."""
    rows = []
    for name, mask in pairs.hardness_masks(pairs.crop_iou(boxes[0], boxes[1])).items():
        count = int(mask.sum())
        rows.append(OverlapRow(name, count, float(alignment(first[mask], second[mask])) if count else None))
    return tuple(rows)


def held_out_metrics(
    bank: Tensor, labels: Tensor | None, features: ViewFeatures, held_out_labels: Tensor | None, seed: int
) -> HeldOutMetrics:
    """Metrics of held-out images: instance discrimination, and with labels cluster alignment and best-NN.

    The bank (M, D) with labels (M,) provides clusters and neighbours. Labels below 0 are unknown.
    """
    metrics = pairs.pair_metrics(*features, held_out_labels, seed=seed)
    found = HeldOutMetrics(
        images=len(features.plain),
        d_sd=metrics.d_sd,
        sd_sd=metrics.sd_sd,
        alignment_d_sd=metrics.alignment_d_sd,
        intra_d=metrics.intra_d,
        uniformity_d=metrics.uniformity_d,
    )
    if labels is None or held_out_labels is None:
        return found
    known, known_queries = labels >= 0, held_out_labels >= 0
    bank, bank_labels = bank[known], labels[known]
    queries, query_labels = features.plain[known_queries], held_out_labels[known_queries]
    best = best_knn(queries, query_labels, bank, bank_labels)
    return found._replace(
        cluster_alignment=clusters.cluster_alignment(bank, bank_labels, queries, query_labels, seed=seed),
        best_nn=mean_top1(best.accuracy),
        best_nn_k=best.k,
    )


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
