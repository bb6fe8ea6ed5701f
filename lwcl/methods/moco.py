"""MoCo v2 (arXiv 2003.04297): the baseline, and the base of ssl-small (2107.14762) and light-moco (2212.07158)."""

import math
from collections.abc import Sequence
from typing import Protocol

from lwcl.methods.lazy_imports import (
    Encoder,
    MomentumEncoder,
    Net,
    Queue,
    Tensor,
    encoder,
    losses,
    memory,
    momentum_encoder,
    nets,
    torch,
)  # fmt: skip
from lwcl.methods.method import Batch, Loss, Method, method
from lwcl.methods.multi_crop import MultiCrop
from lwcl.settings import Auto, setting


class MoCoNet(Protocol):
    """The modules of MoCo."""

    student: Encoder
    key: MomentumEncoder
    queue: Queue


class QueueContrast(Method):
    """What MoCo and DisCo share: the contrast of queries with a queue of keys from a momentum encoder."""

    temperature: float = setting(0.2, "softmax temperature of the contrastive loss", above=0, group="Method")
    queue_size: Auto[int] = setting(
        None, "negative keys in the queue [auto: from the number of images]", at_least=1, group="Method"
    )
    key_momentum: Auto[float] = setting(
        None, "EMA momentum of the key encoder [auto: from the number of steps]", at_least=0, below=1, group="Method"
    )
    hidden: str = setting(
        "1x", "hidden width of the projection head: 1x or 2x the backbone's, a number, or 0: linear", group="Method"
    )
    dim: int = setting(128, "width of the embedding", at_least=2, group="Method")
    head_norm: bool = setting(False, "batch norm in the projection head, as in MoCo v3", group="Method")
    symmetric: bool = setting(False, "use each view as query and as key: the sum of both losses", group="Method")

    def chance(self, batch: int) -> tuple[float, float | None]:
        """One of the queue's keys and the own one, drawn at random."""
        candidates = 1 + self.queue_size
        return 1 / candidates, math.log(candidates) * (2 if self.symmetric else 1)

    def head(self, width: int, teacher_dim: int = 0) -> tuple[int, ...]:
        """Widths of the projection head on a backbone of `width` features: hidden (if any), then `dim`."""
        hidden = encoder.hidden_width(self.hidden, width)
        return (hidden, self.dim) if hidden else (self.dim,)

    def build(self, student: Encoder, teacher_dim: int = 0) -> Net:
        """The student, its momentum encoder, and the queue of keys."""
        return nets.Net(
            student=student,
            key=momentum_encoder.MomentumEncoder(student, self.key_momentum),
            queue=memory.Queue(self.queue_size, self.dim),
        )

    def contrast(self, net: MoCoNet, queries: Tensor, keys: Tensor, epoch: float) -> Loss:
        """Queries (B, dim) against their keys (B, dim) and the queue, which the keys enter after the step."""
        positive, negative = losses.positive_negative_cosines(queries, keys, net.queue.rows())
        net.queue.push(keys)
        total = self.contrastive_loss(positive, negative, epoch)
        top1 = (positive.detach() > negative.detach().amax(1)).float().mean()
        return Loss(total, {"loss": total.detach(), "top1": top1}, (queries.detach(), keys))

    def contrastive_loss(self, positive: Tensor, negative: Tensor, epoch: float) -> Tensor:
        """Cross-entropy with the positive key as the target; cosines (B,) and (B, K), before the temperature."""
        return losses.info_nce(positive, negative, self.temperature)


@method("pretrain", "moco")
class MoCo(MultiCrop, QueueContrast):
    """Contrast two views of an image with a queue of keys from a momentum encoder."""

    def loss(self, net: MoCoNet, batch: Batch, epoch: float) -> Loss:
        """InfoNCE of view 1 with the keys of view 2 (MoCo, eq. 1), and of view 2 with those of view 1 if symmetric.

        Local crops are queries of the same keys, with the weight `local_weight` (SSLight, arXiv 2210.02808).
        """
        views, local_views = self.global_and_local(batch.views)
        ways, contrasts = [views, views[::-1]][: 2 if self.symmetric else 1], []
        local = [net.student(view) for view in local_views]
        for query_view, key_view in ways:
            keys = net.key(key_view)
            queries = net.student(query_view)
            contrasts.append(self.multi_crop_contrast(net, queries, keys, local, epoch))
        total = sum((loss.total for loss in contrasts[1:]), contrasts[0].total)
        metrics = {
            name: torch.stack([loss.metrics[name] for loss in contrasts]).mean() for name in contrasts[0].metrics
        }
        return Loss(total, metrics, contrasts[0].pairs)

    def multi_crop_contrast(
        self, net: MoCoNet, queries: Tensor, keys: Tensor, local: Sequence[Tensor], epoch: float
    ) -> Loss:
        """The contrast of the queries (B, dim) of a global view and of its local crops with one view's keys."""
        contrast = self.contrast(net, queries, keys, epoch)
        if not local:
            return contrast
        cosines = (losses.positive_negative_cosines(query, keys, net.queue.rows()) for query in local)
        total = self.weigh(contrast.total, [self.contrastive_loss(*pair, epoch) for pair in cosines])
        return contrast._replace(total=total, metrics={**contrast.metrics, "loss": total.detach()})
