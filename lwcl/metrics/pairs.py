"""ssl-small's measures of an encoder by an original and two augmented views of each image (arXiv 2107.14762).

D is the original, SD an augmented view. Alignment and uniformity are Wang & Isola's (arXiv 2005.10242). Intra-class
alignment ranks nothing by itself: in the paper's own figures the better encoders have the worse one. N images, unit
rows of width D, in the same order in all views. Memory beside the rows is that of `neighbourhood.neighbours`.
"""

import math
import statistics
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lwcl import losses
from lwcl.losses import l2_normalise
from lwcl.metrics import knn
from lwcl.metrics.neighbourhood import Neighbours, nearest_neighbours, similarity_chunks

TOP_KS = (1, 2, 3, 4, 5)
PAIR_CHUNK_ROWS = 4096  # that are widened to float64 at a time
FEATURE_SPACES = ("original", "norm", "shift-norm")
#: Bands of the overlap of two crops, from the first to below the second; the last holds 1, too.
HARDNESS_BANDS = {"super-hard": (1e-4, 0.05), "hard": (0.05, 0.25), "easy": (0.25, 1.0)}


def instance_discrimination(
    queries: Tensor, positives: Tensor, ks: tuple[int, ...] = TOP_KS, near: Neighbours | None = None
) -> tuple[float, ...]:
    """Share of queries (N, D) whose positive (N, D) is among the k most similar of it and the other queries, by k.

    (r0, r1) is the paper's d-sd, (r1, r2) its sd-sd: the negatives are the other queries, not other views. The paper's
    code also compares a query with itself, and so reports this top k as its top k + 1. A tie is not found. `near` may
    be the queries' neighbours, at least as many as the largest k, if they are there already: those decide.
    """
    near = nearest_neighbours(queries, max(ks)) if near is None else near
    parts = zip(torch.split(queries, PAIR_CHUNK_ROWS), torch.split(positives, PAIR_CHUNK_ROWS), strict=True)
    found = torch.cat([F.cosine_similarity(mine.double(), theirs.double()) for mine, theirs in parts])
    rank = (near.similarity >= found.to(near.similarity.dtype)[:, None]).sum(1)
    return tuple(float((rank < k).double().mean()) for k in ks)


def intra_class_alignment(x: Tensor, labels: Tensor) -> float:
    """Mean squared distance of pairs of a class, of unit rows (N, D), averaged over classes of at least two images.

    In closed form: the squared distances of n rows sum to n x (sum of squares) - |sum|^2. Never a score by itself.
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
    """`formulas.uniformity` of all pairs of unit rows (N, D), each taken once, in chunks."""
    total = 0.0
    for _, similarity in similarity_chunks(x, -math.inf, later=True):
        terms = similarity.mul_(4).sub_(4).exp_()
        inside = float(terms[:, : len(terms)].sum(dtype=torch.float64))  # both a pair and its mirror image are in here
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
    """The table of ssl-small; what needs a second view or classes is None without."""

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
    """All measures of features (N, D) of the originals and one or two views of them, which are normed here."""
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


def transform_features(x: Tensor, space: str) -> Tensor:
    """Features (N, D) as they are (`original`), of length 1 (`norm`), or less their mean and so (`shift-norm`)."""
    if space not in FEATURE_SPACES:
        raise ValueError(f"A space is one of {', '.join(FEATURE_SPACES)}; got {space}.")
    return x if space == "original" else l2_normalise(x - x.mean(0)) if space == "shift-norm" else l2_normalise(x)


def nn_sweep(
    queries: Tensor, query_labels: Tensor, bank: Tensor, bank_labels: Tensor, *, space: str = "original"
) -> list[knn.KnnScore]:
    """`knn.sweep` (k = 1, 3, ..., 101) in one of `SPACES`; queries and bank are each shifted by their own mean.

    The paper's code shifts each batch of 1,024 by its own mean, so its figure depends on the batches.
    """
    return list(
        knn.sweep_k(transform_features(queries, space), query_labels, transform_features(bank, space), bank_labels)
    )


def best_nn(
    queries: Tensor, query_labels: Tensor, bank: Tensor, bank_labels: Tensor, *, space: str = "original"
) -> knn.KnnScore:
    """ssl-small's best-NN in one of `SPACES`: the best k of a majority vote by Euclidean distance."""
    scores = nn_sweep(queries, query_labels, bank, bank_labels, space=space)
    return max(scores, key=lambda score: float(score.top1.double().mean()))


class DistanceHistogram(NamedTuple):
    """How many values lie between edges (bins + 1,): counts (bins,), the last bin with its upper edge."""

    edges: Tensor
    counts: Tensor


def distance_histograms(first: Tensor, second: Tensor, bins: int = 500) -> tuple[DistanceHistogram, DistanceHistogram]:
    """Histograms of the distances of positive pairs of unit rows (N, D): 1 - cosine, and L2; both from 0 to 2."""
    cosine = 1 - (first * second).sum(1)
    return count_distances(cosine, bins), count_distances((first - second).norm(dim=1), bins)


def count_distances(distances: Tensor, bins: int) -> DistanceHistogram:
    """Counts of distances (N,) in equal bins from 0 to 2."""
    cells = (distances * (bins / 2)).long().clamp(0, bins - 1)
    return DistanceHistogram(torch.linspace(0, 2, bins + 1), cells.bincount(minlength=bins).cpu())


def crop_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union (N,) of crops (N, 4), each top, left, height, width.

    The paper's code adds a pixel to the intersection's sides but not to the areas: equal boxes of 10 x 10 get 1.53.
    """
    low, high = torch.maximum(first[:, :2], second[:, :2]), torch.minimum(bottom_right(first), bottom_right(second))
    shared = (high - low).clamp_min(0).prod(1)
    union = first[:, 2:].prod(1) + second[:, 2:].prod(1) - shared
    return shared / union


def bottom_right(boxes: Tensor) -> Tensor:
    """The bottom and right (N, 2) of boxes (N, 4)."""
    return boxes[:, :2] + boxes[:, 2:]


def hardness_masks(iou: Tensor) -> dict[str, Tensor]:
    """Which pairs of crops, by their overlap (N,), fall in each band of `HARDNESS`: boolean (N,) each."""
    bands = {name: (iou >= low) & (iou < high) for name, (low, high) in HARDNESS_BANDS.items()}
    bands["easy"] |= iou == 1
    return bands
