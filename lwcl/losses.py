"""Losses and formulas, as pure functions of tensors.

B images in a batch, D the width of an embedding, K keys in a queue, N samples, C classes. Similarities are cosines: dot
products of unit vectors. Losses are computed in at least float32, in any precision of the encoder.
"""

import functools
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class SmoothedTarget(NamedTuple):
    """A target distribution over the logits [positive, queue]."""

    positive: float
    ranks: tuple[float, ...]  # on the nearest key of the queue, the second nearest, ...
    uniform: float = 0.0  # on every key


def positive_negative_cosines(queries: Tensor, keys: Tensor, queue: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines of queries (B, D) with their keys (B, D) and with a queue (K, D): (B,) and (B, K), at least float32."""
    with torch.autocast(queries.device.type, enabled=False):
        queries, keys = upcast(queries), upcast(keys)
        return (queries * keys).sum(1), queries @ queue.to(queries.dtype).T


def upcast(x: Tensor) -> Tensor:
    """`x` in float32, or unchanged if it is float64."""
    return x if x.dtype == torch.float64 else x.float()


def info_nce(positive: Tensor, negative: Tensor, temperature: float) -> Tensor:
    """Mean cross-entropy with the positive as the target (MoCo, arXiv 1911.05722, eq. 1); (B,) and (B, K) -> ()."""
    return smoothed_info_nce(positive, negative, temperature, SmoothedTarget(1.0, ()))


def smoothed_info_nce(positive: Tensor, negative: Tensor, temperature: float, target: SmoothedTarget) -> Tensor:
    """Mean cross-entropy of softmax([positive, negative] / T) with a smoothed target (light-moco, `moco/builder.py`).

    (B,) and (B, K) -> (). Keys are ranked by their similarity to the query. The loss is computed without a dense
    target, as logsumexp(z) - sum(target x z) over the entries that are not zero.
    """
    z_positive, z_negative = positive / temperature, negative / temperature
    loss = torch.logaddexp(z_positive, z_negative.logsumexp(1)) - target.positive * z_positive
    if target.ranks:
        nearest = z_negative.topk(len(target.ranks), dim=1).values
        loss = loss - nearest @ nearest.new_tensor(target.ranks)
    if target.uniform:
        loss = loss - target.uniform * z_negative.sum(1)
    return loss.mean()


def decoupled_info_nce(positive: Tensor, negative: Tensor, temperature: float) -> Tensor:
    """InfoNCE without the positive in the denominator (DCL, arXiv 2110.06848, eq. 6); (B,) and (B, K) -> ()."""
    return ((negative / temperature).logsumexp(1) - positive / temperature).mean()


#: The ends of light-moco's three groups of neighbours, by the number of neighbours (strategy 2).
NEIGHBOUR_GROUPS = {5: (1, 3, 5), 10: (1, 4, 10), 20: (2, 8, 20), 30: (3, 12, 30)}


@functools.cache
def smoothed_target(target: str, mass: float, neighbours: int, queue_size: int) -> SmoothedTarget:
    """light-moco's targets by name (strategies 1 to 6 of its code); each sums to 1.

    `top` (1): `mass` spread evenly over the `neighbours` nearest keys. `groups` (2): half, a quarter and a quarter of
    it on three groups of them. `halving` (3): 0.6 on the positive, then 0.2, 0.1, ... `nearest` (4): half on the
    nearest key. `uniform` (5): `mass` spread over all keys. `wide-groups` (6): a third of `mass` on each group of the
    20 nearest. Raises `ValueError` for an undefined target.
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
            f"--target groups needs {', '.join(map(str, NEIGHBOUR_GROUPS))} --neighbours, not {neighbours}."
        )
    if target == "groups":
        shares, ends = (1 / 2, 1 / 4, 1 / 4), NEIGHBOUR_GROUPS[neighbours]
    else:
        shares, ends = (1 / 3, 1 / 3, 1 / 3), NEIGHBOUR_GROUPS[20]
    ranks: list[float] = []
    for share, start, end in zip(shares, (0, *ends), ends, strict=False):
        ranks += [mass * share / (end - start)] * (end - start)
    return SmoothedTarget(1 - mass, tuple(ranks))


