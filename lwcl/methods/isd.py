"""ISD (Tejankar et al., arXiv 2012.09259): distil the similarities of a momentum encoder, from random weights on."""

from lwcl.methods.lazy_imports import losses
from lwcl.methods.method import Batch, Loss, method
from lwcl.methods.momentum_target import MomentumTarget, MomentumTargetNet
from lwcl.settings import setting


@method("pretrain", "isd")
class ISD(MomentumTarget):
    """Match the momentum encoder's similarities of another view with earlier images: CompRess without a teacher.

    Unlike contrastive learning it does not push similar images apart. There is no projection head.
    """

    hidden: str = setting("1x", "hidden width of the predictor: 1x or 2x the backbone's, or a number", group="Method")
    temperature: float = setting(
        0.02, "softmax temperature over the anchors, of student and momentum encoder", above=0, group="Method"
    )
    weak_targets: bool = setting(False, "the momentum encoder's view is cropped and flipped only", group="Method")

    def head(self, width: int, teacher_dim: int = 0) -> tuple[int, ...]:
        """No projection head."""
        return ()

    def loss(self, net: MomentumTargetNet, batch: Batch, epoch: float) -> Loss:
        """KL divergence of the prediction's softmax over the anchors from the target's.

        `overlap` is that of both distributions. The first step has no anchors, and a loss of 0.
        """
        predictions, targets = self.predictions_and_targets(net, batch)
        student, teacher = net.anchors.similarities(predictions, memory=0), net.anchors.similarities(targets, memory=0)
        total, metrics = losses.similarity_divergence(student, teacher, self.temperature)
        net.anchors.push(targets)
        return Loss(total, metrics, (predictions.detach(), targets))
