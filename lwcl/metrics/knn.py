"""k-nearest-neighbour classification of features, exact and in chunks, with bootstrap intervals.

Presets are the papers' protocols: `weighted` is light-moco's (InstDisc's vote, arXiv 1805.01978), `1nn` CompRess's,
`monitor` that of MoCo's CIFAR notebook, `best` ssl-small's best-NN: the maximum over k of a majority vote by Euclidean
distance on raw features.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy
import torch
from torch import Tensor

from lwcl.errors import UsageError
from lwcl.metrics.nearest import NEIGHBOUR_CHUNK_BYTES, nearest_by_cosine

BEST_NN_KS = tuple(range(1, 102, 2))


class Vote(NamedTuple):
    """How neighbours vote: how many, and their weight exp(cosine / temperature), or one vote each."""

    k: int
    temperature: float | None


KNN_PRESETS = {"weighted": Vote(20, 0.07), "1nn": Vote(1, None), "monitor": Vote(200, 0.1)}


def resolve_vote(preset: str, k: int | None, temperature: float | None, images: int) -> Vote | None:
    """The preset's vote with what is not None instead; None for `best`, which tries every k.

    Raises `UsageError` for more neighbours than the bank has `images`, or for what `best` has no use for.
    """
    if k and k > images:
        remedy = f"Give at most {images:,}, or more images."
        raise UsageError(f"--k: {k} neighbours cannot be found among {images:,} images.", remedy=remedy)
    if preset != "best":
        usual = KNN_PRESETS[preset]
        return Vote(k or usual.k, temperature or usual.temperature)
    if k or temperature:
        raise UsageError(
            f"{'--k' if k else '--temperature'} does not go with --preset best.",
            "It tries 1, 3, 5 and so on to 101 neighbours, with one vote each.",
            "Leave one of them out.",
        )
    return None


class KnnScore(NamedTuple):
    """Which of N queries were right: first guess, and any of the first five; and the k that voted."""

    top1: Tensor  # (N,) bool
    top5: Tensor  # (N,) bool
    k: int


def nearest_rows(queries: Tensor, bank: Tensor, k: int, *, euclidean: bool = False) -> tuple[Tensor, Tensor]:
    """The k nearest rows of the bank (M, D) to each query (N, D): similarities and indices, each (N, k), nearest first.

    Similarity is the cosine, or minus the Euclidean distance. Exact; memory is bounded: see `lwcl.metrics.nearest`.
    """
    if not euclidean:
        return nearest_by_cosine(queries, bank, k)
    stretch = max(1, NEIGHBOUR_CHUNK_BYTES // (bank.element_size() * bank.shape[1]))  # cdist copies what it is given
    asked = torch.split(queries, max(1, NEIGHBOUR_CHUNK_BYTES // (bank.element_size() * min(stretch, len(bank)))))
    found = [euclidean_neighbours(some, torch.split(bank, stretch), k) for some in asked]
    return torch.cat([values for values, _ in found]), torch.cat([index for _, index in found])


def euclidean_neighbours(queries: Tensor, parts: Sequence[Tensor], k: int) -> tuple[Tensor, Tensor]:
    """The k rows nearest to each query (n, D) in a bank's parts: minus the Euclidean distances, indices (n, k)."""
    found = [(-torch.cdist(queries, part)).topk(min(k, len(part)), dim=1) for part in parts]
    starts = itertools.accumulate((len(part) for part in parts), initial=0)
    index = torch.cat([near.indices + start for near, start in zip(found, starts, strict=False)], 1)
    values, order = torch.cat([near.values for near in found], 1).sort(dim=1, descending=True, stable=True)
    return values[:, :k], index.gather(1, order[:, :k])


def class_votes(similarity: Tensor, labels: Tensor, classes: int, temperature: float | None) -> Tensor:
    """The classes' shares (N, C), summing to 1, of the vote of neighbours with these similarities and labels (N, k)."""
    weights = (
        torch.ones_like(similarity) if temperature is None else ((similarity - similarity[:, :1]) / temperature).exp()
    )
    shares = torch.zeros(len(labels), classes, dtype=weights.dtype).scatter_add_(1, labels, weights)
    return shares / shares.sum(1, keepdim=True)


def knn_score(queries: Tensor, query_labels: Tensor, bank: Tensor, bank_labels: Tensor, vote: Vote) -> KnnScore:
    """kNN by cosine: queries (N, D) against a labelled bank (M, D). k is at most M."""
    k = min(vote.k, len(bank))
    similarity, index = nearest_rows(queries, bank, k)
    classes = int(max(bank_labels.max(), query_labels.max())) + 1
    return rank_classes(class_votes(similarity, bank_labels[index], classes, vote.temperature), query_labels, k)


def best_knn(queries: Tensor, query_labels: Tensor, bank: Tensor, bank_labels: Tensor) -> KnnScore:
    """ssl-small's best-NN: the best k of 1, 3, ..., 101 for a majority vote by Euclidean distance of raw features."""
    return max(sweep_k(queries, query_labels, bank, bank_labels), key=lambda found: float(found.top1.float().mean()))


def sweep_k(queries: Tensor, query_labels: Tensor, bank: Tensor, bank_labels: Tensor) -> Iterator[KnnScore]:
    """The score of a majority vote for every odd k up to 101 (or the bank's size); ties go to the smallest label."""
    similarity, index = nearest_rows(queries, bank, min(BEST_NN_KS[-1], len(bank)), euclidean=True)
    classes = int(max(bank_labels.max(), query_labels.max())) + 1
    for k in BEST_NN_KS:
        if k <= len(bank):
            yield rank_classes(
                class_votes(similarity[:, :k], bank_labels[index[:, :k]], classes, None), query_labels, k
            )


def rank_classes(shares: Tensor, labels: Tensor, k: int) -> KnnScore:
    """Whether the label comes first, or among five, of the classes by share (N, C); ties go to the smallest label."""
    order = shares.sort(dim=1, descending=True, stable=True).indices
    right = order == labels[:, None]
    return KnnScore(right[:, 0], right[:, :5].any(1), k)


def bootstrap_interval(right: Tensor, seed: int = 0, draws: int = 10_000) -> tuple[float, float]:
    """95% bootstrap interval of the share of right answers (N,) over images.

    Resampling N yes-or-no answers with replacement is a binomial draw, so that is what is drawn.
    """
    generator = numpy.random.default_rng(seed)
    shares = generator.binomial(len(right), float(right.float().mean()), draws) / len(right)
    low, high = numpy.quantile(shares, (0.025, 0.975))
    return float(low), float(high)


def paired_gain(right: Tensor, other: Tensor, seed: int = 0, draws: int = 10_000) -> tuple[float, float, float]:
    """How much oftener one encoder is right than another on the same N images, its 95% paired bootstrap interval."""
    generator = numpy.random.default_rng(seed)
    counts = [int((right & ~other).sum()), int((~right & other).sum())]
    total = len(right)
    shares = numpy.array([*counts, total - sum(counts)]) / total
    drawn = generator.multinomial(total, shares, draws)
    low, high = numpy.quantile((drawn[:, 0] - drawn[:, 1]) / total, (0.025, 0.975))
    return (counts[0] - counts[1]) / total, float(low), float(high)
