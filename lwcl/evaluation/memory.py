"""Memory that an encoder takes beyond its runtime, measured in a process of its own (Linux)."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from lwcl.checkpoints.load import load_encoder

STATUS_FILE, RESET_FILE = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # written to clear_refs (proc(5)): VmHWM becomes VmRSS
MEASURED_RUNS = 3


def peak_megabytes(spec: str, arch: str | None, image_size: int | None) -> float | None:
    """Peak memory in 10^6 bytes of loading an encoder and running single images; None where it cannot be measured."""
    if not RESET_FILE.exists():
        return None
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(measure_in_this_process, spec, arch, image_size).result()


def measure_in_this_process(spec: str, arch: str | None, image_size: int | None) -> float:
    """What loading and running adds to this process, which has imported the runtimes, but loaded nothing."""
    torch.set_num_threads(1)
    with torch.inference_mode():
        torch.nn.functional.conv2d(torch.zeros(1, 3, 8, 8), torch.zeros(8, 3, 3, 3))  # kernels are set up
        before = memory_status("VmRSS")
        RESET_FILE.write_text(RESET_PEAK)
        loaded = load_encoder(spec, arch=arch, image_size=image_size)
        size = loaded.input_spec.size
        for _ in range(MEASURED_RUNS):
            loaded.encoder.eval().features(torch.zeros(1, *loaded.encoder.input_shape(size)))
    return (memory_status("VmHWM") - before) / 1e6


def memory_status(name: str) -> int:
    """A number of /proc/self/status, in bytes."""
    lines = STATUS_FILE.read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
