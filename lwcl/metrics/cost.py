"""The cost of a backbone: parameters, multiply-accumulates (MACs), size in memory, and latency on a CPU."""

import copy
import statistics
import time
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lwcl.system.compute import Compute, torch_threads

TIMING_SECONDS = 0.7  # spent on timing a batch size
MAX_TIMED_RUNS = 50
MAX_BATCH_SECONDS = 1.4  # a batch expected to take longer is not timed


class Cost(NamedTuple):
    """The cost of a backbone for images of `size` pixels; times are medians in milliseconds, None if not measured."""

    parameters: int
    macs: int  # multiply-accumulates per image
    megabytes: float  # parameters and buffers in their precision, 10^6 bytes
    latency_1: float | None  # batch size 1
    latency_32: float | None  # batch size 32
    threads: int
    size: int


def measure_cost(
    backbone: nn.Module,
    size: int,
    *,
    channels_last: bool = False,
    threads: int = 1,
    channels: int = 3,
    frames: int = 0,
) -> Cost:
    """The cost of a backbone for images (B, channels, size, size), or clips of `frames`, in float32 on this CPU; < 3 s.

    Leaves the backbone unchanged. One thread compares best between machines.
    """
    tensors = [*backbone.parameters(), *backbone.buffers()]
    first, second = measure_latencies(backbone, input_shape(size, channels, frames), channels_last, threads)
    return Cost(
        parameters=sum(p.numel() for p in backbone.parameters()),
        macs=count_macs(backbone, size, channels, frames),
        megabytes=sum(tensor.nbytes for tensor in tensors) / 1e6,
        latency_1=first,
        latency_32=second,
        threads=threads,
        size=size,
    )


def input_shape(size: int, channels: int, frames: int) -> tuple[int, ...]:
    """The shape of an image (C, size, size), or of a clip (T, C, size, size)."""
    return (*([frames] if frames else []), channels, size, size)


def count_macs(backbone: nn.Module, size: int, channels: int = 3, frames: int = 0) -> int:
    """Multiply-accumulates of a backbone per image or clip, counted on the meta device.

    Fused attention and recurrent kernels of a CPU would hide theirs.
    """
    shapes: dict[int, Tensor] = {id(b): b.to("meta") for b in backbone.buffers()}
    shapes |= {id(p): nn.Parameter(p.to("meta"), requires_grad=False) for p in backbone.parameters()}
    twin = copy.deepcopy(backbone, shapes).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        twin(torch.empty(1, *input_shape(size, channels, frames), device="meta"))
    return int(counter.get_total_flops()) // 2


def measure_latencies(
    backbone: nn.Module, shape: tuple[int, ...], channels_last: bool, threads: int
) -> tuple[float, float | None]:
    """Median milliseconds for an image, and for 32; None where these are expected to exceed `MAX_BATCH_SECONDS`."""
    compute = Compute(torch.device("cpu"), channels_last=channels_last)
    twin = compute.place(copy.deepcopy(backbone).float().eval())
    images = torch.rand(32, *shape, generator=torch.Generator().manual_seed(0))
    images = compute.arrange(images)
    with torch_threads(threads), torch.inference_mode():
        alone = median_latency(twin, images[:1])
        return alone, median_latency(twin, images) if 32 * alone < 1000 * MAX_BATCH_SECONDS else None


def median_latency(net: nn.Module, images: Tensor) -> float:
    """Median milliseconds of a forward pass; the first one warms up and counts only if there is no time for more."""
    times: list[float] = []
    while not times or (len(times) <= MAX_TIMED_RUNS and sum(times) < TIMING_SECONDS):
        begun = time.perf_counter()
        net(images)
        times.append(time.perf_counter() - begun)
    return 1000 * statistics.median(times[1:] or times)
