"""Whole forward and backward passes of mobile nets on a CPU, as torch does them and with what lwcl adds.

CLAIM
"""

import argparse
import copy
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import timm
import torch
from torch import Tensor, nn

from lwcl.cpu import tune_allocator, usable_cpus
from lwcl.depthwise import fast_depthwise

RESULTS = Path(__file__).with_name("results.jsonl")
ARCHITECTURES = ("mobilenetv3_large_100", "mobilenetv3_small_100", "efficientnet_b0")


class Way(NamedTuple):
    """One way to compute a step."""

    channels_last: bool
    fast: bool
    bf16: bool


# bfloat16 in NCHW is left out: slower still than in channels_last.
WAYS = {
    "fp32, NCHW": Way(channels_last=False, fast=False, bf16=False),
    "fp32, channels_last": Way(channels_last=True, fast=False, bf16=False),
    "fp32, channels_last, fast": Way(channels_last=True, fast=True, bf16=False),
    "bf16, channels_last": Way(channels_last=True, fast=False, bf16=True),
    "bf16, channels_last, fast": Way(channels_last=True, fast=True, bf16=True),
}


def step(net: nn.Module, images: Tensor, bf16: bool) -> Callable[[], None]:
    """A forward and backward pass of `net` on `images`, ready to be called."""

    def run() -> None:
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = net(images).float().square().mean()
        loss.backward()

    return run


def steps(architecture: str, pixels: int, batch: int) -> Iterator[tuple[str, Callable[[], None]]]:
    """Each way's step, all from the same parameters and images."""
    torch.manual_seed(0)
    plain = timm.create_model(architecture, num_classes=0)
    images = torch.randn(batch, 3, pixels, pixels)
    for name, way in WAYS.items():
        layout = torch.channels_last if way.channels_last else torch.contiguous_format
        net = copy.deepcopy(plain).to(memory_format=layout)
        if way.fast:
            fast_depthwise(net)
        yield name, step(net, images.contiguous(memory_format=layout), way.bf16)


def measure(architecture: str, pixels: int, batch: int, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each way's steps, the ways taking turns, after one round that does not count."""
    ready = dict(steps(architecture, pixels, batch))
    times: dict[str, list[float]] = {name: [] for name in ready}
    for turn in range(rounds + 1):
        for name, run in ready.items():
            start = time.perf_counter()
            run()
            if turn:
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def start(allocator: bool) -> None:
    """Prepare a process: the allocator's settings, which cannot be undone, before anything is computed."""
    if allocator:
        tune_allocator()
    torch.set_num_threads(usable_cpus())


def compare(architecture: str, pixels: int, batch: int, turns: int, workers: dict[str, ProcessPoolExecutor]) -> None:
    """Measure every way in every worker, the workers taking turns; print a table and append it to the results."""
    times: dict[str, list[float]] = {}
    for _ in range(turns):
        for suffix, worker in workers.items():
            for name, measured in worker.submit(measure, architecture, pixels, batch, rounds=2).result().items():
                times.setdefault(name + suffix, []).extend(measured)
    reference = statistics.median(next(iter(times.values())))
    print(f"\n{architecture}, {pixels} px, batch {batch}", flush=True)
    with RESULTS.open("a") as results:
        for name, measured in times.items():
            median, low, high = statistics.median(measured), min(measured), max(measured)
            ratio = reference / median
            print(f"  {name:<40} {median:8.1f} ms  ({low:.1f} - {high:.1f})  {ratio:5.2f}x", flush=True)
            record = {
                **{"benchmark": "depthwise", "date": f"{datetime.now(UTC):%Y-%m-%d}", "torch": torch.__version__},
                **{"cpu": torch.backends.cpu.get_cpu_capability(), "threads": usable_cpus()},
                **{"architecture": architecture, "pixels": pixels, "batch": batch, "way": name},
                **{"median_ms": round(median, 2), "low_ms": round(low, 2), "high_ms": round(high, 2)},
                "ratio": round(ratio, 3),
            }
            results.write(json.dumps(record) + "\n")


def main() -> None:
    """Measure all nets and sizes, or with `--smoke` one small case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="one net, 32 px, batch 8: seconds")
    parser.add_argument("--turns", type=int, default=2, help="turns of two measured steps that each process takes")
    parser.add_argument("--pixels", type=int, nargs="+", default=[32, 64, 96], help="side of the images")
    arguments = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(1, spawn, initializer=start, initargs=(False,)) as stock,
        ProcessPoolExecutor(1, spawn, initializer=start, initargs=(True,)) as tuned,
    ):
        workers = {"": stock, ", allocator": tuned}
        if arguments.smoke:
            compare("mobilenetv3_small_100", 32, 8, 1, workers)
            return
        for architecture in ARCHITECTURES:
            for pixels in arguments.pixels:
                compare(architecture, pixels, 128, arguments.turns, workers)


if __name__ == "__main__":
    main()
