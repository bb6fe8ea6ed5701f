"""ssl-small's metrics of an encoder from an original and two augmented views of each image (arXiv 2107.14762).

D is the original, SD an augmented view. Alignment and uniformity are Wang & Isola's (arXiv 2005.10242). Intra-class
alignment alone does not rank encoders: in the paper's own figures the better ones have a worse one. N images, unit
rows of width D, in the same order in all views. Memory besides the rows is that of `nearest_neighbours`.
"""

import math
import statistics
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lwcl import losses
from lwcl.losses import l2_normalise
from lwcl.metrics.neighbourhood import Neighbours, nearest_neighbours, similarity_chunks

TOP_KS = (1, 2, 3, 4, 5)
PAIR_CHUNK_ROWS = 4096  # rows converted to float64 at a time
#: Bands of the IoU of two crops, lower bound included, upper bound excluded except for 1.
HARDNESS_BANDS = {"super-hard": (1e-4, 0.05), "hard": (0.05, 0.25), "easy": (0.25, 1.0)}


def instance_discrimination(
    queries: Tensor, positives: Tensor, ks: tuple[int, ...] = TOP_KS, near: Neighbours | None = None
) -> tuple[float, ...]:
    """For each k the share of queries (N, D) whose positive (N, D) is more similar than all but k - 1 other queries.

    (r0, r1) is the paper's d-sd, (r1, r2) its sd-sd: the negatives are the other queries, not other views. The paper's
    code also counts the query itself as a candidate, so its top-(k + 1) is the top-k here. A tie counts as a miss.
    `near`: the queries' neighbours, at least as many as the largest k, where they were computed before.
    """
    near = nearest_neighbours(queries, max(ks)) if near is None else near
    parts = zip(torch.split(queries, PAIR_CHUNK_ROWS), torch.split(positives, PAIR_CHUNK_ROWS), strict=True)
    cosines = torch.cat([F.cosine_similarity(mine.double(), theirs.double()) for mine, theirs in parts])
    rank = (near.similarity >= cosines.to(near.similarity.dtype)[:, None]).sum(1)
    return tuple(float((rank < k).double().mean()) for k in ks)


def intra_class_alignment(x: Tensor, labels: Tensor) -> float:
    """Mean squared distance of same-class pairs of unit rows (N, D), averaged over classes of two or more images.

    In closed form: the squared distances of n rows sum to n x (sum of squares) - |sum|^2.
    """
    sizes = labels[labels >= 0].bincount().double()
    sums, squares = sizes.new_zeros(len(sizes), x.shape[1]), torch.zeros_like(sizes)
    for part, own in zip(torch.split(x, PAIR_CHUNK_ROWS), torch.split(labels, PAIR_CHUNK_ROWS), strict=True):
        rows, own = part[own >= 0].double(), own[own >= 0]
        sums.index_add_(0, own, rows)
        squares.index_add_(0, own, rows.square().sum(1))
    total = sizes * squares - sums.square().sum(1)
    return float((2 * total / (sizes * (sizes - 1)))[sizes > 1].mean())


def exact_uniformity(x: Tensor) -> float:
    """`losses.uniformity` of unit rows (N, D), in chunks."""
    total = 0.0
    for _, similarity in similarity_chunks(x, -math.inf):
        terms = similarity.mul_(4).sub_(4).exp_()
        inside = float(terms[:, : len(terms)].sum(dtype=torch.float64))  # these pairs occur twice
        total += 2 * float(terms.sum(dtype=torch.float64)) - inside
    return math.log(total / (len(x) * (len(x) - 1)))


def sampled_uniformity(x: Tensor, *, seed: int, samples: int = 128, draws: int = 3) -> float:
    """The paper's uniformity: the mean over `draws` disjoint random subsets of `samples` of the unit rows (N, D).

    Fewer rows give fewer or smaller subsets.
    """
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)).to(x.device)
    subsets = [subset for subset in torch.split(order, samples)[:draws] if len(subset) > 1]
    return statistics.fmean(float(losses.uniformity(x[subset])) for subset in subsets)


class PairMetrics(NamedTuple):
    """The metrics of ssl-small's tables; None where a second view or labels are needed and missing."""

    d_sd: tuple[float, ...]  # instance discrimination, top 1 to 5
    sd_sd: tuple[float, ...] | None
    alignment_d_sd: float
    alignment_sd_sd: float | None
    intra_d: float | None
    intra_sd: float | None
    uniformity_d: float  # sampled, as in the paper
    uniformity_sd: float
    exact_uniformity_d: float


def pair_metrics(
    original: Tensor, first: Tensor, second: Tensor | None = None, labels: Tensor | None = None, *, seed: int
) -> PairMetrics:
    """All metrics of features (N, D) of the originals and one or two views of them, L2-normalised here."""
    original, first = l2_normalise(original), l2_normalise(first)
    second = None if second is None else l2_normalise(second)
    return PairMetrics(
        d_sd=instance_discrimination(original, first),
        sd_sd=None if second is None else instance_discrimination(first, second),
        alignment_d_sd=float(losses.alignment(original, first)),
        alignment_sd_sd=None if second is None else float(losses.alignment(first, second)),
        intra_d=None if labels is None else intra_class_alignment(original, labels),
        intra_sd=None if labels is None else intra_class_alignment(first, labels),
        uniformity_d=sampled_uniformity(original, seed=seed),
        uniformity_sd=sampled_uniformity(first, seed=seed),
        exact_uniformity_d=exact_uniformity(original),
    )


def crop_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union (N,) of crops (N, 4) as (top, left, height, width).

    The paper's code adds a pixel to the intersection's sides but not to the areas: equal boxes of 10 x 10 get 1.53.
    """
    low, high = torch.maximum(first[:, :2], second[:, :2]), torch.minimum(bottom_right(first), bottom_right(second))
    shared = (high - low).clamp_min(0).prod(1)
    union = first[:, 2:].prod(1) + second[:, 2:].prod(1) - shared
    return shared / union


def bottom_right(boxes: Tensor) -> Tensor:
    """Bottom and right (N, 2) of boxes (N, 4)."""
    return boxes[:, :2] + boxes[:, 2:]


def hardness_masks(iou: Tensor) -> dict[str, Tensor]:
    """Which pairs of crops fall into each of `HARDNESS_BANDS` by their IoU (N,): a boolean mask (N,) each."""
    bands = {name: (iou >= low) & (iou < high) for name, (low, high) in HARDNESS_BANDS.items()}
    bands["easy"] |= iou == 1
    return bands
