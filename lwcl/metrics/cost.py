"""What a backbone costs the device that runs it: parameters, multiply-accumulates, bytes, and its time on a CPU."""

import contextlib
import copy
import statistics
import time
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

TIMING_SECONDS = 0.7  # for timing a batch size
MAX_TIMED_RUNS = 50  # no more are timed
MAX_BATCH_SECONDS = 1.4  # seconds; what one run is expected to exceed is not timed


class Cost(NamedTuple):
    """The cost of a backbone for images of `size` pixels; times are medians in milliseconds, None if not measured."""

    parameters: int
    macs: int  # multiply-accumulates for an image
    megabytes: float  # parameters and buffers as they are, 10^6 bytes
    latency_1: float | None  # an image alone
    latency_32: float | None  # a batch of 32 images
    threads: int  # that the times were measured with
    size: int


def measure_cost(backbone: nn.Module, size: int, *, channels_last: bool = False, threads: int = 1) -> Cost:
    """The cost of a backbone for images (B, 3, size, size), in float32 on this machine's CPU; in less than 3 seconds.

    The backbone is left as it is. One thread is the default, since it is what compares best between machines.
    """
    tensors = [*backbone.parameters(), *backbone.buffers()]
    first, second = measure_latencies(backbone, size, channels_last, threads)
    return Cost(
        parameters=sum(p.numel() for p in backbone.parameters()),
        macs=count_macs(backbone, size),
        megabytes=sum(tensor.nbytes for tensor in tensors) / 1e6,
        latency_1=first,
        latency_32=second,
        threads=threads,
        size=size,
    )


def count_macs(backbone: nn.Module, size: int) -> int:
    """Multiply-accumulates of a backbone for an image, counted on the meta device.

    That takes no memory and no kernels: fused attention and recurrent kernels of a CPU hide theirs.
    """
    shapes: dict[int, Tensor] = {id(b): b.to("meta") for b in backbone.buffers()}
    shapes |= {id(p): nn.Parameter(p.to("meta"), requires_grad=False) for p in backbone.parameters()}
    twin = copy.deepcopy(backbone, shapes).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        twin(torch.empty(1, 3, size, size, device="meta"))
    return int(counter.get_total_flops()) // 2


def measure_latencies(backbone: nn.Module, size: int, channels_last: bool, threads: int) -> tuple[float, float | None]:
    """Median milliseconds for an image, and for 32; None where these are expected to take more than `LONGEST`."""
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    twin = copy.deepcopy(backbone).cpu().float().eval().to(memory_format=memory_format)
    images = torch.rand(32, 3, size, size, generator=torch.Generator().manual_seed(0))
    images = images.contiguous(memory_format=memory_format)
    with torch_threads(threads), torch.inference_mode():
        alone = median_latency(twin, images[:1])
        return alone, median_latency(twin, images) if 32 * alone < 1000 * MAX_BATCH_SECONDS else None


@contextlib.contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Computes with so many threads, and then with as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def median_latency(net: nn.Module, images: Tensor) -> float:
    """Median milliseconds of a forward pass; the first one warms up and counts only if there is no time for more."""
    times: list[float] = []
    while not times or (len(times) <= MAX_TIMED_RUNS and sum(times) < TIMING_SECONDS):
        begun = time.perf_counter()
        net(images)
        times.append(time.perf_counter() - begun)
    return 1000 * statistics.median(times[1:] or times)
