"""The nearest neighbours by cosine, exactly: where it pays found in bfloat16, proven, and ranked in float64.

A product in half precision finds more candidates than are asked for. Its error is bounded: for unit queries q and rows
b of the bank, which rounding makes q + e and b + f, |(q + e)(b + f) - q b| <= |f| + |e| (|b| + |f|), and |e|, |f| and
|b| are measured; to that come the roundings of the sum of D products in float32 (Higham, Accuracy and Stability of
Numerical Algorithms, 2002, section 3.1) and of the result. Where the last candidate must lie below the k-th, no other
row can belong. Queries for which that is not proven take the plain way: candidates in float32, ranked alike, and where
these are not proven either, in float64. More than `SPARE` ties beyond the k-th in that are told apart by chance.

The bank's mean is subtracted from it: that shifts all similarities of a query alike, and makes |b|, so the bound,
smaller where all features point much the same way. Similarities are made a chunk of the bank and of the queries at a
time. N queries, M rows of the bank, width D.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lwcl.kernels import bfloat16
from lwcl.losses import l2_normalise

NEIGHBOUR_CHUNK_BYTES = 64 * 2**20  # of rounded rows, and of similarities, at a time
MAX_BF16_NEIGHBOURS = 48  # neighbours up to which looking for more than are wanted pays
SPARE_CANDIDATES = 32  # candidates beyond those wanted; in half precision, beyond twice as many
SEARCH_BLOCKS = 16  # similarities are searched by the maxima of so many at a time
CACHE_ROWS = 128  # rows of the bank that are scaled and rounded at once: they stay in a core's cache
SAMPLE_ROWS = 4096  # rows whose mean stands for the bank's, and that show whether half precision proves anything


class NeighbourCandidates(NamedTuple):
    """Rows of the bank that may be the nearest to n queries, and what is known of them."""

    values: Tensor  # (n, m) similarities, largest first; up to a constant of the query
    places: Tensor  # (n, m)
    bound: Tensor  # (n, m) how far a value can be from the truth

    def proven(self, k: int) -> Tensor:
        """For which queries the k nearest are among the candidates: (n,) bool."""
        return self.least(k)[:, 0] > self.values[:, -1] + self.bound[:, -1]

    def able(self, k: int) -> list[int]:
        """How many candidates of each query may be among its k nearest."""
        counts: list[int] = (self.values + self.bound >= self.least(k)).sum(1).tolist()
        return counts

    def least(self, k: int) -> Tensor:
        """What the similarity of a query's k-th neighbour is at least: (n, 1)."""
        return self.values[:, k - 1 : k] - self.bound[:, k - 1 : k]


