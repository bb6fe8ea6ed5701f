"""DisCo (arXiv 2104.09124): MoCo v2, whose student also embeds both views where the teacher does."""

import dataclasses

from lwcl.methods._torch import Encoder, Net, Tensor, losses, torch
from lwcl.methods.method import Batch, Loss, method
from lwcl.methods.moco import MoCo
from lwcl.methods.seed import matching_teacher_dim
from lwcl.settings import setting


@method("distill", "disco")
class DisCo(MoCo):
    """MoCo v2, and the squared distance of the student's embeddings of both views to the teacher's.

    The published code sums the squared distances over the images of one device and means the contrast over them, so its
    distance weighs as much as there are images on a device: 32 of a batch of 256 on eight. Here both are means, and
    `agreement` 32 gives the published loss whatever the devices.
    """

    taught = "embedding"

    hidden: str = setting(
        "2048", "hidden width of the head: 1x or 2x the backbone's, a number, or 0 for a linear head", group="Method"
    )
    dim: int | None = setting(  # type: ignore[assignment]  # MoCo's is free, this one the teacher's
        None, "width of the embedding [the teacher's]", at_least=2, group="Method"
    )
    agreement: float = setting(
        32.0,
        "weight of the squared distance to the teacher's embeddings, a mean over images",
        at_least=0,
        group="Method",
    )
    contrast_weight: float = setting(
        1.0,
        "weight of the contrast; 0 leaves only the teacher, as the published --only-mse",
        at_least=0,
        group="Method",
    )
    teacher_bn: str = setting(
        "eval",
        "statistics of the teacher's batch norm: eval, those it was trained to; train, the batch's, as published",
        choices=("eval", "train"),
        group="Method",
    )

    @property
    def teacher_by_batch(self) -> bool:
        """As `teacher_bn` says."""
        return self.teacher_bn == "train"

    def as_wide(self, taught: int) -> "DisCo":
        """This method with the teacher's width as its own; raises `UsageError` where another was chosen."""
        return dataclasses.replace(self, dim=matching_teacher_dim(self.dim, taught))

    def head(self, width: int, taught: int = 0) -> tuple[int, ...]:
        """As MoCo's, ending in the teacher's width."""
        return super(DisCo, self.as_wide(taught)).head(width)

    def build(self, student: Encoder, taught: int = 0) -> Net:
        """As MoCo's, with a queue of the teacher's width."""
        return super(DisCo, self.as_wide(taught)).build(student)

    def loss(self, net: Net, batch: Batch, epoch: float) -> Loss:
        """Contrast of view 1 with the key of view 2 (and the other way if symmetric), and the teacher on both views.

        The student sees both views with gradient, one after the other: two sets of batch statistics, as published.
        """
        students = [net.student(view, splits=self.bn_splits) for view in batch.views]
        distances = [losses.alignment(s, losses.l2_normalise(t)) for s, t in zip(students, batch.taught, strict=True)]
        ways = list(zip(students, reversed(batch.views), strict=True))[: 2 if self.symmetric else 1]
        contrasts = [self.against_queue(net, queries, key_view, epoch) for queries, key_view in ways]
        contrast = torch.stack([loss.total for loss in contrasts]).sum()
        distance = torch.stack(distances).sum()
        total = self.contrast_weight * contrast + self.agreement * distance
        parts = {
            "loss": total.detach(),
            "contrast": contrast.detach(),
            "agreement": 1 - distance.detach() / 4,  # the mean cosine over both views
            "top1": torch.stack([loss.parts["top1"] for loss in contrasts]).mean(),
        }
        return Loss(total, parts, contrasts[0].pairs)

    def against_queue(self, net: Net, queries: Tensor, key_view: Tensor, epoch: float) -> Loss:
        """MoCo's loss of queries (B, dim) that keep their graph; the keys then wait to enter the queue."""
        keys = net.key(key_view, splits=self.bn_splits)
        similar, others = losses.positive_negative_cosines(queries, keys, net.queue.rows())
        net.queue.push(keys)
        found = (similar > others.amax(1)).float().mean()
        return Loss(self.target_loss(similar, others, epoch), {"top1": found}, (queries.detach(), keys))
