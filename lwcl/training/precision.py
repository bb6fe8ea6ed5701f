"""`--precision auto` on a CPU: times float32 and bfloat16 on this net and machine, and takes the faster.

bfloat16 makes a step up to twice as fast, or slower: that depends on the net, the processor and torch, so it is
measured, in real training steps. It also changes gradients, so it is considered only for architectures on which a run
has shown that accuracy does not suffer; `BF16_VALIDATED` lists them with that evidence.
"""

import copy
import dataclasses
import hashlib
import itertools
import json
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

import lwcl
from lwcl import engine
from lwcl.config.recipes import Optimization
from lwcl.errors import StorageError
from lwcl.formatting import json_text
from lwcl.kernels import bfloat16
from lwcl.losses import l2_normalise
from lwcl.methods.method import Batch, Method
from lwcl.models.net import Net
from lwcl.system import distributed
from lwcl.system.atomic_files import cache_folder, write_atomically
from lwcl.system.compute import Compute
from lwcl.system.environment import cpu_name, package_version

#: Architectures whose accuracy bfloat16 is known not to lower: the runs that show it.
BF16_VALIDATED = {
    "efficientnet_b0": "textures, 552 steps at 64 px: kNN 20.9% (18.4 to 23.5), fp32 20.6% (18.1 to 23.2)",
    "mobilenetv3_large_100": "Imagenette, 1,240 steps at 64 px: kNN 35.8% (32.9 to 38.8), fp32 36.1% (33.2 to 39.1)",
    "mobilenetv3_small_100": "Imagenette, 1,240 steps at 64 px: kNN 31.6% (28.8 to 34.5), fp32 32.7% (29.8 to 35.6)",
    "resnet18": "Imagenette, 186 steps of simclr at 64 px: kNN 40.0% (37.0 to 43.0), fp32 40.1% (37.1 to 43.1)",
}

AUTOCAST_DTYPES: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16}
MIN_SPEEDUP = 1.15  # times as fast as float32; below it, float32 is used
TIMING_BUDGET_SECONDS = 10.0  # for all timed steps, about
TIMED_ROUNDS = 3  # timed steps of each precision
MIN_TIMED_IMAGES = 16  # in a timed step, unless the batch is smaller


@dataclass(frozen=True)
class TimingJob:
    """What is timed: a training step of `net`, placed as `compute` says, on views of `size` pixels.

    `teacher_dim` is the width of a teacher's output, 0 without a teacher.
    """

    method: Method
    net: Net
    optimization: Optimization
    compute: Compute
    size: int
    teacher_dim: int = 0

    def key(self) -> str:
        """A hash of what the times depend on: machine, net, method, size and batch, versions."""
        student, optimization = self.net.student, self.optimization
        facts = {
            "cpu": cpu_name(),
            "threads": torch.get_num_threads(),
            "processes": distributed.world_size(),
            "arch": student.arch,
            "arguments": student.arguments,
            "head": student.head_widths,
            "channels_last": self.compute.channels_last,
            "method": [self.method.name, str(self.method), self.teacher_dim],
            "size": self.size,
            "batch": [optimization.batch_size, optimization.accumulate, optimization.optimizer],
            "versions": [lwcl.__version__, *map(package_version, ("torch", "timm"))],
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:32]


class PrecisionChoice(NamedTuple):
    """A precision and why it was chosen."""

    name: str  # "fp32" or "bf16"
    reason: str
    table: dict[str, float]  # seconds per step by the precision's name; empty where nothing was timed


def choose_precision(job: TimingJob) -> PrecisionChoice:
    """The precision for training a net on a CPU; the net is left as it is.

    The times are cached for the next run of the same net on the same machine.
    """
    if choice := precision_without_timing(job.net.student.arch):
        return choice
    key, timings = job.key(), load_timings()
    if (known := distributed.broadcast_json(timings.get(key))) is None:
        known = timings[key] = distributed.broadcast_json(time_precisions(job))
        with suppress(StorageError):
            if distributed.rank() == 0:
                write_atomically(timings_file(), json_text(timings, indent=1))
    return faster_precision(known)


