"""SimCLR (Chen et al., arXiv 2002.05709): contrast with the other images of the batch; and optional extensions."""

import math
from typing import Any, Protocol

from lwcl.methods.lazy_imports import (
    Encoder,
    MomentumEncoder,
    Net,
    Queue,
    Tensor,
    distributed,
    encoder,
    losses,
    memory,
    momentum_encoder,
    nets,
    torch,
)  # fmt: skip
from lwcl.methods.method import Batch, Loss, Progress, method
from lwcl.methods.multi_crop import MultiCrop
from lwcl.settings import setting


class SimCLRNet(Protocol):
    """The modules of SimCLR; some exist only in its variants."""

    student: Encoder
    predictor: "torch.nn.Sequential"  # empty without a predictor
    key: MomentumEncoder  # with momentum keys
    queue: Queue  # with a queue


@method("pretrain", "simclr")
class SimCLR(MultiCrop):
    """Contrast views of an image with the other images of the batch (NT-Xent).

    Negatives are the views of the other images of a micro-batch: with `accumulate`, each micro-batch has only its own.
    Keys have no gradient, unless `key_gradient` asks for that of the published loss; without it fewer steps did as well
    (docs/results.md), and a step costs less.
    """

    temperature: float = setting(0.2, "softmax temperature of the contrastive loss", above=0, group="Method")
    hidden: str = setting(
        "2048", "hidden width of the projection head: 1x or 2x the backbone's, a number, or 0: linear", group="Method"
    )
    dim: int = setting(128, "width of the embedding", at_least=2, group="Method")
    head_norm: bool = setting(True, "batch norm in the projection head, as in MoCo v3", group="Method")
    key_gradient: bool = setting(
        False, "train through the keys too, as published; off: stop-gradient on the keys", group="Method"
    )
    decoupled: bool = setting(
        False, "leave the positive out of the denominator (DCL, arXiv 2110.06848)", group="Method"
    )
    smoothing: float = setting(
        0.0, "share of the target given to the nearest negatives, as in light-moco", at_least=0, below=1, group="Method"
    )
    neighbours: int = setting(
        10, "number of nearest negatives that share the smoothed target", at_least=1, group="Method"
    )
    queue_size: int = setting(0, "keys of earlier batches in a queue, as further negatives", at_least=0, group="Method")
    key_momentum: float = setting(
        0.0,
        "initial EMA momentum of a key encoder (rises to 1 by a cosine over the run); 0: no key encoder",
        at_least=0,
        below=1,
        group="Method",
    )
    predictor: str = setting(
        "0", "hidden width of a predictor on the queries (MoCo v3: 4096): as --hidden, or 0: none", group="Method"
    )

    def chance(self, batch: int) -> tuple[float, float | None]:
        """One of the keys of the other images and the own one, drawn at random."""
        candidates = 2 * batch - 1 + self.queue_size
        return 1 / candidates, None if self.decoupled else math.log(candidates)

    def head(self, width: int, teacher_dim: int = 0) -> tuple[int, ...]:
        """Widths of the projection head on a backbone of `width` features: hidden (if any), then `dim`."""
        hidden = encoder.hidden_width(self.hidden, width)
        return (hidden, self.dim) if hidden else (self.dim,)

    def build(self, student: Encoder, teacher_dim: int = 0) -> Net:
        """The student, and the predictor, key encoder and queue that were asked for."""
        hidden = encoder.hidden_width(self.predictor, student.width)
        predictor = encoder.mlp(self.dim, (hidden, self.dim) if hidden else (), norm=True)
        modules: dict[str, torch.nn.Module] = {"predictor": predictor}
        if self.key_momentum:
            modules["key"] = momentum_encoder.MomentumEncoder(student, self.key_momentum)
        if self.queue_size:
            modules["queue"] = memory.Queue(self.queue_size, self.dim)
        return nets.Net(student, **modules)

    def loss(self, net: SimCLRNet, batch: Batch, epoch: float) -> Loss:
        """Mean InfoNCE of each view with the keys of all other global views; `local_weight` weights local crops."""
        views, local_views = self.global_and_local(batch.views)
        projections = [net.student(view) for view in views]
        own = [net.key(view) for view in views] if self.key_momentum else projections
        keys = [distributed.gather_with_gradient(key) for key in own]
        queries = [self.predict(net, projection) for projection in projections]
        results = [self.contrast(net, query, keys, i) for i, query in enumerate(queries)]
        total = torch.stack([loss for loss, _ in results]).mean()
        local = [self.predict(net, net.student(view)) for view in local_views]
        total = self.weigh(total, [self.contrast(net, query, keys, None)[0] for query in local])
        if self.queue_size:
            for key in own:
                net.queue.push(key)
        top1 = torch.stack([accuracy for _, accuracy in results]).mean()
        return Loss(total, {"loss": total.detach(), "top1": top1}, (projections[0].detach(), own[1].detach()))

    def predict(self, net: SimCLRNet, projection: Tensor) -> Tensor:
        """Queries (B, dim): the projections, through the predictor if there is one."""
        return losses.l2_normalise(net.predictor(projection)) if len(net.predictor) else projection

    def contrast(self, net: SimCLRNet, queries: Tensor, keys: list[Tensor], own: int | None) -> tuple[Tensor, Tensor]:
        """Loss and top-1 of queries (B, dim) of view `own` (None: local) with each other view's keys as positives.

        `keys` (N, dim) of each view are those of all processes. Negatives are the keys of all other images in all
        global views, and the queue.
        """
        all_keys = torch.cat([*keys, net.queue.rows()] if self.queue_size else keys)
        cosines = queries @ all_keys.T if self.key_gradient else losses.cosine_similarities(queries, all_keys)
        images = distributed.own_rows(len(queries), queries.device)
        positive_columns = torch.stack([images + view * len(keys[0]) for view in range(len(keys))], 1)
        positives = cosines.gather(1, positive_columns).unbind(1)
        negatives = cosines.scatter(1, positive_columns, -torch.inf)
        others = [positive for view, positive in enumerate(positives) if view != own]
        loss = torch.stack([self.contrastive_loss(positive, negatives) for positive in others]).mean()
        return loss, (others[0].detach() > negatives.detach().amax(1)).float().mean()

    def contrastive_loss(self, positive: Tensor, negatives: Tensor) -> Tensor:
        """InfoNCE of cosines (B,) and (B, K), before the temperature; the image's own keys are -inf in the latter."""
        if self.decoupled:
            return losses.decoupled_info_nce(positive, negatives, self.temperature)
        if not self.smoothing:
            return losses.info_nce(positive, negatives, self.temperature)
        others = int(negatives[0].isfinite().sum())
        target = losses.smoothed_target("top", self.smoothing, min(self.neighbours, others), others)
        return losses.smoothed_info_nce(positive, negatives, self.temperature, target)

    def after_step(self, net: Any, progress: Progress) -> None:
        """The momentum of the key encoder rises to 1 by a cosine over the run (MoCo v3, arXiv 2104.02057)."""
        if self.key_momentum:
            net.key.momentum = momentum_encoder.rising_momentum(self.key_momentum, progress.fraction)
        net.after_step()
