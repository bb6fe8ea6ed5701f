"""Near-duplicates and outliers among embeddings (N, D), by the cosine of nearest neighbours."""

import torch
from torch import Tensor

from lwcl.metrics.nearest import nearest_by_cosine

MAX_DUPLICATE_NEIGHBOURS = 10  # of each image that are looked at
OUTLIER_NEIGHBOURS = 5  # whose mean cosine tells how typical an image is


def neighbours_without_self(rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest other rows of each row: cosines and indices (N, k); k < N."""
    cosines, index = nearest_by_cosine(rows, rows, k + 1)
    own = index == torch.arange(len(rows))[:, None]
    own[~own.any(1), -1] = True  # among many equal rows, the row itself may not be listed
    return cosines[~own].view(len(rows), k), index[~own].view(len(rows), k)


def near_duplicates(rows: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Pairs of rows with a cosine of at least `threshold`, the most similar first: cosines (P,), indices (P, 2)."""
    cosines, index = neighbours_without_self(rows, min(MAX_DUPLICATE_NEIGHBOURS, len(rows) - 1))
    first, column = (cosines >= threshold).nonzero(as_tuple=True)
    pairs = torch.stack([first, index[first, column]], 1).sort(1).values
    values = cosines[first, column]
    pairs, inverse = torch.unique(pairs, dim=0, return_inverse=True)
    values = torch.zeros(len(pairs), dtype=values.dtype).index_copy_(0, inverse, values)
    order = values.argsort(descending=True, stable=True)
    return values[order], pairs[order]


def outliers(rows: Tensor) -> tuple[Tensor, Tensor]:
    """All rows, the least typical first: mean cosines to their nearest rows (N,), and indices (N,)."""
    cosines, _ = neighbours_without_self(rows, min(OUTLIER_NEIGHBOURS, len(rows) - 1))
    values, index = cosines.mean(1).sort(stable=True)
    return values, index
