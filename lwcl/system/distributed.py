"""One process or many: rank, world size and three collectives, which are the identity in a single process."""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor


def is_distributed() -> bool:
    """Whether several processes train together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """This process's number, from 0; only process 0 writes files and prints."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """The number of processes."""
    return dist.get_world_size() if is_distributed() else 1


def gather_rows(rows: Tensor) -> Tensor:
    """The rows (B, ...) of all processes in order of rank: (world size x B, ...), without gradient."""
    if not is_distributed():
        return rows
    parts = [torch.empty_like(rows) for _ in range(world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replaces gradients by their mean over all processes."""
    if is_distributed():
        for parameter in parameters:
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= world_size()


def any_process(flag: bool) -> bool:
    """Whether `flag` is set in any process, so that all stop together or none."""
    if not is_distributed():
        return flag
    word = torch.tensor(int(flag))
    dist.all_reduce(word, op=dist.ReduceOp.MAX)
    return bool(word)
