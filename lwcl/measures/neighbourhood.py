"""The graph of nearest neighbours by cosine: hubs, near-duplicates, and whether neighbours share their class.

Hubness is the skewness of how often a row is a neighbour (Radovanovic et al., JMLR 2010); precision by similarity is
that of ssl-small's code (arXiv 2107.14762). All is exact. Memory beside the features: one float32 copy of them and
`CHUNK_BYTES` of similarities. N rows of width D.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from lwcl.formulas import unit

CHUNK_BYTES = 64 * 2**20
BINS, WIDTH, IDENTICAL = 40, 0.05, 0.999  # of the similarity from -1; from the last on, pairs are taken for copies


def similarities(queries: Tensor, rows: Tensor, each: int = 4) -> Iterator[tuple[int, Tensor]]:
    """Dot products of queries (N, D) with rows (M, D) in chunks (B, M), each with the number of its first query.

    The chunks are the caller's to overwrite. `each` is how many bytes the caller needs for a dot product.
    """
    for start in range(0, len(queries), size := max(1, CHUNK_BYTES // (each * len(rows)))):
        yield start, queries[start : start + size] @ rows.T


def to_others(rows: Tensor, own: float, each: int = 4) -> Iterator[tuple[int, Tensor]]:
    """`similarities` of rows (N, D) with themselves, that of a row with itself replaced by `own`."""
    for start, similarity in similarities(rows, rows, each):
        similarity.diagonal(start).fill_(own)
        yield start, similarity


class Neighbours(NamedTuple):
    """The nearest other rows of each row, nearest first: cosines and indices (N, k)."""

    similarity: Tensor
    indices: Tensor


def neighbours(x: Tensor, k: int = 10) -> Neighbours:
    """The k (at most N - 1) other rows of x (N, D) with the largest cosine to each."""
    rows, k = unit(x).float(), min(k, len(x) - 1)
    found = [similarity.topk(k, dim=1) for _, similarity in to_others(rows, -torch.inf)]
    return Neighbours(torch.cat([f.values for f in found]), torch.cat([f.indices for f in found]))


class Neighbourhood(NamedTuple):
    """What a graph of neighbours says."""

    k: int
    hubness: float  # skewness of how often a row is among the k nearest of another: 0 evenly, above 2 hubs
    orphans: float  # share of rows that are among no other's k nearest
    duplicates: float  # share of rows whose nearest neighbour is at least this similar
    same_class: float | None  # share of neighbours that share the class, over rows of known class
    chance: float | None  # that share of neighbours drawn blindly


def examine(found: Neighbours, labels: Tensor | None = None, *, duplicate: float = 0.95) -> Neighbourhood:
    """Measures of a graph of N rows, with classes (N,) of which those below 0 are unknown."""
    occurrence = found.indices.flatten().bincount(minlength=len(found.indices)).double()
    centred = occurrence - occurrence.mean()
    deviation = centred.square().mean().sqrt().clamp_min(1e-12)
    return Neighbourhood(
        k=found.indices.shape[1],
        hubness=float((centred / deviation).pow(3).mean()),
        orphans=float((occurrence == 0).double().mean()),
        duplicates=float((found.similarity[:, 0] >= duplicate).double().mean()),
        same_class=same_class(found, labels) if labels is not None else None,
        chance=chance(labels) if labels is not None else None,
    )


def same_class(found: Neighbours, labels: Tensor) -> float:
    """Share of neighbour pairs of known classes (N,) that share theirs; nan where none is known."""
    mine, theirs = labels[:, None], labels[found.indices]
    known = (mine >= 0) & (theirs >= 0)
    return float(((mine == theirs) & known).sum() / known.sum())


def chance(labels: Tensor) -> float:
    """Share of all pairs of different rows of known class (N,) that share it."""
    counts = labels[labels >= 0].bincount().double()
    total = counts.sum()
    return float((counts * (counts - 1)).sum() / (total * (total - 1)))


class Precision(NamedTuple):
    """Share of same-class pairs by similarity: edges (41,), precision (40,), nan where no pair is, pairs (40,)."""

    edges: Tensor
    precision: Tensor
    pairs: Tensor


def precision_by_similarity(x: Tensor, labels: Tensor) -> Precision:
    """For each bin of cosine: the share of a class's pairs that share the class, averaged over classes with pairs.

    x (N, D), labels (N,) of which those below 0 are left out. Pairs from 0.999 on are left out, too: copies.
    """
    rows, labels = unit(x[labels >= 0]).float(), labels[labels >= 0]
    classes = int(labels.max()) + 1
    pairs, same = (torch.zeros(classes * BINS, dtype=torch.int64, device=x.device) for _ in range(2))
    for start, similarity in to_others(rows, 1.0, each=32):
        mine = labels[start : start + len(similarity), None]
        cell = mine * BINS + ((similarity + 1) / WIDTH).long().clamp(0, BINS - 1)
        other = similarity < IDENTICAL
        pairs += cell[other].bincount(minlength=len(pairs))
        same += cell[other & (mine == labels)].bincount(minlength=len(pairs))
    shares = (same.double() / pairs).reshape(classes, BINS)
    edges = torch.linspace(-1, 1, BINS + 1)
    return Precision(edges, shares.nanmean(0).float().cpu(), pairs.reshape(classes, BINS).sum(0).cpu())
