"""Is the embedding healthy? Label-free measures of what a training step has anyway, and an alarm for collapse."""

import math
from typing import NamedTuple

from torch import Tensor

from lwcl import losses

#: Below this spread the embeddings of different images are practically one point. Healthy runs leave it within some
#: dozen steps and an untrained net may start under it, so the alarm waits for `PATIENCE` measurements in a row, none of
#: them clearly rising.
MIN_SPREAD = 0.1
MIN_RANK = 2.0
COLLAPSE_PATIENCE = 5


class Health(NamedTuple):
    """Measures of B pairs of unit embeddings (B, D)."""

    std: float  # times sqrt(D): 1 fills the sphere, 0 is one point
    effective_rank: float  # effective rank (RankMe), at most min(B, D)
    alignment: float  # mean squared distance of the two views of an image, 0 to 4
    uniformity: float  # log mean exp(-2 d^2), lower is more uniform


def embedding_health(pairs: tuple[Tensor, Tensor]) -> Health:
    """The health of a step's two embeddings of the same images."""
    first, second = (losses.upcast(x.detach()) for x in pairs)
    return Health(
        float(losses.embedding_std(first)),
        float(losses.effective_rank(first)),
        float(losses.alignment(first, second)),
        float(losses.uniformity(first)),
    )


def is_collapsed(history: list[Health]) -> bool:
    """Whether the latest measures say that all images get nearly the same embedding, and that it is not mending."""
    latest = history[-COLLAPSE_PATIENCE:]
    if len(latest) < COLLAPSE_PATIENCE:
        return False
    sick = all(h.std < MIN_SPREAD or h.effective_rank < MIN_RANK for h in latest)
    return sick and latest[-1].std < 1.2 * latest[0].std


def all_finite(rows: Tensor) -> bool:
    """Whether all numbers of rows (N, D), N at least 1, are finite; `isfinite` would copy them to say so."""
    low, high = rows.aminmax()  # nan where there is one
    return math.isfinite(low) and math.isfinite(high)
