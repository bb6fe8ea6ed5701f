"""Whole forward and backward passes of mobile nets on a CPU, as torch does them and with what lwcl adds.

Claim: a step of batch 128 with channels_last and fast gradients takes 0.48-0.61 of the CPU time of torch's fp32 NCHW
step; in bfloat16 0.39-0.44 for MobileNetV3 and 0.75 for EfficientNet-B0. In fp32 nearly all of it is channels_last: the
fast gradients add 0-17%. In bfloat16 they make it pay: 2.2-2.8x for MobileNetV3, 1.6x for EfficientNet-B0.
Machine: 2 AVX-512 cores (AMD Zen 5), torch 2.14.1. Date: 2026-11-22. Other work was running (load 4-6), hence CPU time
and not the clock; medians of 4 steps; without the allocator's settings; NCHW is 1, more is faster:

                             channels_last   + fast   bf16 channels_last   + fast
    MobileNetV3-Large, 64 px          1.62     1.63                 0.85     2.28
    MobileNetV3-Large, 32 px          1.92     2.07                 0.96     2.55
    MobileNetV3-Small, 64 px          1.61     1.88                 0.83     2.30
    MobileNetV3-Small, 32 px          2.04     2.04                 1.14     2.54
    EfficientNet-B0,   64 px          1.83     1.94                 0.86     1.33

Not measured: 96 px, EfficientNet-B0 at 32 px, and the allocator's ratios: its settings take four or five steps to
settle, which the run above did not wait for (this file now does). Settled, a step of MobileNetV3-Large (64 px,
channels_last) has no page faults where it had 72,000.
"""

import argparse
import copy
import json
import multiprocessing
import os
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

from lwcl.kernels import bfloat16
from lwcl.kernels.depthwise import use_fast_depthwise
from lwcl.system.cpu import keep_freed_memory
from lwcl.system.limits import usable_cpus

# Idle threads must sleep, or the CPU time of a step would count their waiting too; before the workers import torch.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
LOAD = os.getloadavg()[0]  # of the machine before this begins: above 0.5, trust CPU time only
RESULTS = Path(__file__).with_name("results.jsonl")
WARM_UP = 4  # rounds until the heap has grown to its size
ARCHITECTURES = ("mobilenetv3_large_100", "mobilenetv3_small_100", "efficientnet_b0")


class Cost(NamedTuple):
    """Milliseconds of a step, by the clock and summed over the threads' CPU time."""

    wall: float
    cpu: float


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
        if way.bf16 and bfloat16.bf16_is_emulated():
            continue
        layout = torch.channels_last if way.channels_last else torch.contiguous_format
        net = copy.deepcopy(plain).to(memory_format=layout)
        if way.fast:
            use_fast_depthwise(net)
        yield name, step(net, images.contiguous(memory_format=layout), way.bf16)


def measure(architecture: str, pixels: int, batch: int, rounds: int) -> dict[str, list[Cost]]:
    """What each way's steps cost, the ways taking turns, after some rounds that do not count."""
    ready = dict(steps(architecture, pixels, batch))
    costs: dict[str, list[Cost]] = {name: [] for name in ready}
    for turn in range(WARM_UP + rounds):
        for name, run in ready.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            if turn >= WARM_UP:
                costs[name].append(Cost(1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu)))
    return costs


def start(allocator: bool) -> None:
    """Prepare a process: the allocator's settings, which cannot be undone, before anything is computed."""
    if allocator:
        keep_freed_memory()
    torch.set_num_threads(usable_cpus())


def compare(
    architecture: str, pixels: int, batch: int, turns: int, workers: dict[str, ProcessPoolExecutor], keep: Path
) -> None:
    """Measure every way in every worker, the workers taking turns; print a table and append it to the file `keep`."""
    costs: dict[str, list[Cost]] = {}
    for _ in range(turns):
        for suffix, worker in workers.items():
            for name, measured in worker.submit(measure, architecture, pixels, batch, rounds=2).result().items():
                costs.setdefault(name + suffix, []).extend(measured)
    reference = median(next(iter(costs.values())))
    print(f"\n{architecture}, {pixels} px, batch {batch}: medians and spread of CPU time; the clock", flush=True)
    with keep.open("a") as results:
        for name, measured in costs.items():
            cost, low, high = median(measured), min(each.cpu for each in measured), max(each.cpu for each in measured)
            ratios = reference.cpu / cost.cpu, reference.wall / cost.wall
            spread = f"{cost.cpu:8.0f} ms ({low:.0f} - {high:.0f}) {ratios[0]:5.2f}x"
            print(f"  {name:<38} {spread}; {cost.wall:8.0f} ms {ratios[1]:5.2f}x", flush=True)
            record = {
                **{"benchmark": "depthwise", "date": f"{datetime.now(UTC):%Y-%m-%d}", "torch": torch.__version__},
                **{"capability": torch.backends.cpu.get_cpu_capability(), "threads": usable_cpus(), "load": LOAD},
                **{"architecture": architecture, "pixels": pixels, "batch": batch, "way": name},
                **{"cpu_ms": cost.cpu, "cpu_low_ms": low, "cpu_high_ms": high, "cpu_ratio": ratios[0]},
                **{"wall_ms": cost.wall, "wall_ratio": ratios[1]},
            }
            results.write(json.dumps(record) + "\n")


def median(costs: list[Cost]) -> Cost:
    """The medians of both measures."""
    return Cost(*(statistics.median(measure) for measure in zip(*costs, strict=True)))


def main() -> None:
    """Measure all nets and sizes, or with `--smoke` one small case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="one net, 32 px, batch 8: seconds, and kept nowhere")
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
            compare("mobilenetv3_small_100", 32, 8, 1, workers, Path(os.devnull))
            return
        for architecture in ARCHITECTURES:
            for pixels in arguments.pixels:
                compare(architecture, pixels, 128, arguments.turns, workers, RESULTS)


if __name__ == "__main__":
    main()
