"""light-moco (Lin et al., arXiv 2212.07158): MoCo with a smoothed target, since positives of small models are noisy."""

import math

from lwcl.errors import UsageError
from lwcl.methods.lazy_imports import Encoder, Net, Tensor, losses
from lwcl.methods.method import method
from lwcl.methods.moco import MoCo
from lwcl.settings import setting

#: Strategies 1 to 6 of the published code (`moco/builder.py`), named by what they do.
SMOOTHING_TARGETS = ("top", "groups", "halving", "nearest", "uniform", "wide-groups")


@method("pretrain", "light-moco")
class LightMoCo(MoCo):
    """MoCo with label smoothing: part of the target goes to the keys in the queue that are nearest to the query."""

    temperature: float = setting(0.1, "softmax temperature of the contrastive loss", above=0, group="Method")
    hidden: str = setting(
        "2048", "hidden width of the projection head: 1x or 2x the backbone's, a number, or 0: linear", group="Method"
    )
    symmetric: bool = setting(True, "use each view as query and as key: the sum of both losses", group="Method")
    smoothing: float = setting(0.2, "share of the target given to neighbours", at_least=0, below=1, group="Method")
    neighbours: int = setting(
        10, "number of nearest keys in the queue that share the smoothed target", at_least=1, group="Method"
    )
    target: str = setting(
        "top", "how neighbours share it: " + ", ".join(SMOOTHING_TARGETS), choices=SMOOTHING_TARGETS, group="Method"
    )
    smoothing_warmup: float = setting(0.0, "epochs before smoothing starts", at_least=0, group="Method")
    smoothing_rise: float = setting(
        0.0,
        "epochs, from the start of training, over which smoothing rises by a cosine; 0: at once",
        at_least=0,
        group="Method",
    )

    def build(self, student: Encoder, teacher_dim: int = 0) -> Net:
        """As MoCo's. Raises `UsageError` for an undefined target, or one that needs more keys than the queue holds."""
        queue = self.queue_size
        try:
            reach = len(losses.smoothed_target(self.target, self.smoothing, self.neighbours, queue).ranks)
        except ValueError as error:
            raise UsageError(str(error), remedy="Give one of these --neighbours, or another --target.") from error
        if reach > queue:
            raise UsageError(
                f"--target {self.target} needs {reach} neighbours, but the queue holds {queue} keys.",
                remedy=f"Give --queue-size {reach} or more, or fewer --neighbours.",
            )
        return super().build(student, teacher_dim)

    def contrastive_loss(self, positive: Tensor, negative: Tensor, epoch: float) -> Tensor:
        """Smoothed InfoNCE; cosines (B,) and (B, K), before the temperature."""
        mass = self.smoothing_at(epoch)
        if mass == 0:
            return super().contrastive_loss(positive, negative, epoch)
        weights = losses.smoothed_target(self.target, mass, self.neighbours, negative.shape[1])
        return losses.smoothed_info_nce(positive, negative, self.temperature, weights)

    def smoothing_at(self, epoch: float) -> float:
        """The smoothing at a (fractional) epoch: 0 during warm-up, then the full value, at once or by half a cosine."""
        if epoch < self.smoothing_warmup:
            return 0.0
        if epoch >= self.smoothing_rise:
            return self.smoothing
        return self.smoothing * 0.5 * (1 - math.cos(math.pi * epoch / self.smoothing_rise))
