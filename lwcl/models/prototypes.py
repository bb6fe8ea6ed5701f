"""Prototypes: trained centres of clusters on the unit sphere (SwAV, arXiv 2006.09882)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lwcl.losses import upcast
from lwcl.models.net import AfterStep


class Prototypes(AfterStep):
    """`count` unit vectors (count, dim), scaled back to length 1 after each step."""

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(F.normalize(torch.randn(count, dim), dim=1))

    def forward(self, embeddings: Tensor, frozen: bool = False) -> Tensor:
        """Cosines (B, count) of unit embeddings (B, dim), at least float32; if frozen, the prototypes' gradient is 0.

        Not none at all: fused SGD fails for a parameter that has its first gradient later than others.
        """
        weight = self.weight.detach() + 0 * self.weight if frozen else self.weight
        with torch.autocast(embeddings.device.type, enabled=False):
            rows = upcast(embeddings)
            return rows @ weight.to(rows.dtype).T

    @torch.no_grad()
    def after_step(self, student: nn.Module) -> None:
        """Scales them to length 1."""
        self.weight.copy_(F.normalize(self.weight, dim=1))
