"""What CompRess (arXiv 2010.14713) compares a student with: anchors, their slow writer, the teacher's clusters."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lwcl import losses
from lwcl.system import distributed


class Queue(nn.Module):
    """The latest `size` unit vectors, oldest overwritten first; starts with random ones, as MoCo's does.

    `push` only stages rows: they enter at `advance`, after the step's backward, so that no batch meets its own keys and
    nothing is cloned.
    """

    memory: Tensor
    pointer: Tensor

    def __init__(self, size: int, dim: int, start: Tensor | None = None) -> None:
        """`start` (size, dim) is what it holds at first, if not random unit vectors."""
        super().__init__()
        self.register_buffer("memory", F.normalize(torch.randn(size, dim), dim=1) if start is None else start)
        self.register_buffer("pointer", torch.zeros(1, dtype=torch.int64))
        self.staged: list[Tensor] = []

    def rows(self) -> Tensor:
        """The queue's content (size, dim), in no order that matters."""
        return self.memory

    def push(self, rows: Tensor) -> None:
        """Stages rows (B, dim) of every process to enter at `advance`."""
        self.staged.append(distributed.gather_rows(rows.detach()))

    @torch.no_grad()
    def advance(self, leader: nn.Module) -> None:
        """Writes the staged rows behind the pointer, wrapping at the end."""
        if self.staged:
            rows = torch.cat(self.staged).to(self.memory)
            places = (self.pointer + torch.arange(len(rows), device=rows.device)) % len(self.memory)
            self.memory[places[-len(self.memory) :]] = rows[-len(self.memory) :]
            self.pointer.add_(len(rows)).remainder_(len(self.memory))
            self.staged.clear()


if TYPE_CHECKING:
    pass

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
