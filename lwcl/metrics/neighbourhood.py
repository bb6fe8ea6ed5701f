"""The graph of nearest neighbours by cosine: hubs, near-duplicates, and whether neighbours share their class.

Hubness is the skewness of how often a row is a neighbour (Radovanovic et al., JMLR 2010); precision by similarity is
that of ssl-small's code (arXiv 2107.14762). All is exact. Memory beside the features: a copy of them in float32 and one
in bfloat16, and two `CHUNK_BYTES`. N rows of width D.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from lwcl.losses import l2_normalise
from lwcl.metrics.nearest import nearest_by_cosine

SIMILARITY_CHUNK_BYTES = 64 * 2**20
BIN_CHUNK = 2**22  # similarities that are put into bins at a time
SIMILARITY_BINS, BIN_WIDTH, DUPLICATE_COSINE = (
    40,
    0.05,
    0.999,
)  # of the similarity from -1; from the last on, pairs are taken for copies


def similarity_chunks(rows: Tensor, own: float, each: int = 4, *, later: bool = False) -> Iterator[tuple[int, Tensor]]:
    """Dot products of rows (N, D) with all in chunks (B, N), each with the number of its first row.

    `own` replaces that of a row with itself. `later`: with the chunk's own rows and those after them, (B, N - first).
    The chunks are the caller's to overwrite. `each` is how many bytes the caller needs for a dot product.
    """
    for start in range(0, len(rows), size := max(1, SIMILARITY_CHUNK_BYTES // (each * len(rows)))):
        first = start if later else 0
        similarity = rows[start : start + size] @ rows[first:].T
        similarity.diagonal(start - first).fill_(own)
        yield start, similarity


class Neighbours(NamedTuple):
    """The nearest other rows of each row, nearest first: cosines and indices (N, k)."""

    similarity: Tensor
    indices: Tensor

    def nearest(self, k: int) -> "Neighbours":
        """The k nearest of them."""
        return Neighbours(self.similarity[:, :k], self.indices[:, :k])


def nearest_neighbours(x: Tensor, k: int = 10) -> Neighbours:
    """The k (at most N - 1) other rows of x (N, D) with the largest cosine to each; a tie goes to the earlier row."""
    k = min(k, len(x) - 1)
    similarity, indices = nearest_by_cosine(x, x, k + 1)
    other = indices != torch.arange(len(x))[:, None]
    other[:, k] &= ~other.all(1)  # of k + 1 copies, a row itself may not be among the first
    return Neighbours(similarity[other].view(-1, k), indices[other].view(-1, k))


class NeighbourhoodMetrics(NamedTuple):
    """What a graph of neighbours says."""

    k: int
    hubness: float  # skewness of how often a row is among the k nearest of another: 0 evenly, above 2 hubs
    orphans: float  # share of rows that are among no other's k nearest
    duplicates: float  # share of rows whose nearest neighbour is at least this similar
    same_class: float | None  # share of neighbours that share the class, over rows of known class
    chance: float | None  # that share of neighbours drawn blindly


def neighbourhood_metrics(
    found: Neighbours, labels: Tensor | None = None, *, duplicate: float = 0.95
) -> NeighbourhoodMetrics:
    """Measures of a graph of N rows, with classes (N,) of which those below 0 are unknown."""
    occurrence = found.indices.flatten().bincount(minlength=len(found.indices)).double()
    centred = occurrence - occurrence.mean()
    deviation = centred.square().mean().sqrt().clamp_min(1e-12)
    return NeighbourhoodMetrics(
        k=found.indices.shape[1],
        hubness=float((centred / deviation).pow(3).mean()),
        orphans=float((occurrence == 0).double().mean()),
        duplicates=float((found.similarity[:, 0] >= duplicate).double().mean()),
        same_class=same_class_share(found, labels) if labels is not None else None,
        chance=chance_same_class(labels) if labels is not None else None,
    )


def same_class_share(found: Neighbours, labels: Tensor) -> float:
    """Share of neighbour pairs of known classes (N,) that share theirs; nan where none is known."""
    mine, theirs = labels[:, None], labels[found.indices]
    known = (mine >= 0) & (theirs >= 0)
    return float(((mine == theirs) & known).sum() / known.sum())


def chance_same_class(labels: Tensor) -> float:
    """Share of all pairs of different rows of known class (N,) that share it."""
    counts = labels[labels >= 0].bincount().double()
    total = counts.sum()
    return float((counts * (counts - 1)).sum() / (total * (total - 1)))


class SimilarityPrecision(NamedTuple):
    """Share of same-class pairs by similarity: edges (41,), precision (40,), nan where no pair is, pairs (40,)."""

    edges: Tensor
    precision: Tensor
    pairs: Tensor


def precision_by_similarity(x: Tensor, labels: Tensor) -> SimilarityPrecision:
    """For each bin of cosine: the share of a class's pairs that share the class, averaged over classes with pairs.

    x (N, D), labels (N,) of which those below 0 are left out. Pairs from 0.999 on are left out, too: copies.
    """
    order = labels.argsort(stable=True)[int((labels < 0).sum()) :]  # so the columns of a class lie together
    rows, labels = l2_normalise(x[order]).float(), labels[order].int()
    sizes = labels.bincount()
    begins = [0, *sizes.cumsum(0).tolist()]
    pairs, same = torch.zeros(2, len(sizes), SIMILARITY_BINS + 1, dtype=torch.int64)
    for start, similarity in similarity_chunks(rows, 1.0, later=True):
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
    """The bin of each similarity, int32; `BINS` for copies. The similarities are overwritten."""
    copies = similarity >= DUPLICATE_COSINE
    return similarity.add_(1).div_(BIN_WIDTH).int().clamp_(0, SIMILARITY_BINS - 1).masked_fill_(copies, SIMILARITY_BINS)


def class_bin_counts(cell: Tensor, labels: Tensor, classes: int) -> Tensor:
    """How many bins (B, M) there are of each class and kind: (classes, BINS + 1), of int32 labels (B, 1) or (M,)."""
    keys = (labels * (SIMILARITY_BINS + 1) + cell).flatten()
    return keys.bincount(minlength=classes * (SIMILARITY_BINS + 1)).view(classes, SIMILARITY_BINS + 1)
