"""SwAV (Caron et al., arXiv 2006.09882): predict a view's cluster assignment from the other views of the image."""

import math
from typing import Protocol

from lwcl.methods.lazy_imports import (
    Encoder,
    FeatureBank,
    Net,
    Prototypes,
    Tensor,
    distributed,
    encoder,
    losses,
    memory,
    nets,
    prototypes,
    torch,
)  # fmt: skip
from lwcl.methods.method import Batch, Loss, method
from lwcl.methods.multi_crop import MultiCrop
from lwcl.settings import setting


class SwAVNet(Protocol):
    """The modules of SwAV."""

    student: Encoder
    prototypes: Prototypes
    queue: FeatureBank  # with a queue


@method("pretrain", "swav")
class SwAV(MultiCrop):
    """Predict the assignment of one view to prototypes from every other view of the image.

    Assignments are balanced over the batch (and the queue) by Sinkhorn-Knopp, so that every prototype is used. In a
    collapse all images get the same assignment, and the loss is ln(prototypes).
    """

    temperature: float = setting(0.1, "softmax temperature over the prototypes", above=0, group="Method")
    prototypes: int = setting(
        3000, "number of prototypes; published for 1,000 classes; results vary little from 1,000 to 10,000",
        at_least=2, group="Method",
    )  # fmt: skip
    prototype_freeze: float = setting(1.0, "epochs in which the prototypes are not trained", at_least=0, group="Method")
    epsilon: float = setting(
        0.05,
        "Sinkhorn entropy regularization: smaller gives sharper assignments; 0.03 helps against collapse",
        above=0,
        group="Method",
    )
    sinkhorn_iterations: int = setting(3, "iterations that balance the assignments", at_least=1, group="Method")
    hidden: str = setting(
        "2048", "hidden width of the projection head: 1x or 2x the backbone's, a number, or 0: linear", group="Method"
    )
    dim: int = setting(128, "width of the embedding", at_least=2, group="Method")
    queue_size: int = setting(
        0, "embeddings of earlier images among which assignments are balanced too, for small batches", at_least=0,
        group="Method",
    )  # fmt: skip
    queue_start: float = setting(15.0, "epochs before the queue is used", at_least=0, group="Method")

    @property
    def stalled(self) -> tuple[float, str]:
        """ln(prototypes), where every image has the same, uniform assignment; and what SwAV's authors try."""
        remedies = "try --epsilon 0.03, fewer --prototypes, a longer --prototype-freeze, or fewer --local-crops"
        return math.log(self.prototypes), remedies

    def chance(self, batch: int) -> tuple[float, float | None]:
        """One of the prototypes, drawn at random."""
        return 1 / self.prototypes, self.stalled[0]

    def head(self, width: int, teacher_dim: int = 0) -> tuple[str, ...]:
        """The projector: linear, batch norm, ReLU, linear; or one linear layer."""
        hidden = encoder.hidden_width(self.hidden, width)
        return (*((f"linear {hidden}", "norm", "relu") if hidden else ()), f"linear {self.dim}")

    def build(self, student: Encoder, teacher_dim: int = 0) -> Net:
        """The student, the prototypes, and a queue of the embeddings of both global views if there is one."""
        modules: dict[str, torch.nn.Module] = {"prototypes": prototypes.Prototypes(self.prototypes, self.dim)}
        if self.queue_size:
            modules["queue"] = memory.FeatureBank(self.queue_size, (self.dim, self.dim))
        return nets.Net(student, **modules)

    def loss(self, net: SwAVNet, batch: Batch, epoch: float) -> Loss:
        """Mean cross-entropy of each view's softmax over the prototypes with the other global views' assignments.

        Local crops predict both assignments. `top1`: the share of images whose global views prefer one prototype.
        """
        views, local_views = self.global_and_local(batch.views)
        embeddings = [net.student(view) for view in views]
        frozen = epoch < self.prototype_freeze
        scores = [net.prototypes(embedding, frozen) for embedding in embeddings]
        targets = [self.assign(net, scores[view], view, epoch) for view in range(len(views))]
        total = torch.stack([self.swapped(*pair) for pair in zip(scores, targets[::-1], strict=True)]).mean()
        local = [net.prototypes(net.student(view), frozen) for view in local_views]
        total = self.weigh(total, [self.swapped(score, target) for score in local for target in targets])
        if self.queue_size:
            net.queue.push(torch.cat(embeddings, 1))
        top1 = (scores[0].argmax(1) == scores[1].argmax(1)).float().mean()
        pairs = embeddings[0].detach(), embeddings[1].detach()
        return Loss(total, {"loss": total.detach(), "top1": top1}, pairs)

    def assign(self, net: SwAVNet, scores: Tensor, view: int, epoch: float) -> Tensor:
        """The assignments (B, K) of a view's images with these scores, balanced over all processes and the queue."""
        own, start = scores.detach(), len(scores) * distributed.rank()
        everyone = [distributed.all_gather_rows(own)]
        if self.queue_size and epoch >= self.queue_start:
            everyone.append(net.prototypes(torch.split(net.queue.rows(), self.dim, 1)[view], True))
        balanced = losses.sinkhorn(torch.cat(everyone), self.epsilon, self.sinkhorn_iterations)
        return balanced[start : start + len(own)]

    def swapped(self, scores: Tensor, target: Tensor) -> Tensor:
        """Mean cross-entropy () of a view's scores (B, K) with another view's assignments (B, K)."""
        return torch.nn.functional.cross_entropy(scores / self.temperature, target)
