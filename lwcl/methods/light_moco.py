"""light-moco (Lin et al., arXiv 2212.07158): MoCo with a smoothed target, for a light model's pairs are noisy."""

import math

from lwcl.errors import UsageError
from lwcl.methods._torch import Encoder, Net, Tensor, losses
from lwcl.methods.method import method
from lwcl.methods.moco import MoCo
from lwcl.settings import setting

#: The published code's strategies 1 to 6 (papers: light-moco's `moco/builder.py`), by what they do.
SMOOTHING_TARGETS = ("top", "groups", "halving", "nearest", "uniform", "wide-groups")


@method("pretrain", "light-moco")
class LightMoCo(MoCo):
    """MoCo whose target gives part of its mass to the queue's keys nearest to the query."""

    temperature: float = setting(0.1, "softmax temperature of the contrast", above=0, group="Method")
    hidden: str = setting(
        "2048", "hidden width of the head: 1x or 2x the backbone's, a number, or 0 for a linear head", group="Method"
    )
    symmetric: bool = setting(True, "each view is query and key: the sum of both losses", group="Method")
    smoothing: float = setting(0.2, "mass of the target that goes to neighbours", at_least=0, below=1, group="Method")
    neighbours: int = setting(10, "nearest keys of the queue that share it", at_least=1, group="Method")
    target: str = setting(
        "top", "how they share it: " + ", ".join(SMOOTHING_TARGETS), choices=SMOOTHING_TARGETS, group="Method"
    )
    smoothing_warmup: float = setting(0.0, "epochs before smoothing starts", at_least=0, group="Method")
    smoothing_rise: float = setting(
        0.0, "epochs over which smoothing rises along a cosine to its full mass; 0: at once", at_least=0, group="Method"
    )

    def build(self, student: Encoder, taught: int = 0) -> Net:
        """As MoCo's. Raises `UsageError` for a target that is not defined, or needs more keys than the queue has."""
        queue: int = self.queue_size or 0
        try:
            reach = len(losses.smoothed_target(self.target, self.smoothing, self.neighbours, queue or 1).ranks)
        except ValueError as error:
            raise UsageError(str(error), remedy="Give one of these --neighbours, or another --target.") from error
        if reach > queue:
            raise UsageError(
                f"The target {self.target} is shared by {reach} neighbours; the queue has {queue} keys.",
                remedy=f"Give --queue-size {reach} or more, or fewer --neighbours.",
            )
        return super().build(student, taught)

    def target_loss(self, positive: Tensor, negative: Tensor, epoch: float) -> Tensor:
        """Smoothed InfoNCE; similarities (B,) and (B, K) before the temperature."""
        mass = self.smoothing_at(epoch)
        if mass == 0:
            return super().target_loss(positive, negative, epoch)
        weights = losses.smoothed_target(self.target, mass, self.neighbours, negative.shape[1])
        return losses.smoothed_info_nce(positive, negative, self.temperature, weights)

    def smoothing_at(self, epoch: float) -> float:
        """The smoothed mass at a (fractional) epoch: none in the warm-up, then at once or along half a cosine."""
        if epoch < self.smoothing_warmup:
            return 0.0
        if epoch >= self.smoothing_rise:
            return self.smoothing
        return self.smoothing * 0.5 * (1 - math.cos(math.pi * epoch / self.smoothing_rise))
