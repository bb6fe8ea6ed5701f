"""Label-free health metrics of a training step's embeddings, and the detection of collapse."""

import math
from typing import NamedTuple

from torch import Tensor

from lwcl import losses

#: Below this std the embeddings of different images are practically one point. An untrained encoder may start
#: there, and healthy runs leave within some dozen steps: collapse is `COLLAPSE_PATIENCE` measurements that do not rise.
MIN_STD = 0.1
MIN_EFFECTIVE_RANK = 2.0
COLLAPSE_PATIENCE = 5
MIN_VIEWS_IN_COMMON = 0.1  # after an epoch and the following number of steps; see `views_in_common`
MIN_STEPS_TO_COMPARE_VIEWS = 50


class Health(NamedTuple):
    """Metrics of B pairs of unit embeddings (B, D)."""

    std: float  # of unit embeddings x sqrt(D): 1 fills the sphere, 0 is one point
    effective_rank: float  # RankMe, at most min(B, D)
    alignment: float  # mean squared distance of the two views of an image, 0 to 4
    uniformity: float  # log mean exp(-2 d^2), lower is more uniform


def embedding_health(pairs: tuple[Tensor, Tensor]) -> Health:
    """Health of a step's two embeddings (B, D) of the same images."""
    first, second = (losses.upcast(x.detach()) for x in pairs)
    return Health(
        float(losses.embedding_std(first)),
        float(losses.effective_rank(first)),
        float(losses.alignment(first, second)),
        float(losses.uniformity(first)),
    )


def views_in_common(pairs: tuple[Tensor, Tensor]) -> float:
    """How much nearer the views of an image are than those of different images, from unit embeddings (B, D) of both.

    1 - the ratio of the mean squared distances: 1 where the views of an image are equal, 0 where they share nothing.
    """
    first, second = (losses.upcast(x.detach()) for x in pairs)
    between = float(losses.alignment(first, second.roll(1, 0)))
    return 1 - float(losses.alignment(first, second)) / max(between, 1e-12)


def is_collapsed(history: list[Health]) -> bool:
    """Whether in the latest measurements all images have nearly the same embedding, and that is not improving."""
    latest = history[-COLLAPSE_PATIENCE:]
    if len(latest) < COLLAPSE_PATIENCE:
        return False
    low = all(health.std < MIN_STD or health.effective_rank < MIN_EFFECTIVE_RANK for health in latest)
    return low and latest[-1].std < 1.2 * latest[0].std


def all_finite(rows: Tensor) -> bool:
    """Whether all numbers of rows (N, D), N at least 1, are finite; without the copy that `isfinite` makes."""
    low, high = rows.aminmax()  # nan where there is one
    return math.isfinite(low) and math.isfinite(high)
