"""One process or many: rank, size, and the three things processes do together. In one process each is the identity."""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor


def together() -> bool:
    """Whether several processes work on one run."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """This process's number, from 0; process 0 writes and speaks."""
    return dist.get_rank() if together() else 0


def size() -> int:
    """How many processes work on this run."""
    return dist.get_world_size() if together() else 1


def gather(rows: Tensor) -> Tensor:
    """The rows (B, ...) of all processes, in order of rank: (size x B, ...), without gradient."""
    if not together():
        return rows
    parts = [torch.empty_like(rows) for _ in range(size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Gradients become their mean over all processes."""
    if together():
        for parameter in parameters:
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= size()


def any_of(flag: bool) -> bool:
    """Whether `flag` holds in any process: all stop together or none."""
    if not together():
        return flag
    word = torch.tensor(int(flag))
    dist.all_reduce(word, op=dist.ReduceOp.MAX)
    return bool(word)
