"""k-nearest-neighbour classification of features, exact and in chunks.

N queries, M rows of the bank, width D, C classes.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from lwcl.metrics.bootstrap import Accuracy, mean_top1, rank_accuracy
from lwcl.metrics.nearest import METRIC_CHUNK_BYTES, nearest_by_cosine

BEST_NN_KS = tuple(range(1, 102, 2))
MAX_COPIES = 256  # copies of a query for which other neighbours are sought in their place


NO_COPIES: Mapping[int, Sequence[int]] = MappingProxyType({})


class KnnScore(NamedTuple):
    """Which queries k neighbours classify correctly."""

    accuracy: Accuracy
    k: int


def nearest_by_distance(queries: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest rows of the bank (M, D) to each query (N, D): minus the distances, and indices, (N, k)."""
    bank_rows = max(1, METRIC_CHUNK_BYTES // (bank.element_size() * bank.shape[1]))  # cdist copies what it is given
    query_rows = max(1, METRIC_CHUNK_BYTES // (bank.element_size() * min(bank_rows, len(bank))))
    chunks = [_nearest_in_chunks(some, torch.split(bank, bank_rows), k) for some in torch.split(queries, query_rows)]
    return torch.cat([values for values, _ in chunks]), torch.cat([index for _, index in chunks])


def _nearest_in_chunks(queries: Tensor, chunks: Sequence[Tensor], k: int) -> tuple[Tensor, Tensor]:
    """The same for a few queries, the bank in chunks."""
    nearest = [(-torch.cdist(queries, chunk)).topk(min(k, len(chunk)), dim=1) for chunk in chunks]
    starts = itertools.accumulate((len(chunk) for chunk in chunks), initial=0)
    index = torch.cat([found.indices + start for found, start in zip(nearest, starts, strict=False)], 1)
    values, order = torch.cat([found.values for found in nearest], 1).sort(dim=1, descending=True, stable=True)
    return values[:, :k], index.gather(1, order[:, :k])


def class_votes(similarity: Tensor, labels: Tensor, classes: int, temperature: float | None) -> Tensor:
    """Shares (N, C) of the vote, summing to 1, of neighbours with these similarities and labels (N, k).

    A neighbour of similarity -inf has no vote; where none has one, all shares are 0.
    """
    weights = (
        similarity.isfinite().to(similarity.dtype)
        if temperature is None
        else ((similarity - similarity[:, :1]) / temperature).exp().nan_to_num(0.0)
    )
    votes = torch.zeros(len(labels), classes, dtype=weights.dtype).scatter_add_(1, labels, weights)
    return (votes / votes.sum(1, keepdim=True)).nan_to_num(0.0)


def count_with(k: int, copies: Mapping[int, Sequence[int]], bank: Tensor) -> int:
    """How many neighbours to look for so that k remain without copies."""
    return min(len(bank), k + min(MAX_COPIES, max(map(len, copies.values()), default=0)))


def without_copies(
    similarity: Tensor, index: Tensor, copies: Mapping[int, Sequence[int]], k: int
) -> tuple[Tensor, Tensor]:
    """The k nearest (N, k) of the neighbours found that are no copies; of similarity -inf where there are too few."""
    for query, rows in copies.items():
        similarity[query, torch.isin(index[query], torch.tensor(rows))] = -torch.inf
    if copies:
        similarity, order = similarity.sort(dim=1, descending=True, stable=True)
        index = index.gather(1, order)
    return similarity[:, :k], index[:, :k]


def knn_score(
    queries: Tensor,
    query_labels: Tensor,
    bank: Tensor,
    bank_labels: Tensor,
    *,
    k: int,
    temperature: float | None = None,
    copies: Mapping[int, Sequence[int]] = NO_COPIES,
) -> KnnScore:
    """Accuracy of k neighbours (at most M) by cosine: queries (N, D) against a labelled bank (M, D).

    A neighbour's vote weighs exp(cosine / temperature), or 1 without a temperature. `copies` of a query, rows of the
    bank, are none of its neighbours.
    """
    k = min(k, len(bank))
    similarity, index = without_copies(*nearest_by_cosine(queries, bank, count_with(k, copies, bank)), copies, k)
    votes = class_votes(similarity, bank_labels[index], _class_count(bank_labels, query_labels), temperature)
    return KnnScore(vote_accuracy(votes, query_labels), k)


def vote_accuracy(votes: Tensor, labels: Tensor) -> Accuracy:
    """The accuracy of votes (N, C) for labels (N,); a class that nobody voted for is no answer."""
    return rank_accuracy(votes.masked_fill(votes == 0, -torch.inf), labels)


def best_knn(
    queries: Tensor,
    query_labels: Tensor,
    bank: Tensor,
    bank_labels: Tensor,
    copies: Mapping[int, Sequence[int]] = NO_COPIES,
) -> KnnScore:
    """ssl-small's best-NN: the best k of 1, 3, ..., 101 for a majority vote by Euclidean distance of raw features."""
    scores = sweep_k(queries, query_labels, bank, bank_labels, copies)
    return max(scores, key=lambda score: mean_top1(score.accuracy))


def sweep_k(
    queries: Tensor,
    query_labels: Tensor,
    bank: Tensor,
    bank_labels: Tensor,
    copies: Mapping[int, Sequence[int]] = NO_COPIES,
) -> Iterator[KnnScore]:
    """Accuracy of a majority vote for every odd k up to 101 (or the bank's size); ties go to the smaller label."""
    k = min(BEST_NN_KS[-1], len(bank))
    similarity, index = without_copies(*nearest_by_distance(queries, bank, count_with(k, copies, bank)), copies, k)
    classes = _class_count(bank_labels, query_labels)
    for k in BEST_NN_KS:
        if k <= len(bank):
            votes = class_votes(similarity[:, :k], bank_labels[index[:, :k]], classes, None)
            yield KnnScore(vote_accuracy(votes, query_labels), k)


def _class_count(*labels: Tensor) -> int:
    return 1 + max(int(some.max()) for some in labels)
