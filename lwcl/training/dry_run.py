"""What a run would do (`--dry-run`), and what its views look like."""

import dataclasses

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from lwcl import engine
from lwcl.config.plan import Plan
from lwcl.config.teacher_options import parse_teacher_cache
from lwcl.data.augment.views import denormalise_images
from lwcl.data.cache.policy import CacheChoice, CacheEstimate, CacheMode, choose_cache
from lwcl.data.dataset import ImageSet
from lwcl.data.loader import Loader
from lwcl.formatting import duration
from lwcl.metrics.cost import count_macs
from lwcl.models.memory import Queue
from lwcl.reporting.console import Screen, print_json, print_table
from lwcl.settings import auto_value
from lwcl.training.build import build_training, stored_short_side
from lwcl.training.state import TrainingState
from lwcl.training.teacher_cache import teacher_cache_bytes

TIMED_STEPS = 3
SAMPLE_IMAGES, SAMPLE_VIEWS = 6, 4


def print_dry_run(plan: Plan, images: ImageSet, screen: Screen, *, as_json: bool) -> None:
    """Prints the settings and their origins, parameters, MACs, memory, steps, and the time by a few timed steps."""
    few = images.subset(range(min(len(images), (TIMED_STEPS + 1) * (plan.recipe.batch_size or 1))))
    mode: CacheMode = plan.options.cache  # type: ignore[assignment]  # its choices are checked
    cache = choose_cache(mode, CacheEstimate(images, stored_short_side(plan.options)))
    screen.say(cache.message)
    training = build_training(without_writing(plan, cache), few, Screen(quiet=True), lambda broken: None)
    per_epoch = len(images) // training.loader.batch_size
    steps = per_epoch * (plan.recipe.epochs or 0)
    seconds = median_step_seconds(training.plan, training)
    student = training.net.student
    cost = {
        "images": len(images),
        "steps": steps,
        "parameters of the backbone": sum(p.numel() for p in student.backbone.parameters()),
        "parameters in training": sum(p.numel() for p in training.net.parameters() if p.requires_grad),
        "MACs of the backbone": count_macs(student.backbone, training.takes.size),
        "memory of queues, bytes": sum(
            b.nbytes for q in training.net.modules() if isinstance(q, Queue) for b in q.buffers()
        ),
        "images a second": training.loader.batch_size / seconds,
        "time": duration(seconds * steps),
        **cached_outputs_cost(plan, training, len(images)),
    }
    if as_json:
        settings = {name: setting.as_json() for name, setting in plan.settled.items()}
        print_json({"schema_version": 1, "kind": "dry-run", "settings": settings, "cost": cost})
        return
    print_table(
        "Settings",
        ("Setting", "Value", "Origin"),
        [(name, setting.value, setting.origin) for name, setting in plan.settled.items()],
    )
    print_table("Cost", ("What", "Value"), list(cost.items()))


def without_writing(plan: Plan, cache: CacheChoice) -> Plan:
    """The plan with images in memory, if they are kept at all, and a teacher that is asked in every step."""
    kept = {"cache": "off" if cache.where == "off" else "ram", "teacher_cache": "off"}
    changed = {name: auto_value(value, "dry run") for name, value in kept.items()}
    return Plan({**plan.settled, **changed}, plan.verb)


def cached_outputs_cost(plan: Plan, training: TrainingState, images: int) -> dict[str, int]:
    """The bytes that a teacher's answers will take on disk, where they are kept."""
    cache, live = parse_teacher_cache(plan.options.teacher_cache), training.teacher
    if live is None or cache.kind == "off":
        return {}
    return {"teacher's answers on disk, bytes": teacher_cache_bytes(max(1, cache.crops), images, live.dim, live.dtype)}


def median_step_seconds(plan: Plan, training: TrainingState) -> float:
    """Median seconds of a step, the first left out."""
    loader = training.loader
    steps = min(TIMED_STEPS + 1, loader.steps_per_epoch)
    fitted = engine.fit(
        plan.method, training.net, loader.batches(0, steps), plan.recipe, training.optimizer, training.compute,
        steps_per_epoch=loader.steps_per_epoch, start=0, seed=0,
    )  # fmt: skip
    times = [step.seconds for step in fitted]
    return float(numpy.median(times[1:] or times))


def sample_views(loader: Loader) -> NDArray[numpy.uint8]:
    """Some images as stored and their views: (images, 1 + views, size, size, 3) uint8."""
    size = loader.student.input_spec.size
    count = min(SAMPLE_IMAGES, len(loader.images))
    views = dataclasses.replace(loader.student, specs=loader.student.specs[:1] * SAMPLE_VIEWS)
    shown = dataclasses.replace(loader, teacher=None, student=views, batch_size=count, workers=0)
    batch = next(shown.batches(0, 1))
    spec = loader.student.input_spec
    columns = [torch.stack([stored_image(loader, index, size) for index in batch.index.tolist()])]
    columns += [denormalise_images(view, mean=spec.mean, std=spec.std) for view in batch.views]
    return torch.stack(columns, 1).permute(0, 1, 3, 4, 2).contiguous().numpy()


def stored_image(loader: Loader, index: int, size: int) -> Tensor:
    """An image squashed to a square, uint8 (3, size, size)."""
    image = loader.images.good_image(index)[0].resize((size, size))
    return torch.from_numpy(numpy.asarray(image).copy()).permute(2, 0, 1)
