"""Batch norm of the parts of a batch, each with its own statistics, as on several devices (MoCo, arXiv 1911.05722)."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lwcl.models.backbone import batch_norms

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def split_batch_norms(net: nn.Module, parts: int, *, interleaved: bool = False) -> None:
    """Lets the batch norms of a net compute a batch in that many parts while it trains.

    Parts are contiguous, or `interleaved`: then no two images of a part share a contiguous one (ShuffleBN). The running
    statistics take the mean over the parts.
    """
    for norm in batch_norms(net) if parts > 1 else ():
        norm.forward = functools.partial(  # type: ignore[method-assign]
            norm_in_parts, norm, norm.forward, parts, interleaved
        )


def norm_in_parts(
    norm: _BatchNorm, whole: Callable[[Tensor], Tensor], parts: int, interleaved: bool, x: Tensor
) -> Tensor:
    """The output (B, ...) of a batch norm for `x` (B, ...): `whole` of each part, or of all of it in eval mode."""
    if not norm.training:
        return whole(x)
    order = torch.arange(len(x), device=x.device)
    order = torch.cat([order[i::parts] for i in range(parts)]) if interleaved else order
    before = {name: norm._buffers[name] for name in STATISTICS if norm._buffers.get(name) is not None}
    outputs, after = [], []
    for part in order.tensor_split(parts):
        norm._buffers.update({name: buffer.clone() for name, buffer in before.items() if buffer is not None})
        outputs.append(whole(x[part]))
        after.append({name: norm._buffers[name] for name in before})
    norm._buffers.update(before)
    with torch.no_grad():
        for name, buffer in before.items():
            values = torch.stack([one[name] for one in after if one[name] is not None])  # type: ignore[misc]
            assert buffer is not None
            buffer.copy_(values.mean(0) if values.is_floating_point() else values[0])
    return torch.cat(outputs)[order.argsort()]
