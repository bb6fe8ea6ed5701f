"""Latency of an encoder on this machine's CPU, measured alike for PyTorch models and ONNX files."""

from typing import NamedTuple

import torch
from torch import Tensor

from lwcl.models.loaded import LoadedEncoder
from lwcl.system.device import choose_compute
from lwcl.system.packages import silence


class Latency(NamedTuple):
    """Milliseconds of a forward pass."""

    median: float
    iqr: float  # interquartile range
    batch: int
    threads: int


def measure_latency(loaded: LoadedEncoder, batch: int, *, threads: int = 1, seconds: float = 1.0) -> Latency:
    """The latency of a batch of images, warm, in float32 or as an ONNX file computes.

    `torch.utils.benchmark` times blocks of runs for `seconds` with so many threads.
    """
    with silence():  # where CUDA is installed, and no GPU, the import warns
        from torch.utils.benchmark import Timer
    compute = choose_compute(loaded.encoder, "cpu", "fp32")
    encoder, size = compute.place(loaded.encoder).eval(), loaded.input_spec.size
    noise = torch.rand(batch, *encoder.input_shape(size), generator=torch.Generator().manual_seed(0))
    images = compute.arrange(noise)

    @torch.inference_mode()
    def run() -> Tensor:
        return encoder.features(images)

    timer = Timer("run()", globals={"run": run}, num_threads=threads)
    timer.timeit(2)  # threads start, kernels are chosen
    found = timer.blocked_autorange(min_run_time=seconds)
    return Latency(1000 * found.median, 1000 * found.iqr, batch, threads)
