"""Several processes that train together: collectives, which are the identity in a single process.

Every process must call them in the same order. `lwcl.system.process_group` joins the processes.
"""

import copy
import json
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def is_distributed() -> bool:
    """Whether several processes train together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """This process's number, from 0; only process 0 writes files and prints."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """The number of processes."""
    return dist.get_world_size() if is_distributed() else 1


def replicated(module: nn.Module, loss_of: Callable[[nn.Module], Tensor]) -> nn.Module:
    """The module with its gradient averaged over all processes while it is computed; weights are those of process 0.

    `loss_of` a copy of the module tells whether the loss uses all parameters: in some architectures it does not, and
    then torch has to search for them in every step.
    """
    if not is_distributed():
        return module
    needs_search = bool(unused_parameters(copy.deepcopy(module), loss_of))
    warnings.filterwarnings("ignore", "Grad strides do not match")  # of sides of length 1, which have no stride
    for buffer in module.buffers():
        dist.broadcast(buffer, 0)
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # newer torch has another name for it
        return DistributedDataParallel(
            module, broadcast_buffers=False, gradient_as_bucket_view=True, find_unused_parameters=needs_search
        )


def unused_parameters(module: nn.Module, loss_of: Callable[[nn.Module], Tensor]) -> list[str]:
    """The names of the parameters that have a gradient, but not from the loss."""
    waiting, seen = [loss_of(module).grad_fn], set[Any]()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [following for following, _ in node.next_functions]
    used = {id(node.variable) for node in seen if hasattr(node, "variable")}
    return [name for name, one in module.named_parameters() if one.requires_grad and id(one) not in used]


def all_gather_rows(rows: Tensor) -> Tensor:
    """The rows (B, ...) of all processes in order of rank: (world size x B, ...), without gradient."""
    if not is_distributed():
        return rows
    gathered = rows.new_empty(world_size() * len(rows), *rows.shape[1:])
    dist.all_gather(list(gathered.tensor_split(world_size())), rows.detach().contiguous())
    return gathered


class GatherRows(torch.autograd.Function):
    """`all_gather_rows` whose gradient is the sum of what all processes make of these rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        """(world size x B, ...)."""
        return all_gather_rows(rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """(B, ...)."""
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total.tensor_split(world_size())[rank()]


def gather_with_gradient(rows: Tensor) -> Tensor:
    """The rows (B, ...) of all processes in order of rank: (world size x B, ...), with gradient.

    Where each process takes the loss of its own images, or all take the same loss, the averaged gradient is that of the
    mean loss in one process.
    """
    if not is_distributed():
        return rows
    gathered: Tensor = GatherRows.apply(rows)
    return gathered


def own_rows(count: int, device: torch.device | None = None) -> Tensor:
    """Where this process's `count` rows lie among those of all processes: (count,)."""
    return torch.arange(count * rank(), count * (rank() + 1), device=device)


class RowShuffle:
    """Exchanges rows between processes, so that each normalises others than its own: ShuffleBN (MoCo, arXiv 1911.05722,
    3.3).

    Each process takes `parts` parts, and row g of all goes to part g modulo the number of parts. It is what one process
    does that splits a batch into interleaved parts.
    """

    def __init__(self, count: int, parts: int) -> None:
        """`count` rows in each process."""
        places = torch.arange(count * world_size())
        owners = places % (world_size() * parts) // parts
        mine = owners.tensor_split(world_size())[rank()]
        self.order = mine.argsort(stable=True)
        self.sent = mine.bincount(minlength=world_size()).tolist()
        self.taken = [int((share == rank()).sum()) for share in owners.tensor_split(world_size())]

    def apply(self, rows: Tensor) -> Tensor:
        """This process's new rows, from its own (count, ...)."""
        return exchange(rows[self.order.to(rows.device)], self.sent, self.taken)

    def undo(self, rows: Tensor) -> Tensor:
        """What was computed from the new rows, at the places of the old ones."""
        return exchange(rows, self.taken, self.sent)[self.order.argsort().to(rows.device)]


def exchange(rows: Tensor, sent: list[int], taken: list[int]) -> Tensor:
    """The rows that the others have for this process; it sends `sent[i]` of its own to process i, takes `taken[i]`."""
    channels_last = rows.ndim == 4 and rows.is_contiguous(memory_format=torch.channels_last)
    flat = rows.permute(0, 2, 3, 1) if channels_last else rows.contiguous()
    received = flat.new_empty(sum(taken), *flat.shape[1:])
    dist.all_to_all_single(received, flat, taken, sent)
    return received.permute(0, 3, 1, 2) if channels_last else received


@torch.no_grad()
def average_in_place(tensors: Iterable[Tensor]) -> None:
    """Replaces floating-point tensors, such as running statistics, by their means over all processes."""
    tensors = list(tensors)
    if not is_distributed() or not tensors:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    parts = torch.split(flat / world_size(), [tensor.numel() for tensor in tensors])
    torch._foreach_copy_(tensors, [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)])


def broadcast_json(value: Any) -> Any:
    """The JSON value of process 0; the others' are ignored."""
    if not is_distributed():
        return value
    content = json.dumps(value if rank() == 0 else None).encode()
    length = torch.tensor([len(content)])
    dist.broadcast(length, 0)
    message = torch.frombuffer(bytearray(content), dtype=torch.uint8) if rank() == 0 else None
    message = torch.empty(int(length), dtype=torch.uint8) if message is None else message
    dist.broadcast(message, 0)
    return json.loads(message.numpy().tobytes())


def broadcast_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The named tensors, on the CPU, that process 0 passes; the others' are ignored."""
    if not is_distributed():
        return dict(tensors)
    layout = {name: (str(one.dtype).removeprefix("torch."), list(one.shape)) for name, one in tensors.items()}
    result = {}
    for name, (dtype, shape) in broadcast_json(layout).items():
        empty = torch.empty(shape, dtype=getattr(torch, dtype))
        result[name] = tensors[name].cpu().contiguous() if rank() == 0 else empty
        dist.broadcast(result[name], 0)
    return result


def all_gather_json(value: Any) -> list[Any]:
    """The JSON values of all processes, in order of rank."""
    if not is_distributed():
        return [value]
    content = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    lengths = all_gather_rows(torch.tensor([len(content)])).tolist()
    padded = torch.zeros(max(lengths), dtype=torch.uint8)
    padded[: len(content)] = content
    rows = all_gather_rows(padded[None])
    return [json.loads(row[:length].numpy().tobytes()) for row, length in zip(rows, lengths, strict=True)]


class Share:
    """The part of `count` rows that this process computes: whole batches in turn, as one process would compute them."""

    def __init__(self, count: int, batch_size: int) -> None:
        batches = torch.split(torch.arange(count), batch_size)
        self.count = count
        self.places = [torch.cat([torch.arange(0), *batches[i :: world_size()]]) for i in range(world_size())]
        self.own = self.places[rank()]  # where its rows lie among all

    def together(self, rows: Tensor) -> Tensor:
        """All rows (count, ...), from this process's; in other processes than the first, none."""
        if not is_distributed():
            return rows
        padded = rows.new_zeros(max(map(len, self.places)), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in self.places] if rank() == 0 else None
        dist.gather(padded, parts)
        result = rows.new_empty(self.count if parts else 0, *rows.shape[1:])
        for places, part in zip(self.places, parts or (), strict=False):
            result[places] = part[: len(places)]
        return result
