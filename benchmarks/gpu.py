"""MoCo v2 on a GPU: lwcl's step, data included, against a plain loop of torchvision's transforms and workers.

Claim: none yet. Where this was written there was no GPU; `--smoke` has shown on a CPU that it runs. One prepared run of
less than six minutes: nets x sizes, images a second, share of the time spent waiting for data, peak memory; where there
are two GPUs, the first net in two processes by NCCL too. Everything is saved as JSON as it is measured.

    python benchmarks/gpu.py --out gpu.json [--seconds 6] [--minutes 5] [--smoke]
"""

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peer_ways.papers import backbone, moco_step, moco_views
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from lwcl import engine
from lwcl.config.auto import RunFacts, resolve_plan
from lwcl.config.plan import plan_pretrain
from lwcl.data.dataset import open_images
from lwcl.reporting.console import Screen
from lwcl.system import distributed
from lwcl.training.build import build_model, build_training
from lwcl.training.state import TrainingState

NETS = ("mobilenetv3_small_100", "mobilenetv3_large_100", "efficientnet_b0", "resnet18", "deit_tiny_patch16_224")
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Job:
    """What is measured: a net at a size, on images in a folder, for some seconds."""

    folder: Path
    arch: str
    size: int
    batch: int
    seconds: float
    device: str
    workers: int


def made_folder(folder: Path, count: int, side: int) -> Path:
    """JPEGs of random colors."""
    for number in range(count):
        noise = np.random.default_rng(number).integers(0, 256, (side // 16, side // 16, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{number:05}.jpg")
    return folder


def measured(steps: Iterator[float], job: Job) -> Row:
    """Images a second and the share of the time that steps waited for data, after three steps to warm up."""
    for _ in range(3):
        next(steps)
    synchronize(job)
    begun, waited, count = time.perf_counter(), 0.0, 0
    while time.perf_counter() - begun < job.seconds and (wait := next(steps, None)) is not None:
        waited, count = waited + wait, count + 1
    synchronize(job)
    taken = time.perf_counter() - begun
    return {
        "images per second": round(count * job.batch / taken, 1),
        "waiting": round(waited / taken, 3),
        "steps": count,
    }


def synchronize(job: Job) -> None:
    """Waits until a GPU has done what it was given."""
    if job.device != "cpu":
        torch.accelerator.synchronize()


def lwcl_training(job: Job, **settings: Any) -> TrainingState:
    """A run of lwcl, in this process or, with others, in its process group."""
    images = open_images((str(job.folder),), "train")
    chosen = {"recipe": "moco-v2", "arch": job.arch, "image_size": job.size, "batch_size": job.batch, "epochs": 1000}
    plan = plan_pretrain(chosen | {"device": job.device, "data": (str(job.folder),)} | settings)
    facts = RunFacts(len(images), job.size, max(1, job.workers), job.device != "cpu")
    model = build_model(resolve_plan(plan, facts._replace(processes=distributed.world_size())), Screen(quiet=True))
    return build_training(model, images, Screen(quiet=True), lambda broken: None)


def training_steps(training: TrainingState) -> Iterator[float]:
    """Trains; yields the seconds that each step waited for data."""
    config = training.config
    steps = engine.fit(
        config.method, training.net, training.loader.batches(0, training.steps), config.optimization,
        training.optimizer, training.compute, steps_per_epoch=training.loader.steps_per_epoch, start=0, seed=0,
    )  # fmt: skip
    return (step.waited for step in steps)


class Files(Dataset[Any]):
    """Two views of each image by torchvision's transforms."""

    def __init__(self, folder: Path, size: int) -> None:
        self.paths, self.views = sorted(folder.iterdir()), moco_views(size)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Any:
        return self.views(Image.open(self.paths[index]).convert("RGB"))


def plain_steps(job: Job) -> Iterator[float]:
    """Trains by a plain loop in bfloat16; yields the seconds that each step waited for data."""
    with torch.device(job.device):
        step = moco_step(backbone(job.arch, job.size).to(job.device), job.batch, 4096)
    loader = DataLoader(Files(job.folder, job.size), job.batch, shuffle=True, drop_last=True, num_workers=job.workers)
    while True:
        batches, begun = iter(loader), time.perf_counter()
        for views in batches:
            waited = time.perf_counter() - begun
            with torch.device(job.device), torch.autocast(job.device, torch.bfloat16):
                step(*(view.to(job.device, non_blocking=True) for view in views))
            yield waited
            begun = time.perf_counter()


def ways(job: Job) -> dict[str, Callable[[], Iterator[float]]]:
    """What is compared."""
    cache = "device" if job.device != "cpu" else "ram"
    return {
        f"lwcl, images in {cache}": lambda: training_steps(lwcl_training(job, cache=cache)),
        "lwcl, decoding": lambda: training_steps(lwcl_training(job, cache="off")),
        "plain loop": lambda: plain_steps(job),
    }


def two_processes(job: Job) -> Row:
    """The last line of a short run by `--devices 2`."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["--data", job.folder, "--arch", job.arch, "--image-size", job.size, "--batch-size", 2 * job.batch]
        words += ["--recipe", "moco-v2", "--fast-dev-run", 40, "--devices", 2, "--out", f"{folder}/run"]
        run = subprocess.run(  # noqa: S603  # the words are those above
            [sys.executable, "-m", "lwcl", "pretrain", *map(str, words)], capture_output=True, text=True
        )
        rows = [line for line in run.stderr.splitlines() if "40/" in line]
        return {"exit code": run.returncode, "progress": (rows or run.stderr.splitlines() or [""])[-1]}


def measured_jobs(told: argparse.Namespace, device: str, folder: Path) -> Iterator[Row]:
    """A row for each net, size and way, and for two processes where there are two GPUs; none after the time is up."""
    on_gpu, end = device != "cpu", time.monotonic() + 60 * told.minutes
    nets, sizes, batch = (NETS, (64, 224), 256) if on_gpu else (("mobilenetv3_small_100",), (32,), 8)
    images = made_folder(folder, 6 * batch, 256 if on_gpu else 64)
    seconds, workers = (told.seconds, 12) if on_gpu else (0.5, 0)
    jobs = [Job(images, arch, size, batch, seconds, device, workers) for size in sizes for arch in nets]
    if on_gpu and torch.accelerator.device_count() > 1:
        yield {"way": "two processes"} | two_processes(jobs[0])
    for job, (way, steps) in ((one, way) for one in jobs for way in ways(one).items()):
        row = {"arch": job.arch, "size": job.size, "way": way, "device": device}
        if time.monotonic() > end:
            yield row | {"left out": f"{told.minutes:g} minutes are up"}
            continue
        if on_gpu:
            torch.accelerator.reset_peak_memory_stats()
        row |= measured(steps(), job)
        yield row | ({"peak bytes": torch.accelerator.max_memory_allocated()} if on_gpu else {})


def main() -> None:
    """Measures everything and saves it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", default="gpu.json")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each way")
    parser.add_argument("--minutes", type=float, default=5.0, help="after which nothing more begins")
    parser.add_argument("--smoke", action="store_true")
    told = parser.parse_args()
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    device = "cpu" if told.smoke or accelerator is None else accelerator.type
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for row in measured_jobs(told, device, Path(folder)):
            rows.append(row)
            print(row, flush=True)
            if not told.smoke:
                Path(told.out).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
