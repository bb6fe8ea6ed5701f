"""The overhead of health metrics, progress, logging and checkpoints, as shares of a training step.

Claim: together 0.3% of a step of MobileNetV3-Large at 64 px, batch 128; the goal is 3%. Measured 2026-11-22 on one
core of an AMD EPYC (Zen 4) that other programs shared (load 7), torch 2.14.1, 31 steps of 1.7 s of CPU:

    health and metrics  0.02%
    progress            0.02%
    live panel          0.19%, on a terminal only
    checkpoints         0.04%, one in ten minutes

A checkpoint takes 0.25 s of CPU. Where every epoch takes 10 s and so ends with one, that is 2.5% of the time; the wait
for the disk comes on top: 3.0 s by the clock in all, on that loaded machine.

The real loop of `lwcl pretrain` trains light-moco on the built-in textures; the monitor (health, a line of
metrics.jsonl every 10 steps), the progress lines and the checkpoints are timed inside it. A frame of the live panel is
timed separately, and counted as often as a terminal shows it. Times are CPU time of the process, medians; checkpoints
also by the clock, since they wait for the disk.

    python benchmarks/overhead.py [--arch resnet18] [--steps 41] [--smoke]
"""

import argparse
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from lwcl.commands import train
from lwcl.config.plan import plan_pretrain
from lwcl.data.dataset import open_images
from lwcl.reporting import panel
from lwcl.reporting.console import FRAME_SECONDS, Screen, TrainingDisplay
from lwcl.reporting.throughput import TrainProgress
from lwcl.system.cpu import keep_freed_memory
from lwcl.training.build import build_model, build_training
from lwcl.training.monitor import TrainingMonitor
from lwcl.training.resolve import resolve
from lwcl.training.state import MIN_SAVE_SECONDS, TrainingState

RESULTS = Path(__file__).with_name("results.jsonl")
SAVE_SECONDS = 600  # between two checkpoints, as --save-every has it, unless epochs end more often


class Meter:
    """Measures the CPU and wall-clock seconds of every call of a method, while the program runs as usual."""

    def __init__(self, owner: type, name: str) -> None:
        self.cpu: list[float] = []
        self.clock: list[float] = []
        self.results: list[Any] = []
        plain: Callable[..., Any] = getattr(owner, name)

        def metered(*values: Any, **named: Any) -> Any:
            cpu, clock = time.process_time(), time.perf_counter()
            result = plain(*values, **named)
            self.cpu.append(time.process_time() - cpu)
            self.clock.append(time.perf_counter() - clock)
            self.results.append(result)
            return result

        setattr(owner, name, metered)


def frame(steps: int) -> float:
    """CPU seconds of drawing the live panel once, as on a terminal."""
    progress, console = TrainProgress("light-moco", 0, steps, steps, 128), panel.rich_console(io.StringIO())
    costs = []
    for _ in range(20):
        start = time.process_time()
        console.print(panel.training_panel(progress))
        costs.append(time.process_time() - start)
    return statistics.median(costs)


def measure(arch: str, size: int, batch: int, steps: int, folder: Path) -> dict[str, Any]:
    """Seconds of a step and of its overheads, and their share of the step."""
    chosen = {"data": ["textures"], "arch": arch, "image_size": size, "batch_size": batch, "out": str(folder / "run")}
    fixed = {"device": "cpu", "threads": 1, "workers": 0, "cache": "ram", "save_every": str(steps // 2)}
    plan = plan_pretrain(chosen | fixed)
    images = open_images(plan.options.data, "train", download=False)
    config, screen = resolve(plan, images), Screen()
    meters = {
        "look": Meter(TrainingMonitor, "look"),
        "display": Meter(TrainingDisplay, "step"),
        "save": Meter(TrainingState, "save"),
    }
    with train.open_run_folder(config, (), screen) as opened:
        screen.log = opened.log
        training = build_training(build_model(config, screen), images, screen, print)
        start = time.process_time()
        train.train_loop(training, opened, screen, steps)
        whole = time.process_time() - start
    looks = list(zip(meters["look"].cpu, meters["look"].results, strict=True))
    due = statistics.median(cost for cost, health in looks if health)
    idle = statistics.median(cost for cost, health in looks if not health)
    step = (whole - sum(sum(meter.cpu) for meter in meters.values())) / steps
    every = config.options.log_every
    save, clock = statistics.median(meters["save"].cpu), statistics.median(meters["save"].clock)
    shares = {
        "health and metrics": (due / every + idle) / step,
        "progress": statistics.mean(meters["display"].cpu) / step,
        "live panel": frame(steps) / FRAME_SECONDS,
        "checkpoints": save / SAVE_SECONDS,
    }
    return {
        **{"benchmark": "overhead", "date": datetime.now(UTC).date().isoformat(), "torch": torch.__version__},
        **{"architecture": arch, "pixels": size, "batch": batch, "threads": 1, "step_s": step, "look_s": due},
        **{"save_cpu_s": save, "save_s": clock, "shares": shares, "total": sum(shares.values())},
        "checkpoints_at_worst": save / (MIN_SAVE_SECONDS + save),
    }


def main() -> None:
    """Measures, prints, and appends to results.jsonl (not with `--smoke`)."""
    parser = argparse.ArgumentParser(description="What goes with a training step.")
    parser.add_argument("--arch", default="mobilenetv3_large_100")
    parser.add_argument("--steps", type=int, default=41)
    parser.add_argument("--smoke", action="store_true", help="tiny, and results are not saved")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    arch, size, batch = ("test_efficientnet", 32, 8) if args.smoke else (args.arch, 64, 128)
    with tempfile.TemporaryDirectory() as folder:
        row = measure(arch, size, batch, args.steps, Path(folder))
    for name, share in row["shares"].items():
        print(f"{name:20} {100 * share:6.2f}%")
    print(f"{'together':20} {100 * row['total']:6.2f}% of a step of {row['step_s']:.3f} s")
    print(f"a checkpoint: {row['save_cpu_s']:.2f} s of CPU, {row['save_s']:.2f} s by the clock", end="; ")
    print(f"at the end of epochs of {MIN_SAVE_SECONDS:g} s: {100 * row['checkpoints_at_worst']:.1f}%")
    if not args.smoke:
        with RESULTS.open("a") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
