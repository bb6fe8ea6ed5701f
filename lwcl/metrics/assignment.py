"""The nearest centroid of each row, by float32; for unit rows and many centroids bfloat16 decides where that is proven.

A product in bfloat16 errs by at most what `lwcl.metrics.nearest` says of it. Where the best centroid is ahead of the
second by more than both can err, float32 would say the same; other rows, a few in a hundred, are asked in float32. N
rows of width D, k centroids.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lwcl.kernels import bfloat16
from lwcl.metrics.nearest import block_topk

ASSIGNMENT_CHUNK_BYTES = 64 * 2**20
NORM_CHUNK_ROWS = 4096  # whose lengths are measured at a time
MIN_BF16_CENTROIDS = 200  # centroids from which bfloat16 pays


class AssignmentRows(NamedTuple):
    """Rows, and what is asked of them in each assignment."""

    exact: Tensor  # (N, D) float32
    squares: Tensor  # (N,) squared lengths: to measure them takes as long as the products with 100 centroids
    rounded: Tensor | None  # (N, D) bfloat16, of unit rows where it pays
    moved: Tensor  # (N,) how far rounding moved a row; 0 without


def prepare_rows(exact: Tensor, *, halve: bool = False) -> AssignmentRows:
    """What `nearest_centroids` takes, of rows (N, D) float32. `halve`: they have length 1, as the centroids will."""
    parts = torch.split(exact, NORM_CHUNK_ROWS)
    squares = torch.cat([part.square().sum(1) for part in parts])
    if not halve or not bfloat16.bf16_is_native():
        return AssignmentRows(exact, squares, None, torch.zeros_like(squares))
    rounded = exact.bfloat16()
    pairs = zip(parts, torch.split(rounded, NORM_CHUNK_ROWS), strict=True)
    return AssignmentRows(exact, squares, rounded, torch.cat([(part - near).norm(dim=1) for part, near in pairs]))


def nearest_centroids(rows: AssignmentRows, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Labels (N,) and squared distances (N,) of the rows to the nearest of (k, D), both as they are."""
    half = centroids.square().sum(1) / 2
    if rows.rounded is not None and len(half) >= MIN_BF16_CENTROIDS:
        labels, score = assign_bfloat16(rows, rows.rounded, centroids, half)
    else:
        labels, score = assign_float32(rows.exact, centroids, half)
    return labels, (rows.squares - 2 * score).clamp_min(0)


def assign_float32(exact: Tensor, centroids: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """Labels (N,) and scores (N,): the largest of dot product less half the centroid's squared length (k,)."""
    parts = torch.split(exact, max(1, ASSIGNMENT_CHUNK_BYTES // (4 * len(centroids))))
    found = [torch.addmm(-half, part, centroids.T).max(1) for part in parts]
    return torch.cat([best.indices for best in found]), torch.cat([best.values for best in found])


def assign_bfloat16(rows: AssignmentRows, rounded: Tensor, centroids: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """The same of unit rows and unit centroids, in bfloat16 where that is proven: labels (N,) and scores (N,)."""
    narrow = centroids.bfloat16()
    far = float((centroids - narrow).norm(dim=1).max())
    eps = torch.finfo(torch.bfloat16).eps / 2  # of the result; of float32's sums, here and as `plainly` makes them:
    of_all = far + float(half.max() - half.min()) + 2 * centroids.shape[1] * torch.finfo(torch.float32).eps
    parts = torch.split(rounded, max(1, ASSIGNMENT_CHUNK_BYTES // (2 * len(centroids))))
    found = [block_topk(part @ narrow.T, 2) for part in parts]
    values, labels = torch.cat([best for best, _ in found]).float(), torch.cat([place[:, 0] for _, place in found])
    errors = (1 + far) * rows.moved + of_all
    unsure = (values[:, 0] - values[:, 1] <= 2 * errors + eps * (1 + eps) * values.abs().sum(1)).nonzero()[:, 0]
    labels[unsure], _ = assign_float32(rows.exact[unsure], centroids, half)
    own = zip(torch.split(rows.exact, NORM_CHUNK_ROWS), torch.split(labels, NORM_CHUNK_ROWS), strict=True)
    return labels, torch.cat([(part * centroids[label]).sum(1) for part, label in own]) - half[labels]
