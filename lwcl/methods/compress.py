"""CompRess (arXiv 2010.14713): the student is as near to each of many anchors as the teacher is."""

from typing import ClassVar

from lwcl.methods._torch import Encoder, Net, Tensor, losses, memory, momentum_encoder, nets, torch
from lwcl.methods.method import Batch, Loss, Method, method
from lwcl.settings import setting


class CompRess(Method):
    """What both ways share: one view of each image for all networks, features of earlier images as anchors."""

    views: ClassVar[int] = 1
    taught = "features"

    temperature: float = setting(
        0.04,
        "softmax temperature of both distributions over the anchors; published: kNN 46.9 at 0.04, 40.3 at 0.07",
        above=0,
        group="Method",
    )
    anchors: int | None = setting(
        None, "images whose features are compared with [settled from the number of images]", at_least=2, group="Method"
    )
    anchor_dtype: str = setting(
        "fp32",
        "precision that the anchors are kept in; they are compared with in float32",
        choices=("fp32", "bf16", "fp16"),
        group="Method",
    )
    fill: str = setting(
        "wait",
        "anchors at the start: wait, none until they are written; random, as published",
        choices=("wait", "random"),
        group="Method",
    )

    def memory(self, *widths: int) -> "memory.FeatureBank":
        """New anchors as networks of these widths see them."""
        assert self.anchors is not None, "a rule settles it before a run"
        return memory.FeatureBank(self.anchors, widths, self.anchor_dtype, wait=self.fill == "wait")

    def compared(self, student: Tensor, teacher: Tensor, pairs: tuple[Tensor, Tensor]) -> Loss:
        """KL(teacher || student) of their softmax over the anchors, from cosines (B, K) each.

        `agreement` is the mass that both put on the same anchors.
        """
        log_q, log_p = ((cosine / self.temperature).log_softmax(1) for cosine in (student, teacher))
        total = losses.kl_divergence(log_q, log_p)
        parts = {"loss": total.detach(), "agreement": losses.distribution_overlap(log_q.detach(), log_p)}
        return Loss(total, parts, pairs)


@method("compress", "2q")
class TwoQueues(CompRess):
    """Student and teacher each compare an image with their own features of the same earlier images; there is no head.

    Anchors of the student are written by a copy that follows it slowly, so that they age slowly. The published code
    starts with random anchors that have nothing to do with the teacher's: targets are noise until they are overwritten,
    half an epoch where there are half as many anchors as images. Hence `fill` waits.
    """

    key_momentum: float | None = setting(
        None,
        "share that the key encoder keeps of itself a step; 0: the student writes its anchors itself "
        "[settled from the steps]",
        at_least=0,
        below=1,
        group="Method",
    )

    def head(self, width: int, taught: int = 0) -> tuple[int, ...]:
        """No projection head: features of different widths are never compared."""
        return ()

    def build(self, student: Encoder, taught: int = 0) -> Net:
        """The student, the key student unless the momentum is 0, and paired anchors of teacher and student."""
        assert self.key_momentum is not None, "a rule settles it before a run"
        follower = momentum_encoder.DropoutFreeMomentumEncoder
        key = {"key": follower(student, self.key_momentum)} if self.key_momentum else {}
        return nets.Net(student=student, **key, anchors=self.memory(taught, student.width))

    def loss(self, net: Net, batch: Batch, epoch: float) -> Loss:
        """KL of the student's distribution over its anchors from the teacher's over the teacher's."""
        view, teacher = batch.views[0], losses.l2_normalise(batch.taught[0])
        student = net.student(view)
        written = net.key(view) if self.key_momentum else student.detach()
        cosines = net.anchors.similarities(student, memory=1), net.anchors.similarities(teacher, memory=0)
        net.anchors.push(torch.cat([teacher, written], 1))
        return self.compared(*cosines, (student.detach(), written))


@method("compress", "1q")
class OneQueue(CompRess):
    """Student and teacher compare an image with the teacher's features of earlier images; one linear layer is added."""

    def head(self, width: int, taught: int = 0) -> tuple[int, ...]:
        """One linear layer to the teacher's width."""
        return (taught,)

    def build(self, student: Encoder, taught: int = 0) -> Net:
        """The student and the teacher's anchors."""
        return nets.Net(student=student, anchors=self.memory(taught))

    def loss(self, net: Net, batch: Batch, epoch: float) -> Loss:
        """KL of the student's distribution over the teacher's anchors from the teacher's own."""
        student, teacher = net.student(batch.views[0]), losses.l2_normalise(batch.taught[0])
        cosines = net.anchors.similarities(student, memory=0), net.anchors.similarities(teacher, memory=0)
        net.anchors.push(teacher)
        return self.compared(*cosines, (student.detach(), teacher))
