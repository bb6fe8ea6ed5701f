"""What CompRess (arXiv 2010.14713) compares a student with: anchors, their slow writer, the teacher's clusters."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lwcl import losses
from lwcl.models.encoder import MomentumEncoder, Queue

MEMORY_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class FeatureBank(Queue):
    """The latest `size` images as several networks see them: memories of unit features, side by side in one row.

    So memories are paired: row i of each is of the same view of the same image, and one pointer serves all. A new
    memory of width D holds random rows, uniform within 1 / sqrt(D / 3) as in the published code: their length is 1 on
    average, and those of different memories are unrelated. With `wait`, rows count only once they are written.
    """

    written: Tensor

    def __init__(self, size: int, widths: Sequence[int], precision: str = "fp32", *, wait: bool = True) -> None:
        start = torch.empty(size, sum(widths), dtype=MEMORY_DTYPES[precision])
        for part, width in zip(torch.split(start, list(widths), 1), widths, strict=True):
            part.uniform_(-((3 / width) ** 0.5), (3 / width) ** 0.5)
        super().__init__(size, sum(widths), start)
        self.register_buffer("written", torch.zeros(1, dtype=torch.int64))
        self.widths, self.wait = tuple(widths), wait

    def rows(self) -> Tensor:
        """The rows that may be compared with (up to size, sum of widths)."""
        return self.memory[: int(self.written)] if self.wait else self.memory

    def similarities(self, features: Tensor, memory: int) -> Tensor:
        """Cosines of unit features (B, D) with one of the memories: (B, up to size), at least float32."""
        return losses.cosine_similarities(features, torch.split(self.rows(), list(self.widths), 1)[memory])

    @torch.no_grad()
    def advance(self, leader: nn.Module) -> None:
        """As a queue's, and counts the rows that were written."""
        self.written.add_(sum(map(len, self.staged))).clamp_(max=len(self.memory))
        super().advance(leader)


class DropoutFreeMomentumEncoder(MomentumEncoder):
    """A key encoder without dropout: in eval mode but for its batch norm, which uses the batch's statistics.

    Those are the modes of CompRess's key student.
    """

    def train(self, mode: bool = True) -> "DropoutFreeMomentumEncoder":
        """Only batch norm is set to `mode`."""
        super().train(False)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.training = mode
        return self


class ClusterClassifier(nn.Module):
    """The teacher's clusters, and the layer that tells a student's features apart by them.

    The centroids are fitted before the first step; until then there is one cluster for all.
    """

    centroids: Tensor

    def __init__(self, count: int, width: int, taught: int) -> None:
        super().__init__()
        self.register_buffer("centroids", torch.zeros(count, taught))
        self.layer = nn.Linear(width, count)

    def nearest(self, taught: Tensor) -> Tensor:
        """The cluster (B,) of each of the teacher's features (B, D): the centroid at the smallest angle."""
        return losses.cosine_similarities(losses.l2_normalise(taught), self.centroids).argmax(1)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, count) of a student's features (B, width), at least float32."""
        return losses.upcast(self.layer(features))
