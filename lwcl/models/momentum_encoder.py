"""Momentum encoders: exponential moving averages of the student (MoCo, arXiv 1911.05722, eq. 2)."""

import copy
import math
from typing import cast

import torch
from torch import Tensor, nn

from lwcl.models.backbone import batch_norms
from lwcl.models.encoder import Encoder
from lwcl.models.low_bits import low_bit_layers
from lwcl.models.net import AfterStep
from lwcl.models.split_norm import split_batch_norms
from lwcl.system import distributed


class MomentumEncoder(AfterStep):
    """A key or target encoder: a copy of the student without gradient, an exponential moving average of its weights.

    It stays in train mode, as MoCo's does: batch norm uses the statistics of the batch, and buffers are its own. With
    several processes or `parts` of a batch, these are shuffled (`RowShuffle`), so that batch norm does not tell which
    key is the positive. `momentum` may change from step to step (`Method.after_step`).
    """

    def __init__(self, student: Encoder, momentum: float) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(student).requires_grad_(False)
        self.momentum, self.parts = momentum, 1

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Unit embeddings (B, dim) without gradient."""
        norms = any(not isinstance(norm, nn.SyncBatchNorm) for norm in batch_norms(self.encoder))
        if not (norms and distributed.is_distributed()):
            return cast(Tensor, self.encoder(images))
        shuffle = distributed.RowShuffle(len(images), self.parts)
        return shuffle.undo(self.encoder(shuffle.apply(images)))

    def split(self, parts: int) -> None:
        """Lets its batch norms compute a batch in that many interleaved parts."""
        self.parts = parts
        split_batch_norms(self.encoder, parts, interleaved=True)

    @torch.no_grad()
    def after_step(self, student: nn.Module) -> None:
        """Each parameter becomes momentum x itself + (1 - momentum) x the student's."""
        torch._foreach_lerp_(list(self.encoder.parameters()), list(student.parameters()), 1 - self.momentum)


def rising_momentum(start: float, fraction: float) -> float:
    """A momentum that rises from `start` to 1 by a cosine, at a fraction of the run (BYOL, arXiv 2006.07733)."""
    return 1 - (1 - start) * (math.cos(math.pi * fraction) + 1) / 2


class DropoutFreeMomentumEncoder(MomentumEncoder):
    """A momentum encoder without dropout: in eval mode except for batch norm, which uses batch statistics, and ranges.

    So is the key student of CompRess (arXiv 2010.14713).
    """

    def train(self, mode: bool = True) -> "DropoutFreeMomentumEncoder":
        """Sets only batch norm and layers of few bits to `mode`."""
        super().train(False)
        for module in (*batch_norms(self), *low_bit_layers(self)):
            module.training = mode
        return self
