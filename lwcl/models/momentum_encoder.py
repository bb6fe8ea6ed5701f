"""Momentum encoders: exponential moving averages of the student (MoCo, arXiv 1911.05722, eq. 2)."""

import copy
import math
from typing import cast

import torch
from torch import Tensor, nn

from lwcl.models.backbone import batch_norms
from lwcl.models.encoder import Encoder
from lwcl.models.net import AfterStep


class MomentumEncoder(AfterStep):
    """A key or target encoder: a copy of the student without gradient, an exponential moving average of its weights.

    It stays in train mode, as MoCo's does: batch norm uses the statistics of the batch, and buffers are its own.
    `momentum` may change from step to step (`Method.after_step`).
    """

    def __init__(self, student: Encoder, momentum: float) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(student).requires_grad_(False)
        self.momentum = momentum

    @torch.no_grad()
    def forward(self, images: Tensor, splits: int = 1) -> Tensor:
        """Unit embeddings (B, dim) without gradient; see `Encoder.forward` for `splits`."""
        return cast(Tensor, self.encoder(images, splits, interleaved=True))

    @torch.no_grad()
    def after_step(self, student: nn.Module) -> None:
        """Each parameter becomes momentum x itself + (1 - momentum) x the student's."""
        torch._foreach_lerp_(list(self.encoder.parameters()), list(student.parameters()), 1 - self.momentum)


def rising_momentum(start: float, fraction: float) -> float:
    """A momentum that rises from `start` to 1 by a cosine, at a fraction of the run (BYOL, arXiv 2006.07733)."""
    return 1 - (1 - start) * (math.cos(math.pi * fraction) + 1) / 2


class DropoutFreeMomentumEncoder(MomentumEncoder):
    """A momentum encoder without dropout: in eval mode except for batch norm, which uses batch statistics.

    So is the key student of CompRess (arXiv 2010.14713).
    """

    def train(self, mode: bool = True) -> "DropoutFreeMomentumEncoder":
        """Sets only batch norm to `mode`."""
        super().train(False)
        for norm in batch_norms(self):
            norm.training = mode
        return self
