"""MoCo v2 (arXiv 2003.04297), the baseline, and the ground of ssl-small (2107.14762) and light-moco (2212.07158)."""

from lwcl.methods._torch import Encoder, Net, Tensor, encoder, losses, memory, momentum_encoder, nets, torch
from lwcl.methods.method import Batch, Loss, Method, method
from lwcl.settings import setting


@method("pretrain", "moco")
class MoCo(Method):
    """Find the other view of an image among a queue of keys from a slowly following encoder."""

    temperature: float = setting(0.2, "softmax temperature of the contrast", above=0, group="Method")
    queue_size: int | None = setting(
        None, "keys to contrast with [settled from the number of images]", at_least=1, group="Method"
    )
    key_momentum: float | None = setting(
        None,
        "share that the key encoder keeps of itself a step [settled from the steps]",
        at_least=0,
        below=1,
        group="Method",
    )
    hidden: str = setting(
        "1x", "hidden width of the head: 1x or 2x the backbone's, a number, or 0 for a linear head", group="Method"
    )
    dim: int = setting(128, "width of the embedding that is contrasted", at_least=2, group="Method")
    head_norm: bool = setting(False, "batch norm after the head's layers, as in MoCo v3", group="Method")
    symmetric: bool = setting(False, "each view is query and key: the sum of both losses", group="Method")
    bn_splits: int = setting(
        1, "batch-normalise this many parts of a batch apart, as on many devices", at_least=1, group="Method"
    )

    @property
    def norm(self) -> bool:
        """As `head_norm` says."""
        return self.head_norm

    @property
    def splits(self) -> int:
        """As `bn_splits` says."""
        return self.bn_splits

    def head(self, width: int, taught: int = 0) -> tuple[int, ...]:
        """Widths of the projection head on a backbone of `width` features: hidden (if any), then `dim`."""
        hidden = encoder.hidden_width(self.hidden, width)
        return (hidden, self.dim) if hidden else (self.dim,)

    def build(self, student: Encoder, taught: int = 0) -> Net:
        """The student, the key encoder that follows it, and the queue of keys."""
        assert self.queue_size is not None and self.key_momentum is not None, "rules settle both before a run"
        return nets.Net(
            student=student,
            key=momentum_encoder.MomentumEncoder(student, self.key_momentum),
            queue=memory.Queue(self.queue_size, self.dim),
        )

    def loss(self, net: Net, batch: Batch, epoch: float) -> Loss:
        """InfoNCE of view 1 against the keys of view 2 (papers: MoCo, eq. 1), and the other way too if symmetric."""
        first, second = batch.views
        ways = [(first, second), (second, first)] if self.symmetric else [(first, second)]
        contrasts = [self.contrast(net, query_view, key_view, epoch) for query_view, key_view in ways]
        total = sum((loss.total for loss in contrasts[1:]), contrasts[0].total)
        parts = {name: torch.stack([loss.parts[name] for loss in contrasts]).mean() for name in contrasts[0].parts}
        return Loss(total, parts, contrasts[0].pairs)

    def contrast(self, net: Net, query_view: Tensor, key_view: Tensor, epoch: float) -> Loss:
        """One way: queries (B, dim) against their keys and the queue; the keys then wait to enter the queue."""
        keys = net.key(key_view, splits=self.bn_splits)
        queries = net.student(query_view, splits=self.bn_splits)
        positive, negative = losses.positive_negative_cosines(queries, keys, net.queue.rows())
        net.queue.push(keys)
        total = self.target_loss(positive, negative, epoch)
        found = (positive.detach() > negative.detach().amax(1)).float().mean()
        return Loss(total, {"loss": total.detach(), "top1": found}, (queries.detach(), keys))

    def target_loss(self, positive: Tensor, negative: Tensor, epoch: float) -> Tensor:
        """Cross-entropy with the positive as the one target; similarities (B,) and (B, K) before the temperature."""
        return losses.info_nce(positive, negative, self.temperature)
