"""Effective rank, embedding std and dead dimensions of features, from the eigenvalues of a streamed Gram matrix.

RankMe (Garrido et al., arXiv 2210.02885) is the exponential of the entropy of the normalised singular values, which are
the square roots of the eigenvalues of the D x D Gram matrix, summed in float64. Memory besides x: `METRIC_CHUNK_BYTES`
and three D x D matrices. N rows of width D.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lwcl.losses import entropy_rank, l2_normalise
from lwcl.metrics.nearest import METRIC_CHUNK_BYTES

DEAD_DIMENSION_STD = 1e-6  # of the largest dimension's std: a dimension that varies less is dead


class Spectrum(NamedTuple):
    """Metrics of the spectrum and of the norms of N features of width D."""

    effective_rank: float  # RankMe of the raw features, 1 to min(N, D)
    centred_rank: float  # effective rank of the mean-centred features
    participation: float  # participation ratio, (sum of eigenvalues)^2 / sum of their squares: ignores faint noise
    std: float  # std of unit features x sqrt(D): 1 fills the sphere, 0 is one point
    mean_cosine: float  # of different images
    norm_variation: float  # std of the norms divided by their mean
    dead: float  # share of dimensions that do not vary


def spectrum(x: Tensor) -> tuple[Spectrum, Tensor]:
    """Metrics of features (N, D), N at least 2, and their centred singular values (min(N, D),), falling, sum 1."""
    mean, scatter = mean_and_scatter(x)
    raw = scatter + len(x) * torch.outer(mean, mean)
    most = min(x.shape)
    values = singular_values(scatter, most)
    power = values.square()
    deviation = scatter.diagonal().clamp_min(0).sqrt()
    lengths = x.norm(dim=1).double()
    std, mean_cosine = std_and_mean_cosine(x)
    metrics = Spectrum(
        effective_rank=float(entropy_rank(singular_values(raw, most))),
        centred_rank=float(entropy_rank(values)),
        participation=float(power.sum().square() / power.square().sum().clamp_min(1e-300)),
        std=std,
        mean_cosine=mean_cosine,
        norm_variation=float(lengths.std() / lengths.mean().clamp_min(1e-300)),
        dead=float((deviation <= DEAD_DIMENSION_STD * deviation.max()).double().mean()),
    )
    return metrics, (values / values.sum().clamp_min(1e-300)).float()


def mean_and_scatter(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and scatter matrix about it (D, D) of features (N, D), both float64; streamed."""
    chunks = torch.split(x, max(1, METRIC_CHUNK_BYTES // (8 * x.shape[1])))
    mean = torch.stack([chunk.double().sum(0) for chunk in chunks]).sum(0) / len(x)
    scatter = mean.new_zeros(len(mean), len(mean))
    for chunk in chunks:
        centred = chunk.double() - mean
        scatter.addmm_(centred.T, centred)
    return mean, scatter


def singular_values(gram: Tensor, most: int) -> Tensor:
    """The `most` largest singular values, falling, of the features with this Gram matrix."""
    rising: Tensor = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    return rising.flip(0)[:most]


def std_and_mean_cosine(x: Tensor) -> tuple[float, float]:
    """`losses.embedding_std` of the unit rows of x (N, D), mean cosine of different rows; streamed in float64."""
    count, width = x.shape
    chunks = torch.split(x, max(1, METRIC_CHUNK_BYTES // (16 * width)))
    total = torch.stack([l2_normalise(chunk).double().sum(0) for chunk in chunks]).sum(0)
    squares = torch.zeros_like(total)
    for chunk in chunks:
        squares += (l2_normalise(chunk).double() - total / count).square().sum(0)
    cosine = (total.square().sum() - count) / (count * (count - 1))
    return float((squares / (count - 1)).sqrt().mean() * width**0.5), float(cosine)
