"""Memories: the queue of keys of MoCo, the feature bank of CompRess, the teacher's clusters."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lwcl import losses
from lwcl.models.net import AfterStep
from lwcl.system import distributed


class Queue(AfterStep):
    """The latest `size` unit vectors, first in, first out; it starts with random ones, as MoCo's does.

    `push` only stages rows. They are written after the optimizer step, so that no batch is contrasted with its own keys
    and nothing is cloned.
    """

    memory: Tensor
    pointer: Tensor

    def __init__(self, size: int, dim: int, start: Tensor | None = None) -> None:
        """`start` (size, dim) is the initial content; None: random unit vectors."""
        super().__init__()
        self.register_buffer("memory", F.normalize(torch.randn(size, dim), dim=1) if start is None else start)
        self.register_buffer("pointer", torch.zeros(1, dtype=torch.int64))
        self.staged: list[Tensor] = []

    def rows(self) -> Tensor:
        """The content (size, dim); its order has no meaning."""
        return self.memory

    def push(self, rows: Tensor) -> None:
        """Stages rows (B, dim) of every process, to be written after the step."""
        self.staged.append(distributed.all_gather_rows(rows.detach()))

    @torch.no_grad()
    def after_step(self, student: nn.Module) -> None:
        """Writes the staged rows at the pointer, wrapping around at the end."""
        if self.staged:
            rows = torch.cat(self.staged).to(self.memory)
            places = (self.pointer + torch.arange(len(rows), device=rows.device)) % len(self.memory)
            self.memory[places[-len(self.memory) :]] = rows[-len(self.memory) :]
            self.pointer.add_(len(rows)).remainder_(len(self.memory))
            self.staged.clear()


MEMORY_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class FeatureBank(Queue):
    """CompRess's anchors (arXiv 2010.14713): unit features of the latest `size` images by one or several networks.

    Features of several networks lie side by side in one row: row i holds those of the same view of the same image, and
    one pointer serves all. Initial features of width D are random, uniform in [-sqrt(3 / D), sqrt(3 / D)] as in the
    published code: of length 1 on average, and unrelated between networks. With `wait`, only rows that were written are
    used.
    """

    written: Tensor

    def __init__(self, size: int, widths: Sequence[int], precision: str = "fp32", *, wait: bool = True) -> None:
        start = torch.empty(size, sum(widths), dtype=MEMORY_DTYPES[precision])
        for part, width in zip(torch.split(start, list(widths), 1), widths, strict=True):
            part.uniform_(-((3 / width) ** 0.5), (3 / width) ** 0.5)
        super().__init__(size, sum(widths), start)
        self.register_buffer("written", torch.zeros(1, dtype=torch.int64))
        self.widths, self.wait = tuple(widths), wait
        self.full = False  # known to be: a GPU is asked until then only

    def rows(self) -> Tensor:
        """The rows in use (up to size, sum of widths)."""
        self.full = self.full or not self.wait or int(self.written) == len(self.memory)
        return self.memory if self.full else self.memory[: int(self.written)]

    def similarities(self, features: Tensor, memory: int) -> Tensor:
        """Cosines of unit features (B, D) with those of one network: (B, up to size), at least float32."""
        return losses.cosine_similarities(features, torch.split(self.rows(), list(self.widths), 1)[memory])

    @torch.no_grad()
    def after_step(self, student: nn.Module) -> None:
        """Writes the staged rows and counts them."""
        self.written.add_(sum(map(len, self.staged))).clamp_(max=len(self.memory))
        super().after_step(student)


class ClusterClassifier(nn.Module):
    """The teacher's clusters, and a linear layer that classifies the student's features into them.

    The centroids are fitted before the first step; until then all images are in one cluster.
    """

    centroids: Tensor

    def __init__(self, count: int, width: int, teacher_dim: int) -> None:
        super().__init__()
        self.register_buffer("centroids", torch.zeros(count, teacher_dim))
        self.layer = nn.Linear(width, count)

    def nearest(self, features: Tensor) -> Tensor:
        """The cluster (B,) of the teacher's features (B, D): the centroid with the largest cosine."""
        return losses.cosine_similarities(losses.l2_normalise(features), self.centroids).argmax(1)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, count) of the student's features (B, width), at least float32."""
        return losses.upcast(self.layer(features))
