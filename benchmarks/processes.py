"""Two processes of one thread each beside one process of two threads, and how long gloo takes to average gradients.

Claim: two processes train mobile nets 1.05 to 1.06 times as fast as one of two threads, EfficientNet-B0 as fast (0.99);
averaging the gradients takes 5% of a step (two idle cores of an AMD EPYC, Zen 4, bf16, 2026-11-29, two turns).

    python benchmarks/processes.py [--archs mobilenetv3_small_100] [--turns 3] [--steps 10] [--smoke]

MoCo v2 at 64 px from decoded images in memory, whole steps with their views; the ways take turns, each turn in new
processes, after three steps to warm up. The gradients' all-reduce is timed by itself, between the same two processes.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from gpu import Job, lwcl_training, made_folder, training_steps

from lwcl.kernels import bfloat16
from lwcl.system.cpu import GOMP_SPINS, keep_freed_memory
from lwcl.system.limits import usable_cpus
from lwcl.system.process_group import process_group
from lwcl.training.resolve import has_opencv

RESULTS = Path(__file__).with_name("results.jsonl")
ARCHS = ("mobilenetv3_small_100", "mobilenetv3_large_100", "mobilenetv2_100", "efficientnet_b0")
WARM_UP, SUMS = 3, 15  # steps before time is taken; all-reduces that are timed


def worker(job: Job, steps: int) -> dict[str, Any]:
    """Trains in this process, one of those that its variables tell of; what was measured."""
    torch.set_num_threads(job.workers)
    keep_freed_memory()
    precision = "bf16" if bfloat16.bf16_is_native() else "fp32"
    with process_group(torch.device("cpu"), 120.0):
        views = "opencv" if has_opencv() else "tensor"
        training = lwcl_training(job, cache="ram", precision=precision, view_backend=views)
        running = training_steps(training)
        for _ in range(WARM_UP):
            next(running)
        begun = time.perf_counter()
        for _ in range(steps):
            next(running)
        taken = time.perf_counter() - begun
        gradients = sum(one.numel() for one in training.net.parameters() if one.requires_grad)
        row = {"precision": precision, "images_per_second": steps * job.batch / taken, "gradient_bytes": 4 * gradients}
        return row | ({"allreduce_s": all_reduce_seconds(gradients)} if dist.is_initialized() else {})


def all_reduce_seconds(count: int) -> float:
    """The median time of an all-reduce of a number of float32 values."""
    numbers, times = torch.ones(count), []
    for _ in range(SUMS):
        dist.barrier()
        begun = time.perf_counter()
        dist.all_reduce(numbers)
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def run(words: list[str], processes: int) -> dict[str, Any]:
    """What process 0 of so many measures, which share the CPUs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "GLOO_SOCKET_IFNAME": "lo"}
    shared = {"OMP_NUM_THREADS": str(usable_cpus() // processes or 1), "GOMP_SPINCOUNT": GOMP_SPINS}
    begun = []
    for rank in range(processes):
        numbers = {"RANK": rank, "WORLD_SIZE": processes, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": processes}
        environment = os.environ | place | shared | {name: str(number) for name, number in numbers.items()}
        begun.append(subprocess.Popen([sys.executable, __file__, *words], env=environment, stdout=subprocess.PIPE))  # noqa: S603
    said = [process.communicate()[0] for process in begun]
    if any(process.returncode for process in begun):
        raise SystemExit("a process failed")
    found: dict[str, Any] = json.loads(said[0].splitlines()[-1])
    return found


def measured(told: argparse.Namespace, folder: str) -> list[dict[str, Any]]:
    """A row for each net and way."""
    ways = [(arch, processes) for arch in told.archs for processes in (1, 2)]
    found: dict[tuple[str, int], list[dict[str, Any]]] = {way: [] for way in ways}
    for _ in range(told.turns):
        for (arch, processes), rows in found.items():
            numbers = ["--size", str(told.size), "--batch", str(told.batch), "--steps", str(told.steps)]
            rows.append(run(["--worker", arch, "--folder", folder, *numbers], processes))
    table = []
    for (arch, processes), rows in found.items():
        speeds = [row["images_per_second"] for row in rows]
        row = {"benchmark": "processes", "date": f"{datetime.now(UTC):%Y-%m-%d}", "architecture": arch}
        row |= {"pixels": told.size, "batch": told.batch, "processes": processes, "cpus": usable_cpus()} | rows[0]
        row |= {"images_per_second": statistics.median(speeds), "low": min(speeds), "high": max(speeds)}
        if processes > 1:
            row["allreduce_s"] = statistics.median(one["allreduce_s"] for one in rows)
        table.append(row)
    return table


def main() -> None:
    """Measures, prints a table and appends it to results.jsonl (not with --smoke)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archs", nargs="+", default=ARCHS)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=128, help="of all processes together")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="tiny, and kept nowhere")
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    parser.add_argument("--folder", default="", help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.worker:
        threads = int(os.environ["OMP_NUM_THREADS"])
        job = Job(Path(told.folder), told.worker, told.size, told.batch, 0, "cpu", threads)
        print(json.dumps(worker(job, told.steps)))
        return
    if told.smoke:
        told.archs, told.size, told.batch, told.steps, told.turns = ["test_efficientnet"], 32, 8, 2, 1
    with tempfile.TemporaryDirectory() as folder:
        table = measured(told, str(made_folder(Path(folder), 8 * told.batch, 96)))
    for row in table:
        speed = f"{row['images_per_second']:.0f} images/s ({row['low']:.0f} to {row['high']:.0f})"
        size, seconds = row["gradient_bytes"], row.get("allreduce_s")
        sums = f"; gradients of {size / 1e6:.1f} MB summed in {1000 * seconds:.1f} ms" if seconds else ""
        print(f"{row['architecture']}, {row['processes']} of {row['cpus']} CPUs: {speed}{sums}")
    if not told.smoke:
        with RESULTS.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in table)


if __name__ == "__main__":
    main()
