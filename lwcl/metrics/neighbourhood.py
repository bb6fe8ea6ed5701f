"""Metrics of the nearest-neighbour graph by cosine: hubness, near-duplicates, and same-class neighbours.

Hubness is the skewness of the k-occurrence (Radovanovic et al., JMLR 2010); precision by similarity is that of
ssl-small's code (arXiv 2107.14762). No approximation. Memory besides the features: a copy of them in float32 and one in
bfloat16, and two `METRIC_CHUNK_BYTES`. N rows of width D.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from lwcl.losses import l2_normalise
from lwcl.metrics.nearest import METRIC_CHUNK_BYTES, nearest_by_cosine

BIN_CHUNK = 2**22  # similarities binned at a time
SIMILARITY_BINS, BIN_WIDTH = 40, 0.05  # from a cosine of -1 on
IDENTICAL_COSINE = 0.999  # pairs at least so similar count as duplicates and are left out


def similarity_chunks(rows: Tensor, diagonal: float) -> Iterator[tuple[int, Tensor]]:
    """The upper triangle of the dot products of rows (N, D), in chunks (B, N - start) of rows from `start` on.

    `diagonal` replaces the product of a row with itself. The caller may overwrite the chunks.
    """
    for start in range(0, len(rows), size := max(1, METRIC_CHUNK_BYTES // (4 * len(rows)))):
        similarity = rows[start : start + size] @ rows[start:].T
        similarity.diagonal().fill_(diagonal)
        yield start, similarity


class Neighbours(NamedTuple):
    """The nearest other rows of each row, nearest first."""

    similarity: Tensor  # (N, k) cosines
    indices: Tensor  # (N, k)

    def nearest(self, k: int) -> "Neighbours":
        """The first k neighbours."""
        return Neighbours(self.similarity[:, :k], self.indices[:, :k])


def nearest_neighbours(x: Tensor, k: int = 10) -> Neighbours:
    """The k (at most N - 1) other rows of x (N, D) with the largest cosine to each; ties go to the earlier row."""
    k = min(k, len(x) - 1)
    similarity, indices = nearest_by_cosine(x, x, k + 1)
    other = indices != torch.arange(len(x))[:, None]
    other[:, k] &= ~other.all(1)  # among k + 1 duplicates, a row itself may not be found
    return Neighbours(similarity[other].view(-1, k), indices[other].view(-1, k))


class NeighbourhoodMetrics(NamedTuple):
    """Metrics of a k-nearest-neighbour graph."""

    k: int
    hubness: float  # skewness of the k-occurrence: 0 is symmetric, above 2 means a few hubs
    orphans: float  # share of rows among no other row's k nearest
    duplicates: float  # share of rows whose nearest neighbour has a cosine of at least `duplicate`
    same_class: float | None  # share of neighbours of the same class, over rows of known class
    chance: float | None  # that share for neighbours drawn at random


def neighbourhood_metrics(
    near: Neighbours, labels: Tensor | None = None, *, duplicate: float = 0.95
) -> NeighbourhoodMetrics:
    """Metrics of the graph of N rows with labels (N,); a label below 0 is unknown."""
    occurrence = near.indices.flatten().bincount(minlength=len(near.indices)).double()
    centred = occurrence - occurrence.mean()
    deviation = centred.square().mean().sqrt().clamp_min(1e-12)
    return NeighbourhoodMetrics(
        k=near.indices.shape[1],
        hubness=float((centred / deviation).pow(3).mean()),
        orphans=float((occurrence == 0).double().mean()),
        duplicates=float((near.similarity[:, 0] >= duplicate).double().mean()),
        same_class=same_class_share(near, labels) if labels is not None else None,
        chance=chance_same_class(labels) if labels is not None else None,
    )


def same_class_share(near: Neighbours, labels: Tensor) -> float:
    """Share of neighbour pairs with known labels (N,) that have the same one; nan where none is known."""
    mine, theirs = labels[:, None], labels[near.indices]
    known = (mine >= 0) & (theirs >= 0)
    return float(((mine == theirs) & known).sum() / known.sum())


def chance_same_class(labels: Tensor) -> float:
    """Share of all pairs of different rows with known labels (N,) that have the same one."""
    counts = labels[labels >= 0].bincount().double()
    total = counts.sum()
    return float((counts * (counts - 1)).sum() / (total * (total - 1)))


class SimilarityPrecision(NamedTuple):
    """Share of same-class pairs in bins of cosine."""

    edges: Tensor  # (41,)
    precision: Tensor  # (40,), nan in empty bins
    pairs: Tensor  # (40,)


def precision_by_similarity(x: Tensor, labels: Tensor) -> SimilarityPrecision:
    """For each bin of cosine the share of same-class pairs, averaged over the classes that have pairs.

    x (N, D), labels (N,); labels below 0 and pairs of at least `IDENTICAL_COSINE` are left out.
    """
    order = labels.argsort(stable=True)[int((labels < 0).sum()) :]  # so that a class has adjacent columns
    rows, labels = l2_normalise(x[order]).float(), labels[order].int()
    sizes = labels.bincount()
    begins = [0, *sizes.cumsum(0).tolist()]
    pairs, same = torch.zeros(2, len(sizes), SIMILARITY_BINS + 1, dtype=torch.int64)
    for start, similarity in similarity_chunks(rows, 1.0):
        others, inside = labels[start:], len(similarity)
        height = max(1, BIN_CHUNK // len(others))
        for part, mine in zip(torch.split(similarity, height), torch.split(others[:inside], height), strict=True):
            cell = bin_indices(part)
            pairs += class_bin_counts(cell, mine[:, None], len(sizes)) + class_bin_counts(
                cell[:, inside:], others[inside:], len(sizes)
            )
            for own in torch.unique(mine).tolist():
                first, last = max(begins[own] - start, 0), begins[own + 1] - start
                block = cell[mine == own, first:last]
                twice = block.flatten().bincount(minlength=SIMILARITY_BINS + 1)  # a pair and its mirror image
                same[own] += 2 * twice - block[:, : max(inside - first, 0)].flatten().bincount(
                    minlength=SIMILARITY_BINS + 1
                )
    pairs, same = pairs[:, :SIMILARITY_BINS], same[:, :SIMILARITY_BINS]
    shares = same.double() / pairs
    return SimilarityPrecision(torch.linspace(-1, 1, SIMILARITY_BINS + 1), shares.nanmean(0).float(), pairs.sum(0))


def bin_indices(similarity: Tensor) -> Tensor:
    """The bin of each similarity, int32; `SIMILARITY_BINS` for duplicates. Overwrites the similarities."""
    duplicates = similarity >= IDENTICAL_COSINE
    return (
        similarity.add_(1)
        .div_(BIN_WIDTH)
        .int()
        .clamp_(0, SIMILARITY_BINS - 1)
        .masked_fill_(duplicates, SIMILARITY_BINS)
    )


def class_bin_counts(cell: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Counts (classes, SIMILARITY_BINS + 1) of the bins `cell` (B, M) by class, from int32 labels (B, 1) or (M,)."""
    keys = (labels * (SIMILARITY_BINS + 1) + cell).flatten()
    return keys.bincount(minlength=classes * (SIMILARITY_BINS + 1)).view(classes, SIMILARITY_BINS + 1)
