"""What methods share that predict a momentum encoder's view of an image and compare it with earlier images."""

from collections.abc import Mapping
from typing import Protocol

from lwcl.methods.lazy_imports import (
    Encoder,
    FeatureBank,
    MomentumEncoder,
    Net,
    Tensor,
    encoder,
    losses,
    memory,
    momentum_encoder,
    nets,
    torch,
)  # fmt: skip
from lwcl.methods.method import Batch, Method, ViewSpec
from lwcl.settings import Auto, setting

#: Crop and flip only: what the augmentation of a weak view leaves out.
WEAK: Mapping[str, float] = {"jitter_p": 0.0, "gray_p": 0.0, "blur_p": 0.0}


class MomentumTargetNet(Protocol):
    """The modules of a method with a momentum target."""

    student: Encoder
    predictor: "torch.nn.Sequential"
    key: MomentumEncoder
    anchors: FeatureBank


class MomentumTarget(Method):
    """A student with a predictor, its momentum encoder, and a memory of the latter's embeddings of earlier images."""

    hidden: str = setting(
        "2x", "hidden width of head and predictor: 1x or 2x the backbone's, or a number", group="Method"
    )
    anchors: Auto[int] = setting(
        None, "anchors: images in the feature memory [auto: from the number of images]", at_least=2, group="Method"
    )
    key_momentum: Auto[float] = setting(
        None, "EMA momentum of the key encoder [auto: from the number of steps]", at_least=0, below=1, group="Method"
    )
    weak_targets: bool = setting(True, "the momentum encoder's view is cropped and flipped only", group="Method")

    def view_groups(self) -> tuple[ViewSpec, ...]:
        """The student's view, and the momentum encoder's."""
        return ViewSpec(), ViewSpec(augmentation=WEAK if self.weak_targets else {})

    def layers(self, width: int, dim: int) -> tuple[str, ...]:
        """Head and predictor: linear, batch norm, ReLU, linear, on a backbone of `width` features (BYOL's)."""
        return f"linear {encoder.hidden_width(self.hidden, width) or width}", "norm", "relu", f"linear {dim}"

    def build(self, student: Encoder, teacher_dim: int = 0) -> Net:
        """The student, its predictor and momentum encoder, and the memory."""
        dim = student.head_widths[-1] if student.head_widths else student.width
        return nets.Net(
            student=student,
            predictor=encoder.mlp(dim, self.layers(student.width, dim)),
            key=momentum_encoder.MomentumEncoder(student, self.key_momentum),
            anchors=memory.FeatureBank(self.anchors, (dim,)),
        )

    def predictions_and_targets(self, net: MomentumTargetNet, batch: Batch) -> tuple[Tensor, Tensor]:
        """Unit embeddings (B, dim) of each image: predicted from the student's view, and the momentum encoder's."""
        predictions = losses.l2_normalise(net.predictor(net.student.head(net.student.features(batch.views[0]))))
        return predictions, net.key(batch.views[1])