def teacher_cross_entropy(
    student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], temperature: float, teacher_temperature: float
) -> Tensor:
    """Mean cross-entropy of softmax(student / T) with softmax(teacher / T_t) as target (SEED, arXiv 2101.04731).

    Each side has cosines with the teacher's embeddings, of the image itself (B,) and of the queue (B, K); see
    `positive_negative_cosines`. The minimum is the entropy of the target.
    """
    logits, target = (torch.cat([positive[:, None], negative], 1) for positive, negative in (student, teacher))
    return F.cross_entropy(logits / temperature, (target / teacher_temperature).softmax(1))


def kl_divergence(log_q: Tensor, log_p: Tensor) -> Tensor:
    """Mean KL(p || q) of B distributions over K anchors, from logarithms (B, K) (CompRess, arXiv 2010.14713); ()."""
    return F.kl_div(log_q, log_p, log_target=True, reduction="batchmean")


def distribution_overlap(log_q: Tensor, log_p: Tensor) -> Tensor:
    """Mean overlap of pairs of distributions, from logarithms (B, K): the sum of minima, () in [0, 1], 1 if equal."""
    return torch.minimum(log_q, log_p).exp().sum(1).mean()


def similarity_divergence(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, dict[str, Tensor]]:
    """KL(teacher || student) of softmax(cosines / T), (B, K) each, over K anchors (CompRess, arXiv 2010.14713); ().

    With it the metrics `loss` and `overlap`, the overlap of both distributions.
    """
    log_q, log_p = ((cosine / temperature).log_softmax(1) for cosine in (student, teacher))
    total = kl_divergence(log_q, log_p)
    return total, {"loss": total.detach(), "overlap": distribution_overlap(log_q.detach(), log_p)}


MEMORY_CHUNK_ROWS = 8192  # rows of a memory converted at a time


class ChunkedMatmul(torch.autograd.Function):
    """Rows (B, D) times a memory (K, D) transposed, in the precision of the rows, without converting all of it."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, memory: Tensor) -> Tensor:
        """(B, K)."""
        ctx.save_for_backward(memory)
        return torch.cat([rows @ part.to(rows.dtype).T for part in torch.split(memory, MEMORY_CHUNK_ROWS)], 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """The gradient of the rows (B, D); the memory has none."""
        (memory,) = ctx.saved_tensors
        rows = gradient.new_zeros(len(gradient), memory.shape[1])
        chunks = torch.split(memory, MEMORY_CHUNK_ROWS), torch.split(gradient, MEMORY_CHUNK_ROWS, 1)
        for memory_chunk, gradient_chunk in zip(*chunks, strict=True):
            rows.addmm_(gradient_chunk, memory_chunk.to(gradient.dtype))
        return rows, None


def cosine_similarities(rows: Tensor, memory: Tensor) -> Tensor:
    """Cosines of unit rows (B, D) with a memory (K, D) of any precision: (B, K), at least float32."""
    with torch.autocast(rows.device.type, enabled=False):
        products: Tensor = ChunkedMatmul.apply(upcast(rows), memory)
        return products


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Balanced assignments of N images to K prototypes by Sinkhorn-Knopp (SwAV, arXiv 2006.09882, eq. 3).

    (N, K) scores -> (N, K): rows sum to 1, columns to about N / K; the smaller `epsilon`, the sharper.
    """
    logarithms = upcast(scores) / epsilon
    for _ in range(iterations):
        logarithms = logarithms - logarithms.logsumexp(0, keepdim=True)
        logarithms = logarithms - logarithms.logsumexp(1, keepdim=True)
    return logarithms.exp()


def standardise(x: Tensor) -> Tensor:
    """(B, D) with each dimension at mean 0 and variance 1 over the batch, at least float32.

    Batch norm without scale and shift.
    """
    return F.batch_norm(upcast(x), None, None, training=True)


def standardised_mse(first: Tensor, second: Tensor) -> Tensor:
    """Mean squared difference of (B, D) and (B, D), each standardised; () in [0, 4].

    2 - 2 x the mean correlation over dimensions: CompRess's Reg-BN (arXiv 2010.14713).
    """
    return (standardise(first) - standardise(second)).square().mean()


def log_sum(difference: Tensor, power: float = 4.0) -> Tensor:
    """log of the sum of |difference| ^ power over all entries of (B, D), plus 1e-5 (arXiv 2303.11098); ()."""
    return (difference.abs() ** power).sum().add(1e-5).log()


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
