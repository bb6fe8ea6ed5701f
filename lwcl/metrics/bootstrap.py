"""How much of a teacher's lead over an untrained net its student has taken over, with a bootstrap interval."""

import numpy
import torch
from torch import Tensor


def gap_closed(
    student: Tensor, teacher: Tensor, untrained: Tensor, seed: int = 0, draws: int = 10_000
) -> tuple[float, float, float] | None:
    """The share (student - untrained) / (teacher - untrained) of right answers (N,) bool, and its 95% interval.

    1 is the teacher, 0 the untrained net. The bootstrap resamples images, so it is paired: only how many images each of
    the eight combinations of right and wrong has matters, and that is a multinomial draw. None where the teacher's lead
    is not above zero with the same certainty: a share of it would mean nothing.
    """
    total = len(student)
    which = 4 * student.long() + 2 * teacher.long() + untrained.long()
    counts = torch.bincount(which, minlength=8).cpu().numpy()
    right = numpy.array([[kind >> bit & 1 for bit in (2, 1, 0)] for kind in range(8)])  # (8, 3)
    generator = numpy.random.default_rng(seed)
    drawn = generator.multinomial(total, counts / total, draws) @ right
    lead = drawn[:, 1] - drawn[:, 2]
    if numpy.quantile(lead, 0.025) <= 0:
        return None
    known = lead > 0  # all but one draw in forty
    low, high = numpy.quantile((drawn[known, 0] - drawn[known, 2]) / lead[known], (0.025, 0.975))
    of_student, of_teacher, of_untrained = counts @ right
    return float((of_student - of_untrained) / (of_teacher - of_untrained)), float(low), float(high)
