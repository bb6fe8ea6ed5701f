"""How many directions features use, and whether some are dead: from the eigenvalues of a streamed Gram matrix.

RankMe (Garrido et al., arXiv 2210.02885) is the exponential of the entropy of the normed singular values; they are the
roots of the eigenvalues of the D x D Gram matrix, summed in float64. Memory beside x: `CHUNK_BYTES` and three D x D
matrices. N rows of width D.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lwcl.losses import l2_normalise

SPECTRUM_CHUNK_BYTES = 64 * 2**20
DEAD_DIMENSION_SHARE = (
    1e-6  # standard deviation, as a share of the largest dimension's, under which a dimension says nothing
)


class Spectrum(NamedTuple):
    """What the spectrum and the lengths of N features of width D say."""

    rank: float  # RankMe of the features as they are, 1 to min(N, D)
    centred_rank: float  # RankMe of the features less their mean: what differs between images
    participation: float  # (sum of the covariance's eigenvalues)^2 / sum of their squares: blind to faint noise
    values: Tensor  # (min(N, D),) singular values of the features less their mean, falling, summing to 1
    spread: float  # standard deviation of unit features x sqrt(D): 1 fills the sphere, 0 is one point
    mean_cosine: float  # mean cosine of different images
    norm_variation: float  # standard deviation of the lengths by their mean
    dead: float  # share of dimensions that do not vary


def spectrum(x: Tensor) -> Spectrum:
    """The spectrum of features (N, D), N at least 2."""
    mean, scatter = mean_and_scatter(x)
    raw = scatter + len(x) * torch.outer(mean, mean)
    most = min(x.shape)
    values = singular_values(scatter, most)
    power = values.square()
    deviation = scatter.diagonal().clamp_min(0).sqrt()
    lengths = x.norm(dim=1).double()
    spread, cosine = spread_and_mean_cosine(x)
    return Spectrum(
        rank=entropy_rank(singular_values(raw, most)),
        centred_rank=entropy_rank(values),
        participation=float(power.sum().square() / power.square().sum().clamp_min(1e-300)),
        values=(values / values.sum().clamp_min(1e-300)).float(),
        spread=spread,
        mean_cosine=cosine,
        norm_variation=float(lengths.std() / lengths.mean().clamp_min(1e-300)),
        dead=float((deviation <= DEAD_DIMENSION_SHARE * deviation.max()).double().mean()),
    )


def mean_and_scatter(x: Tensor) -> tuple[Tensor, Tensor]:
    """The mean (D,) of features (N, D) and the scatter about it (D, D), both float64; streamed."""
    parts = torch.split(x, max(1, SPECTRUM_CHUNK_BYTES // (8 * x.shape[1])))
    mean = torch.stack([part.double().sum(0) for part in parts]).sum(0) / len(x)
    scatter = mean.new_zeros(len(mean), len(mean))
    for part in parts:
        centred = part.double() - mean
        scatter.addmm_(centred.T, centred)
    return mean, scatter


def singular_values(gram: Tensor, most: int) -> Tensor:
    """The `most` largest singular values of the features whose Gram matrix this is, falling."""
    rising: Tensor = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    return rising.flip(0)[:most]


def entropy_rank(values: Tensor) -> float:
    """exp of the entropy of singular values, once they sum to 1; 1 if all are 0."""
    return float(torch.special.entr(values / values.sum().clamp_min(1e-300)).sum().exp())


def spread_and_mean_cosine(x: Tensor) -> tuple[float, float]:
    """Of unit features of x (N, D): standard deviation x sqrt(D), averaged over dimensions, and the mean cosine."""
    count, width = x.shape
    parts = torch.split(x, max(1, SPECTRUM_CHUNK_BYTES // (16 * width)))
    total = torch.stack([l2_normalise(part).double().sum(0) for part in parts]).sum(0)
    squares = torch.zeros_like(total)
    for part in parts:
        squares += (l2_normalise(part).double() - total / count).square().sum(0)
    cosine = (total.square().sum() - count) / (count * (count - 1))
    return float((squares / (count - 1)).sqrt().mean() * width**0.5), float(cosine)
