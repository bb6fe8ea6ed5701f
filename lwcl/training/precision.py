"""`--precision auto` on a CPU: float32 and bfloat16 timed on this net and machine, and the faster one, if it is proven.

bfloat16 makes a step up to twice as fast, or slower: that depends on the net, the processor and torch, so it is
measured, by steps as training takes them. It also moves gradients, so it is a candidate only for architectures on which
a run has shown that accuracy does not suffer; `PROVEN` lists them with that evidence.
"""

import copy
import dataclasses
import hashlib
import itertools
import json
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import lwcl
from lwcl import engine
from lwcl.config.recipes import Recipe
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
}

AUTOCAST_DTYPES: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16}
MIN_SPEEDUP = 1.15  # times faster than float32 that bfloat16 must be: less is a tie, and goes to float32
TIMING_BUDGET_SECONDS = 10.0  # that the timing may take in all, about
TIMED_ROUNDS = 3  # timed steps of each precision
MIN_TIMED_IMAGES = 16  # images of a step that is timed, where so many fit


class PrecisionChoice(NamedTuple):
    """A precision and why it was chosen."""

    name: str  # "fp32" or "bf16"
    reason: str
    table: dict[str, float]  # seconds of a step by the precision's name; empty where nothing was timed


def choose_precision(
    method: Method, net: Net, recipe: Recipe, compute: Compute, size: int, teacher_dim: int = 0
) -> PrecisionChoice:
    """The precision for training `net`, which is placed as `compute` says, on a CPU by views of `size` pixels.

    `recipe` is settled; `teacher_dim` is the width of what a teacher says, 0 without one. What was timed is kept in the
    cache folder for the next run of the same net on the same machine. `net` is left as it is.
    """
    if without := precision_without_timing(net.student.arch):
        return without
    if distributed.world_size() > 1:
        return PrecisionChoice("fp32", "precisions are not timed in several processes", {})
    assert recipe.batch_size
    key = timing_key(method, net, recipe, compute, size, teacher_dim)
    known = load_timings()
    if key not in known:
        known[key] = time_precisions(method, net, recipe, compute, size, teacher_dim)
        with suppress(StorageError):
            write_atomically(timings_file(), json_text(known, indent=1))
    return faster_precision(known[key])


def precision_without_timing(arch: str) -> PrecisionChoice | None:
    """float32 where nothing need be timed: bfloat16 is not known to be as good, or known to be slow; else None."""
    if arch not in BF16_VALIDATED:
        return PrecisionChoice("fp32", f"no run has shown yet that bf16 costs {arch} no accuracy", {})
    return PrecisionChoice("fp32", "this CPU is many times slower in bf16", {}) if bfloat16.bf16_is_emulated() else None


def faster_precision(table: dict[str, float]) -> PrecisionChoice:
    """bfloat16 where it is `WORTH` it, with the times as the reason."""
    gain = table["fp32"] / table["bf16"]
    times = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in table.items())
    reason = f"bf16 is {gain:.2f} times as fast as fp32 here (a step: {times}); {MIN_SPEEDUP} is worth it"
    return PrecisionChoice("bf16" if gain >= MIN_SPEEDUP else "fp32", reason, table)


def timing_key(method: Method, net: Net, recipe: Recipe, compute: Compute, size: int, teacher_dim: int) -> str:
    """A digest of what the times depend on: machine, net, method, size and batch, versions."""
    facts = {
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "arch": net.student.arch,
        "arguments": net.student.arguments,
        "head": net.student.head_widths,
        "channels_last": compute.channels_last,
        "method": [method.name, str(method), teacher_dim],
        "size": size,
        "batch": [recipe.batch_size, recipe.accumulate, recipe.optimizer],
        "versions": [lwcl.__version__, *map(package_version, ("torch", "timm"))],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def timings_file() -> Path:
    """The file that keeps the times."""
    return cache_folder() / "precision.json"


def load_timings() -> dict[str, dict[str, float]]:
    """The times that are kept, by their keys; what is damaged is not there."""
    try:
        found: Any = json.loads(timings_file().read_text(encoding="utf-8"))
        return {key: {name: float(times[name]) for name in AUTOCAST_DTYPES} for key, times in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def time_precisions(
    method: Method, net: Net, recipe: Recipe, compute: Compute, size: int, teacher_dim: int
) -> dict[str, float]:
    """Seconds of a training step in each precision: the least of `ROUNDS`, scaled to a whole batch; they take turns."""
    assert recipe.batch_size
    fewest = max(MIN_TIMED_IMAGES, 2 * recipe.accumulate * method.bn_splits)
    least = min(recipe.batch_size, fewest)
    with torch.random.fork_rng(devices=[]):
        trial = timing_runs(method, net, recipe, compute, size, teacher_dim, least)
        time_round(trial)  # the first steps are slow: memory is taken and kernels are made
        first = sum(time_round(trial).values())
        affordable = int(least * TIMING_BUDGET_SECONDS / ((TIMED_ROUNDS + 1) * first))
        count = max(least, min(recipe.batch_size, affordable - affordable % fewest))
        running = timing_runs(method, net, recipe, compute, size, teacher_dim, count)
        time_round(running)
        rounds = [time_round(running) for _ in range(TIMED_ROUNDS)]
    return {name: min(each[name] for each in rounds) * recipe.batch_size / count for name in AUTOCAST_DTYPES}


def time_round(running: dict[str, Iterator[engine.TrainStep]]) -> dict[str, float]:
    """Seconds of one more step in each precision, as CPU time a thread: other work on the machine counts little."""
    taken = {}
    for name, fitted in running.items():
        start = time.process_time()
        next(fitted)
        taken[name] = (time.process_time() - start) / torch.get_num_threads()
    return taken


def timing_runs(
    method: Method, net: Net, recipe: Recipe, compute: Compute, size: int, teacher_dim: int, count: int
) -> dict[str, Iterator[engine.TrainStep]]:
    """A training in each precision of a copy of `net` on `count` random images, ready to take steps."""
    calm = dataclasses.replace(recipe, lr=1e-6, warmup=0.0, batch_size=count)
    batch = noise_batch(method, compute, size, teacher_dim, count)
    running = {}
    for name, precision in AUTOCAST_DTYPES.items():
        own = copy.deepcopy(net)
        optimizer = engine.build_optimizer(own, calm, 1e-6, 0.0)
        way = compute._replace(autocast=precision)
        running[name] = engine.fit(
            method, own, itertools.repeat(batch), calm, optimizer, way, steps_per_epoch=1000, start=0, seed=0
        )
    return running


def noise_batch(method: Method, compute: Compute, size: int, teacher_dim: int, count: int) -> Batch:
    """`count` images of noise in all their views, with teacher outputs of noise."""

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape)

    sizes = [spec.pixels(size) for spec in method.view_specs()]
    views = tuple(noise(count, 3, side, side).contiguous(memory_format=compute.memory_format) for side in sizes)
    outputs = tuple(l2_normalise(noise(count, teacher_dim)) for _ in (sizes if teacher_dim else ()))
    return Batch(views, torch.arange(count), torch.full((count,), -1), outputs)
