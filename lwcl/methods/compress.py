"""CompRess (arXiv 2010.14713): match the teacher's similarities of an image with many anchor images."""

from typing import Protocol

from lwcl.methods.lazy_imports import (
    Encoder,
    FeatureBank,
    MomentumEncoder,
    Net,
    losses,
    memory,
    momentum_encoder,
    nets,
    torch,
)  # fmt: skip
from lwcl.methods.method import Batch, Loss, Method, ViewSpec, method
from lwcl.settings import Auto, setting


class CompRessNet(Protocol):
    """The modules of CompRess; `key` only in 2q, and only with a momentum."""

    student: Encoder
    anchors: FeatureBank
    key: MomentumEncoder


class CompRess(Method):
    """What both variants share: one view of each image for all networks, features of earlier images as anchors."""

    teacher_space = "features"

    temperature: float = setting(
        0.04,
        "softmax temperature over the anchors, of student and teacher; published kNN: 46.9 at 0.04, 40.3 at 0.07",
        above=0,
        group="Method",
    )
    anchors: Auto[int] = setting(
        None, "anchors: images in the feature memory [auto: from the number of images]", at_least=2, group="Method"
    )
    anchor_dtype: str = setting(
        "fp32",
        "precision in which anchors are stored; similarities are computed in float32",
        choices=("fp32", "bf16", "fp16"),
        group="Method",
    )
    fill: str = setting(
        "wait",
        "anchors at the start: wait (use an anchor only once it is written), or random (random features, as published)",
        choices=("wait", "random"),
        group="Method",
    )

    def view_groups(self) -> tuple[ViewSpec, ...]:
        """One view, seen by all networks."""
        return (ViewSpec(),)

    def feature_bank(self, *widths: int) -> FeatureBank:
        """An empty memory of anchors for networks of these feature widths."""
        return memory.FeatureBank(self.anchors, widths, self.anchor_dtype, wait=self.fill == "wait")


@method("compress", "2q")
class TwoQueues(CompRess):
    """Student and teacher each compare an image with their own features of the same anchors; no projection head.

    A momentum encoder writes the student's anchors, so that they age slowly. The published code starts with random
    anchors that are unrelated to the teacher's: targets are noise until the anchors are overwritten, half an epoch if
    there are half as many anchors as images. Hence `fill` waits by default.
    """

    key_momentum: Auto[float] = setting(
        None,
        "EMA momentum of the key encoder, which writes the student's anchors; 0: the student writes them "
        "[auto: from the number of steps]",
        at_least=0,
        below=1,
        group="Method",
    )

    def head(self, width: int, teacher_dim: int = 0) -> tuple[int, ...]:
        """No projection head: features of different widths are never compared."""
        return ()

    def build(self, student: Encoder, teacher_dim: int = 0) -> Net:
        """The student, its momentum encoder unless the momentum is 0, and paired anchors of teacher and student."""
        key_encoder = momentum_encoder.DropoutFreeMomentumEncoder
        key = {"key": key_encoder(student, self.key_momentum)} if self.key_momentum else {}
        return nets.Net(student=student, **key, anchors=self.feature_bank(teacher_dim, student.width))

    def loss(self, net: CompRessNet, batch: Batch, epoch: float) -> Loss:
        """KL divergence of the student's distribution over its anchors from the teacher's over the teacher's."""
        view, teacher = batch.views[0], losses.l2_normalise(batch.teacher_output[0])
        student = net.student(view)
        key = net.key(view) if self.key_momentum else student.detach()
        cosines = net.anchors.similarities(student, memory=1), net.anchors.similarities(teacher, memory=0)
        net.anchors.push(torch.cat([teacher, key], 1))
        return Loss(*losses.similarity_divergence(*cosines, self.temperature), (student.detach(), key))


@method("compress", "1q")
class OneQueue(CompRess):
    """Student and teacher compare an image with the teacher's features of the anchors, after one linear layer."""

    def head(self, width: int, teacher_dim: int = 0) -> tuple[int, ...]:
        """One linear layer to the teacher's width."""
        return (teacher_dim,)

    def build(self, student: Encoder, teacher_dim: int = 0) -> Net:
        """The student and the teacher's anchors."""
        return nets.Net(student=student, anchors=self.feature_bank(teacher_dim))

    def loss(self, net: CompRessNet, batch: Batch, epoch: float) -> Loss:
        """KL divergence of the student's distribution over the teacher's anchors from the teacher's own."""
        student, teacher = net.student(batch.views[0]), losses.l2_normalise(batch.teacher_output[0])
        cosines = net.anchors.similarities(student, memory=0), net.anchors.similarities(teacher, memory=0)
        net.anchors.push(teacher)
        return Loss(*losses.similarity_divergence(*cosines, self.temperature), (student.detach(), teacher))
