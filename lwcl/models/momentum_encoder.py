"""Key encoders: exponential moving averages of the student (MoCo, arXiv 1911.05722, eq. 2)."""

import copy
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    pass
from lwcl.models.encoder import Encoder

pass


class MomentumEncoder(nn.Module):
    """A key encoder: a copy of its leader without gradient, whose parameters follow the leader's slowly.

    It stays in train mode, as MoCo's does: its batch norm uses the batch's statistics. Buffers are its own.
    """

    def __init__(self, leader: Encoder, momentum: float) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(leader).requires_grad_(False)
        self.momentum = momentum

    @torch.no_grad()
    def forward(self, images: Tensor, splits: int = 1) -> Tensor:
        """Unit embeddings (B, dim) without gradient; see `Encoder.forward` for `splits`."""
        return cast(Tensor, self.encoder(images, splits, interleaved=True))

    @torch.no_grad()
    def advance(self, leader: nn.Module) -> None:
        """Each parameter becomes momentum x itself + (1 - momentum) x the leader's (MoCo, eq. 2)."""
        torch._foreach_lerp_(list(self.encoder.parameters()), list(leader.parameters()), 1 - self.momentum)


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
