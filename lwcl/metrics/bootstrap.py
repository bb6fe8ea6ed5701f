"""Top-1 and top-5 accuracy of N queries, bootstrap intervals over images, gains over another encoder."""

from typing import NamedTuple

import numpy
import torch
from torch import Tensor


class Accuracy(NamedTuple):
    """Which of N queries were classified correctly."""

    top1: Tensor  # (N,) bool
    top5: Tensor  # (N,) bool


def rank_accuracy(scores: Tensor, labels: Tensor) -> Accuracy:
    """Whether the label (N,) has the highest score (N, C), or one of the five highest; ties go to the smaller label.

    Classes with score -inf got no votes and never count as hits.
    """
    order = scores.sort(dim=1, descending=True, stable=True)
    hits = (order.indices == labels[:, None]) & (order.values > -torch.inf)
    return Accuracy(hits[:, 0], hits[:, :5].any(1))


def mean_top1(accuracy: Accuracy) -> float:
    """Top-1 accuracy, a fraction in [0, 1]."""
    return float(accuracy.top1.float().mean())


def bootstrap_interval(correct: Tensor, seed: int = 0, draws: int = 10_000) -> tuple[float, float]:
    """95% bootstrap interval over images of the share that is `correct` (N,) bool.

    Resampling N yes-or-no answers with replacement is a binomial draw, so that is what is drawn.
    """
    generator = numpy.random.default_rng(seed)
    shares = generator.binomial(len(correct), float(correct.float().mean()), draws) / len(correct)
    low, high = numpy.quantile(shares, (0.025, 0.975))
    return float(low), float(high)


def paired_gain(correct: Tensor, baseline: Tensor, seed: int = 0, draws: int = 10_000) -> tuple[float, float, float]:
    """Accuracy of one encoder minus that of another on the same N images, with its 95% paired bootstrap interval."""
    generator = numpy.random.default_rng(seed)
    counts = [int((correct & ~baseline).sum()), int((~correct & baseline).sum())]
    total = len(correct)
    shares = numpy.array([*counts, total - sum(counts)]) / total
    drawn = generator.multinomial(total, shares, draws)
    low, high = numpy.quantile((drawn[:, 0] - drawn[:, 1]) / total, (0.025, 0.975))
    return (counts[0] - counts[1]) / total, float(low), float(high)


def gap_closed(
    student: Tensor, teacher: Tensor, untrained: Tensor, seed: int = 0, draws: int = 10_000
) -> tuple[float, float, float] | None:
    """The share (student - untrained) / (teacher - untrained) of correct answers (N,) bool, and its 95% interval.

    1 is the teacher, 0 the untrained encoder. The bootstrap resamples images, so it is paired: only how many images
    each of the eight combinations of right and wrong has matters, and that is a multinomial draw. None where the
    teacher's lead over the untrained encoder is not significantly above zero: a share of it would mean nothing.
    """
    total = len(student)
    combination = 4 * student.long() + 2 * teacher.long() + untrained.long()
    counts = torch.bincount(combination, minlength=8).cpu().numpy()
    correct = numpy.array([[kind >> bit & 1 for bit in (2, 1, 0)] for kind in range(8)])  # (8, 3)
    generator = numpy.random.default_rng(seed)
    drawn = generator.multinomial(total, counts / total, draws) @ correct
    lead = drawn[:, 1] - drawn[:, 2]
    if numpy.quantile(lead, 0.025) <= 0:
        return None
    ahead = lead > 0  # all but one draw in forty
    low, high = numpy.quantile((drawn[ahead, 0] - drawn[ahead, 2]) / lead[ahead], (0.025, 0.975))
    of_student, of_teacher, of_untrained = counts @ correct
    return float((of_student - of_untrained) / (of_teacher - of_untrained)), float(low), float(high)
