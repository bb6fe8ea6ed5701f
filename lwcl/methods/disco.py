"""DisCo (arXiv 2104.09124): MoCo v2, and the student's embeddings of both views regress the teacher's."""

import dataclasses

from lwcl.methods.lazy_imports import Encoder, Net, losses, torch
from lwcl.methods.method import Batch, Loss, method
from lwcl.methods.moco import MoCoNet, QueueContrast
from lwcl.methods.seed import matching_teacher_dim
from lwcl.settings import setting


@method("distill", "disco")
class DisCo(QueueContrast):
    """MoCo v2 plus the squared distance of the student's embeddings of both views to the teacher's.

    The published code sums squared distances over the images of one GPU but averages the contrastive loss, so the
    distance is weighted by the images on a GPU: 32 of a batch of 256 on eight. Here both are means, and
    `distance_weight` 32 gives the published loss on any number of devices.
    """

    teacher_space = "embedding"

    hidden: str = setting(
        "2048", "hidden width of the projection head: 1x or 2x the backbone's, a number, or 0: linear", group="Method"
    )
    dim: int | None = setting(  # type: ignore[assignment]  # MoCo's is free, this one the teacher's
        None, "width of the embedding [the teacher's]", at_least=2, group="Method"
    )
    distance_weight: float = setting(
        32.0, "weight of the mean squared distance to the teacher's embeddings", at_least=0, group="Method"
    )
    contrast_weight: float = setting(
        1.0, "weight of the contrastive loss; 0: distillation only, as the published --only-mse", at_least=0,
        group="Method",
    )  # fmt: skip
    teacher_bn: str = setting(
        "eval",
        "batch norm of the teacher: eval: running statistics; train: statistics of the batch, as published",
        choices=("eval", "train"),
        group="Method",
    )

    @property
    def teacher_uses_batch_stats(self) -> bool:
        """Whether the teacher normalises by batch statistics."""
        return self.teacher_bn == "train"

    def chance(self, batch: int) -> tuple[float, float | None]:
        """As MoCo's; the loss has the teacher's part too."""
        return super().chance(batch)[0], None

    def with_teacher_dim(self, teacher_dim: int) -> "DisCo":
        """This method with the teacher's width as `dim`; raises `UsageError` if another was chosen."""
        return dataclasses.replace(self, dim=matching_teacher_dim(self.dim, teacher_dim))

    def head(self, width: int, teacher_dim: int = 0) -> tuple[int, ...]:
        """As MoCo's, ending in the teacher's width."""
        return super(DisCo, self.with_teacher_dim(teacher_dim)).head(width)

    def build(self, student: Encoder, teacher_dim: int = 0) -> Net:
        """As MoCo's, with a queue of the teacher's width."""
        return super(DisCo, self.with_teacher_dim(teacher_dim)).build(student)

    def loss(self, net: MoCoNet, batch: Batch, epoch: float) -> Loss:
        """MoCo's loss of view 1 with the keys of view 2 (both ways if symmetric), and the distances of both views.

        The student computes both views with gradient, one after the other: two sets of batch statistics, as published.
        """
        students = [net.student(view) for view in batch.views]
        distances = [
            losses.alignment(student, losses.l2_normalise(teacher))
            for student, teacher in zip(students, batch.teacher_output, strict=True)
        ]
        directions = list(zip(students, reversed(batch.views), strict=True))[: 2 if self.symmetric else 1]
        contrasts = [self.contrast(net, queries, net.key(key_view), epoch) for queries, key_view in directions]
        contrast = torch.stack([loss.total for loss in contrasts]).sum()
        distance = torch.stack(distances).sum()
        total = self.contrast_weight * contrast + self.distance_weight * distance
        metrics = {
            "loss": total.detach(),
            "contrast": contrast.detach(),
            "agreement": 1 - distance.detach() / 4,  # the mean cosine over both views
            "top1": torch.stack([loss.metrics["top1"] for loss in contrasts]).mean(),
        }
        return Loss(total, metrics, contrasts[0].pairs)