def precision_without_timing(arch: str) -> PrecisionChoice | None:
    """float32 where nothing needs timing: bfloat16 is not validated, or known to be slow; else None."""
    if arch not in BF16_VALIDATED:
        return PrecisionChoice("fp32", f"bf16 not validated for {arch}", {})
    return PrecisionChoice("fp32", "this CPU emulates bf16", {}) if bfloat16.bf16_is_emulated() else None


def faster_precision(table: dict[str, float]) -> PrecisionChoice:
    """bfloat16 where it is at least `MIN_SPEEDUP` times as fast, with the times as the reason."""
    speedup = table["fp32"] / table["bf16"]
    times = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in table.items())
    reason = f"bf16 is {speedup:.2f}x as fast as fp32 here ({times} per step; at least {MIN_SPEEDUP}x needed)"
    return PrecisionChoice("bf16" if speedup >= MIN_SPEEDUP else "fp32", reason, table)


def timings_file() -> Path:
    """The file in which times are cached."""
    return cache_folder() / "precision.json"


def load_timings() -> dict[str, dict[str, float]]:
    """The cached times by key; none if the file is damaged."""
    try:
        read: Any = json.loads(timings_file().read_text(encoding="utf-8"))
        return {key: {name: float(times[name]) for name in AUTOCAST_DTYPES} for key, times in read.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def time_precisions(job: TimingJob) -> dict[str, float]:
    """Seconds of a training step in each precision: the least of `TIMED_ROUNDS`, scaled to this process's batch.

    The precisions take turns. Several processes time together.
    """
    own = job.optimization.batch_size // distributed.world_size()
    fewest = max(MIN_TIMED_IMAGES, 2 * job.optimization.accumulate * job.optimization.bn_splits)
    least = min(own, fewest)
    with torch.random.fork_rng(devices=[]):
        trial = timing_runs(job, least)
        time_round(trial)  # the first steps are slow: memory is allocated, kernels are compiled
        first = distributed.broadcast_json(sum(time_round(trial).values()))
        affordable = int(least * TIMING_BUDGET_SECONDS / ((TIMED_ROUNDS + 1) * first))
        count = max(least, min(own, affordable - affordable % fewest))
        running = timing_runs(job, count)
        time_round(running)
        rounds = [time_round(running) for _ in range(TIMED_ROUNDS)]
    return {name: min(times[name] for times in rounds) * own / count for name in AUTOCAST_DTYPES}


def time_round(running: dict[str, Iterator[engine.TrainStep]]) -> dict[str, float]:
    """Seconds of one more step in each precision, as CPU time per thread: other work on the machine counts little."""
    taken = {}
    for name, fitted in running.items():
        start = time.process_time()
        next(fitted)
        taken[name] = (time.process_time() - start) / torch.get_num_threads()
    return taken


def timing_runs(job: TimingJob, count: int) -> dict[str, Iterator[engine.TrainStep]]:
    """For each precision, the training steps of a copy of the net on `count` random images."""
    timing_recipe = dataclasses.replace(job.optimization, lr=1e-6, warmup=0.0, batch_size=count)
    batch = noise_batch(job, count)
    running = {}
    for name, dtype in AUTOCAST_DTYPES.items():
        net = copy.deepcopy(job.net)
        optimizer = engine.build_optimizer(net, timing_recipe, 1e-6, 0.0)
        compute = job.compute._replace(autocast=dtype)
        batches = itertools.repeat(batch)
        running[name] = engine.fit(
            job.method, net, batches, timing_recipe, optimizer, compute, steps_per_epoch=1000, start=0, seed=0
        )
    return running


def noise_batch(job: TimingJob, count: int) -> Batch:
    """`count` images of noise in all their views, with random teacher outputs."""
    sizes = [spec.pixels(job.size) for spec in job.method.view_specs()]
    views = tuple(job.compute.arrange(torch.randn(count, *job.net.student.input_shape(side))) for side in sizes)
    outputs = tuple(l2_normalise(torch.randn(count, job.teacher_dim)) for _ in (sizes if job.teacher_dim else ()))
    return Batch(views, torch.arange(count), torch.full((count,), -1), outputs)
