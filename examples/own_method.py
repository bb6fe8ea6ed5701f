"""A training method of your own in one file: BYOL (Grill et al., arXiv 2006.07733), with multi-crop (SwAV, 2006.09882).

python examples/own_method.py --data photos/ --arch resnet18 --local-crops 4

Everything else is there: help for its settings, resuming, reports. In lwcl/methods/ the two classes alone would do.
"""

import math
import sys

import torch
from torch import Tensor

from lwcl.losses import alignment, l2_normalise
from lwcl.methods.method import Batch, Loss, Method, Progress, ViewSpec, method
from lwcl.models.encoder import Encoder, mlp
from lwcl.models.momentum_encoder import MomentumEncoder
from lwcl.models.net import Net
from lwcl.settings import setting


class BYOLNet(Net):
    """The student, a predictor on its projection, and the target: a moving average of the student."""

    def __init__(self, student: Encoder, hidden: int, momentum: float) -> None:
        super().__init__(student)
        dim = student.head_widths[-1]
        self.predictor = mlp(dim, layers(hidden, dim))
        self.target = MomentumEncoder(student, momentum)

    def predict(self, view: Tensor) -> Tensor:
        """Predictions (B, dim) of the target's embeddings of a view (B, 3, H, W)."""
        return l2_normalise(self.predictor(self.student.head(self.student.features(view))))


def layers(hidden: int, dim: int) -> tuple[str, ...]:
    """Projector and predictor: linear, batch norm, ReLU, linear."""
    return f"linear {hidden}", "norm", "relu", f"linear {dim}"


@method("pretrain", "byol")
class BYOL(Method):
    """Predict the momentum encoder's embedding of another view of the image: no negatives."""

    hidden: int = setting(512, "hidden width of projector and predictor", at_least=2, group="Method")
    dim: int = setting(128, "width of the embedding", at_least=2, group="Method")
    target_momentum: float = setting(
        0.99, "EMA momentum of the target at the start; it rises to 1 by a cosine", at_least=0, below=1, group="Method"
    )
    local_crops: int = setting(0, "small crops of each image that also predict the targets", at_least=0, group="Method")

    def view_groups(self) -> tuple[ViewSpec, ...]:
        """Two global views, which are the targets, and local crops of at most 30% of the image."""
        return ViewSpec(count=2), ViewSpec(count=self.local_crops, size=0.5, crop_scale=(0.05, 0.3))

    def head(self, width: int, teacher_dim: int = 0) -> tuple[str, ...]:
        """The projector."""
        return layers(self.hidden, self.dim)

    def build(self, student: Encoder, teacher_dim: int = 0) -> BYOLNet:
        """Student, predictor and target."""
        return BYOLNet(student, self.hidden, self.target_momentum)

    def loss(self, net: BYOLNet, batch: Batch, epoch: float) -> Loss:
        """Mean squared distance of each view's prediction to the target's embedding of every other global view."""
        global_views, _ = self.grouped(batch.views)
        targets = [net.target(view) for view in global_views]
        predictions = [net.predict(view) for view in batch.views]
        distances = [
            alignment(prediction, target)
            for i, prediction in enumerate(predictions)
            for j, target in enumerate(targets)
            if i != j
        ]
        total = torch.stack(distances).mean()
        return Loss(total, {"loss": total.detach()}, (predictions[0].detach(), targets[1]))

    def after_step(self, net: BYOLNet, progress: Progress) -> None:
        """The target's momentum rises to 1 by a cosine over the run (BYOL, section 3.2)."""
        net.target.momentum = 1 - (1 - self.target_momentum) * (math.cos(math.pi * progress.fraction) + 1) / 2
        net.after_step()


if __name__ == "__main__":
    from lwcl.cli.main import main  # after the class, so that its options are there

    sys.exit(main(["pretrain", "--method", "byol", *sys.argv[1:]]))
