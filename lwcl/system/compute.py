"""On what and how a run computes: device, autocast, memory format."""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

N = TypeVar("N", bound=nn.Module)


class Compute(NamedTuple):
    """On what and how a run computes."""

    device: torch.device
    autocast: torch.dtype | None = None  # None: float32 throughout
    channels_last: bool = False

    def place(self, net: N) -> N:
        """The net on the device, in the memory format; changed in place."""
        net.to(self.device)
        return net.to(memory_format=self.memory_format)

    def send(self, tensor: Tensor) -> Tensor:
        """The tensor on the device; a GPU takes it from pinned memory, asynchronously."""
        pinned = tensor.pin_memory() if self.device.type == "cuda" and tensor.device.type == "cpu" else tensor
        return pinned.to(self.device, non_blocking=True)

    @property
    def memory_format(self) -> torch.memory_format:
        """The memory format of images and convolutions."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def arrange(self, images: Tensor) -> Tensor:
        """Images (..., C, H, W) in the memory format."""
        flat = images.flatten(0, -4).contiguous(memory_format=self.memory_format)
        return torch.unflatten(flat, 0, images.shape[:-3])

    def context(self) -> contextlib.AbstractContextManager[object]:
        """The autocast that a forward pass runs under."""
        return torch.autocast(self.device.type, self.autocast) if self.autocast else contextlib.nullcontext()


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Computes with `count` CPU threads, then with as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