def nearest_by_cosine(queries: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k rows of the bank (M, D) of the largest cosine with each query (N, D): cosines, indices (N, k); k <= M.

    On the CPU. ImageNet's bank of 1,281,167 x 1280 is 6.6 GB in float32, its 50,000 queries 0.26 GB: beside these it
    takes 0.26 GB for the queries scaled and 0.13 rounded, 0.1 for their candidates at k = 20, and two `CHUNK_BYTES`.
    """
    wide = l2_normalise(queries)
    cosines, index = wide.new_empty(len(wide), k), torch.empty(len(wide), k, dtype=torch.int64)
    left = torch.arange(len(wide))
    sample = bank[:: -(-len(bank) // SAMPLE_ROWS)]
    centre = l2_normalise(sample).mean(0)

    def rank(rows: list[int], found: NeighbourCandidates) -> None:
        for row, able, places in zip(rows, found.able(k), found.places, strict=True):
            cosines[row], index[row] = rerank(queries[row], bank, places[:able], k)

    if (
        k <= MAX_BF16_NEIGHBOURS
        and bfloat16.bf16_is_native()
        and bfloat16_candidates(wide[:CACHE_ROWS], sample, centre, k).proven(k).float().mean() > 0.5
    ):
        found = bfloat16_candidates(wide, bank, centre, k)
        sure = found.proven(k)
        rank(sure.nonzero()[:, 0].tolist(), NeighbourCandidates(*(column[sure] for column in found)))
        left = (~sure).nonzero()[:, 0]
    for precision in (wide.dtype, torch.float64):  # the second for those that nearly tie with too many in the first
        if len(left):
            found = float32_candidates(wide[left].to(precision), bank, k)
            rank(left.tolist(), found)
            left = left[~found.proven(k)] if found.values.shape[1] < len(bank) else left[:0]
    return cosines, index


def bfloat16_candidates(queries: Tensor, bank: Tensor, centre: Tensor, k: int) -> NeighbourCandidates:
    """The candidates for k neighbours in bfloat16; none is proven where they are the whole bank."""
    return top_candidates(queries, bank, centre, min(len(bank), 2 * k + SPARE_CANDIDATES), torch.bfloat16)


def float32_candidates(queries: Tensor, bank: Tensor, k: int) -> NeighbourCandidates:
    """The candidates for k neighbours in the queries' own precision: a few to spare, as it too rounds."""
    return top_candidates(
        queries, bank, torch.zeros(bank.shape[1]), min(len(bank), k + SPARE_CANDIDATES), queries.dtype
    )


def top_candidates(
    queries: Tensor, bank: Tensor, centre: Tensor, count: int, precision: torch.dtype
) -> NeighbourCandidates:
    """The `count` rows of the largest similarity to each of n unit queries, as this precision computes it."""
    narrow = queries.to(precision)
    values = torch.empty(len(queries), 0, dtype=precision)
    index = torch.empty(len(queries), 0, dtype=torch.int64)
    radius = error = 0.0
    rows = rows_per_chunk(bank.shape[1] * precision.itemsize)
    for start, part in zip(range(0, len(bank), rows), torch.split(bank, rows), strict=True):
        rounded, longest, farthest = round_bank_rows(part, centre, precision)
        radius, error = max(radius, longest), max(error, farthest)
        fresh = [block_topk(some @ rounded.T, count) for some in torch.split(narrow, rows_per_chunk(8 * len(part)))]
        values = torch.cat([values, torch.cat([each[0] for each in fresh])], 1)
        index = torch.cat([index, torch.cat([each[1] for each in fresh]) + start], 1)
        values, order = values.topk(min(count, values.shape[1]), dim=1)
        index = index.gather(1, order)
    pairs = zip(torch.split(queries, SAMPLE_ROWS), torch.split(narrow, SAMPLE_ROWS), strict=True)
    of_queries = torch.cat([(exact - rounded).norm(dim=1, keepdim=True) for exact, rounded in pairs])
    of_sums = bank.shape[1] * torch.finfo(torch.promote_types(precision, torch.float32)).eps  # and of the scaling
    values = values.to(queries.dtype)
    of_result = torch.finfo(precision).eps / 2 * (1 + torch.finfo(precision).eps) * values.abs()
    return NeighbourCandidates(values, index, error + of_queries * (radius + error) + of_sums + of_result)


def rows_per_chunk(each: int) -> int:
    """How many rows of `each` bytes fit into `CHUNK_BYTES`, in whole `BLOCKS` if there is one."""
    count = max(1, NEIGHBOUR_CHUNK_BYTES // each)
    return count - count % SEARCH_BLOCKS or count


def round_bank_rows(part: Tensor, centre: Tensor, precision: torch.dtype) -> tuple[Tensor, float, float]:
    """Unit rows of the bank less its centre, rounded; how long they are at most, and how far rounding moved one.

    Both are 0 where nothing is rounded.
    """
    rounded = torch.empty_like(part, dtype=precision)
    radius, error = [torch.zeros(())], [torch.zeros(())]
    for rows, into in zip(torch.split(part, CACHE_ROWS), torch.split(rounded, CACHE_ROWS), strict=True):
        exact = l2_normalise(rows).sub_(centre)
        into.copy_(exact)
        if precision != exact.dtype:
            radius.append(exact.norm(dim=1).max())
            error.append(exact.sub_(into).norm(dim=1).max())
    return rounded, float(max(radius)), float(max(error))


def block_topk(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of each row (n, m), in no order that matters, and where they are; all if there are fewer.

    They lie in the `count` blocks of the largest maxima, and blocks are found much sooner than elements.
    """
    blocks = scores.shape[1] // SEARCH_BLOCKS
    if count >= blocks or scores.shape[1] % SEARCH_BLOCKS:
        values, places = scores.topk(min(count, scores.shape[1]), dim=1)
        return values, places
    best = scores.view(-1, SEARCH_BLOCKS, blocks).amax(1).topk(count, dim=1).indices
    places = (best[:, None] + blocks * torch.arange(SEARCH_BLOCKS)[:, None]).flatten(1)
    values, order = scores.gather(1, places).topk(count, dim=1)
    return values, places.gather(1, order)


def rerank(query: Tensor, bank: Tensor, index: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best candidates of a query (D) by float64 cosine, the best first, ties by their place: cosines, indices."""
    chosen = index.sort().values
    rows = bank.index_select(0, chosen).double()  # twice as fast as by brackets
    cosines = rows @ l2_normalise(query.double()) / rows.norm(dim=1).clamp_min(1e-12)
    best, order = cosines.sort(descending=True, stable=True)
    return best[:k], chosen[order[:k]]
