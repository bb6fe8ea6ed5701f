"""Losses and formulas, as pure functions of tensors.

B images in a batch, D the width of an embedding, K keys in a queue, N samples, C classes. Similarities are cosines: dot
products of unit vectors. Losses are computed in float32 or wider, whatever the precision of the encoder.
"""

import functools
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class SmoothedTarget(NamedTuple):
    """A target for the logits [positive, queue]: mass on the positive, on keys by rank of similarity, on every key."""

    positive: float
    ranks: tuple[float, ...]
    each: float = 0.0


def positive_negative_cosines(queries: Tensor, keys: Tensor, queue: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines of queries (B, D) with their keys (B, D) and with the queue (K, D): (B,) and (B, K), at least float32."""
    with torch.autocast(queries.device.type, enabled=False):
        queries, keys = upcast(queries), upcast(keys)
        return (queries * keys).sum(1), queries @ queue.to(queries.dtype).T


def upcast(x: Tensor) -> Tensor:
    """`x` in float32, or in float64 if it is."""
    return x if x.dtype == torch.float64 else x.float()


def info_nce(positive: Tensor, negative: Tensor, temperature: float) -> Tensor:
    """Mean cross-entropy with the positive as the one target (MoCo, arXiv 1911.05722, eq. 1); (B,) and (B, K) -> ()."""
    return smoothed_info_nce(positive, negative, temperature, SmoothedTarget(1.0, ()))


def smoothed_info_nce(positive: Tensor, negative: Tensor, temperature: float, target: SmoothedTarget) -> Tensor:
    """Mean cross-entropy of softmax([positive, negative] / T) with a smoothed target (light-moco, `moco/builder.py`).

    (B,) and (B, K) -> (). Keys are ranked by the query's own similarity to them. No dense target is made: the loss is
    log-sum-exp(z) - sum of mass x z over what has mass.
    """
    z_positive, z_negative = positive / temperature, negative / temperature
    loss = torch.logaddexp(z_positive, z_negative.logsumexp(1)) - target.positive * z_positive
    if target.ranks:
        nearest = z_negative.topk(len(target.ranks), dim=1).values
        loss = loss - nearest @ nearest.new_tensor(target.ranks)
    if target.each:
        loss = loss - target.each * z_negative.sum(1)
    return loss.mean()


#: Where light-moco's three groups of neighbours end, by the number of neighbours (strategy 2).
NEIGHBOUR_GROUPS = {5: (1, 3, 5), 10: (1, 4, 10), 20: (2, 8, 20), 30: (3, 12, 30)}


@functools.cache
def smoothed_target(target: str, mass: float, neighbours: int, queue_size: int) -> SmoothedTarget:
    """light-moco's targets by name (its code's strategies 1 to 6); all sum to 1.

    `top` (1): `mass` shared evenly by the `neighbours` nearest keys. `groups` (2): half, a quarter and a quarter of it
    on three groups of them. `halving` (3): 0.6 on the positive, then 0.2, 0.1, ... `nearest` (4): half on the nearest
    key. `uniform` (5): on all keys. `wide-groups` (6): a third of `mass` on each group of the 20 nearest. Raises
    `ValueError` where a target is not defined.
    """
    if target == "uniform":
        return SmoothedTarget(1 - mass, (), mass / queue_size)
    if target == "halving":
        return SmoothedTarget(0.6, (*(0.2 * 0.5**i for i in range(10)), 0.2 * 0.5**9))
    if target == "nearest":
        return SmoothedTarget(0.5, (0.5,))
    if target == "top":
        return SmoothedTarget(1 - mass, (mass / neighbours,) * neighbours)
    if target == "groups" and neighbours not in NEIGHBOUR_GROUPS:
        raise ValueError(
            f"--target groups is defined for {', '.join(map(str, NEIGHBOUR_GROUPS))} neighbours, got {neighbours}."
        )
    shares, ends = (
        ((1 / 2, 1 / 4, 1 / 4), NEIGHBOUR_GROUPS[neighbours])
        if target == "groups"
        else ((1 / 3,) * 3, NEIGHBOUR_GROUPS[20])
    )
    ranks: list[float] = []
    for share, start, end in zip(shares, (0, *ends), ends, strict=False):
        ranks += [mass * share / (end - start)] * (end - start)
    return SmoothedTarget(1 - mass, tuple(ranks))


def teacher_cross_entropy(
    student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], temperature: float, teacher_temperature: float
) -> Tensor:
    """Mean cross-entropy of softmax(student / T) with softmax(teacher / T_t) as target (SEED, arXiv 2101.04731).

    Each side is what `similarities` gives for the teacher's embeddings as keys: (B,) with the own image's, 1 for the
    teacher itself, and (B, K) with the queue. () at least the entropy of the target.
    """
    z, said = (torch.cat([positive[:, None], negative], 1) for positive, negative in (student, teacher))
    return F.cross_entropy(z / temperature, (said / teacher_temperature).softmax(1))


def kl_divergence(log_q: Tensor, log_p: Tensor) -> Tensor:
    """Mean KL(p || q) of B distributions over K anchors, as logarithms (B, K) (CompRess, arXiv 2010.14713); ()."""
    return F.kl_div(log_q, log_p, log_target=True, reduction="batchmean")


def distribution_overlap(log_q: Tensor, log_p: Tensor) -> Tensor:
    """Mean mass that two distributions (B, K), as logarithms, put on the same anchors: () in [0, 1], 1 if equal."""
    return torch.minimum(log_q, log_p).exp().sum(1).mean()


MEMORY_CHUNK_ROWS = 8192  # rows of a memory that are widened at a time


class ChunkedMatmul(torch.autograd.Function):
    """rows (B, D) times a memory (K, D) transposed, in the rows' precision, without a widened copy of the memory."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, memory: Tensor) -> Tensor:
        """(B, K)."""
        ctx.save_for_backward(memory)
        return torch.cat([rows @ part.to(rows.dtype).T for part in torch.split(memory, MEMORY_CHUNK_ROWS)], 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """The gradient of the rows (B, D); the memory has none."""
        (memory,) = ctx.saved_tensors
        of_rows = gradient.new_zeros(len(gradient), memory.shape[1])
        for part, of_part in zip(
            torch.split(memory, MEMORY_CHUNK_ROWS), torch.split(gradient, MEMORY_CHUNK_ROWS, 1), strict=True
        ):
            of_rows.addmm_(of_part, part.to(gradient.dtype))
        return of_rows, None


def cosine_similarities(rows: Tensor, memory: Tensor) -> Tensor:
    """Cosines of unit rows (B, D) with a memory's (K, D) of any precision: (B, K), at least float32."""
    with torch.autocast(rows.device.type, enabled=False):
        products: Tensor = ChunkedMatmul.apply(upcast(rows), memory)
        return products


def standardised_mse(first: Tensor, second: Tensor) -> Tensor:
    """Mean squared difference of (B, D) and (B, D), each dimension at mean 0 and variance 1 over the batch.

    () in [0, 4]: 2 - 2 x the mean correlation of a dimension. CompRess's Reg-BN (arXiv 2010.14713): batch norm without
    scale and shift on both sides, in place of unit length. With several processes each takes its own part's statistics.
    """
    first, second = (F.batch_norm(upcast(x), None, None, training=True) for x in (first, second))
    return (first - second).square().mean()


def alignment(first: Tensor, second: Tensor) -> Tensor:
    """Mean squared distance 2 - 2 cos of unit vectors, pairs (N, D) (Wang & Isola, arXiv 2005.10242); () in [0, 4]."""
    return 2 - 2 * (first * second).sum(1).mean()


def uniformity(x: Tensor, t: float = 2.0) -> Tensor:
    """log mean exp(-t d^2) over all pairs of unit vectors (N, D) (Wang & Isola, arXiv 2005.10242).

    () at most 0; lower is more uniform.
    """
    similarity: Tensor = (-t * torch.pdist(upcast(x)).square()).exp().mean()
    return similarity.log()


def embedding_std(x: Tensor) -> Tensor:
    """Standard deviation of unit vectors (N, D) x sqrt(D): (); 1 fills the sphere, 0 is one point (collapse)."""
    scaled: Tensor = upcast(x).std(0).mean() * x.shape[1] ** 0.5
    return scaled


def effective_rank(x: Tensor) -> Tensor:
    """Effective rank of (N, D): RankMe (arXiv 2210.02885); () in [1, min(N, D)]."""
    return entropy_rank(torch.linalg.svdvals(upcast(x)))


def entropy_rank(values: Tensor) -> Tensor:
    """exp of the entropy of singular values, normalised to sum to 1; (), 1 if all are 0."""
    entropy: Tensor = torch.special.entr(values / values.sum().clamp_min(1e-12)).sum()
    return entropy.exp()


def l2_normalise(x: Tensor) -> Tensor:
    """Rows of (N, D) scaled to length 1, in at least float32."""
    return F.normalize(upcast(x), dim=-1)
