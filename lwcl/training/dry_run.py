"""What a run would do (`--dry-run`), and samples of its views."""

import dataclasses

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from lwcl import engine
from lwcl.config.plan import ResolvedConfig
from lwcl.config.teacher_options import parse_teacher_cache
from lwcl.data.augment.views import normalise_images, shown_views
from lwcl.data.cache.policy import CacheChoice, CacheEstimate, CacheMode, choose_cache
from lwcl.data.dataset import ImageSet
from lwcl.data.loader import Loader
from lwcl.formatting import SCHEMA_VERSION, duration
from lwcl.metrics.cost import count_macs
from lwcl.models.memory import Queue
from lwcl.models.pixel_format import shown_channels
from lwcl.reporting.console import Screen, print_json, print_table
from lwcl.settings import auto_value
from lwcl.training.build import build_model, build_training, stored_short_side
from lwcl.training.resolve import REPORT_SECONDS, RunCost, with_epochs, without_schedule
from lwcl.training.state import TrainingState
from lwcl.training.teacher import OnlineTeacher
from lwcl.training.teacher_cache import teacher_cache_bytes

TIMED_STEPS = 3
SAMPLE_IMAGES, SAMPLE_VIEWS = 6, 4


def print_dry_run(config: ResolvedConfig, images: ImageSet, screen: Screen, *, as_json: bool) -> None:
    """Prints the settings and their origins, parameters, MACs, memory, steps, and the time by a few timed steps."""
    few = images.subset(range(min(len(images), (TIMED_STEPS + 1) * config.optimization.batch_size)))
    mode: CacheMode = config.options.cache  # type: ignore[assignment]  # its choices are checked
    cache = choose_cache(mode, CacheEstimate(images, stored_short_side(config.options)))
    screen.say(cache.message)
    model = build_model(config, Screen(quiet=True), images)
    timed = dataclasses.replace(model, config=without_writing(model.config, cache))
    training = build_training(timed, few, Screen(quiet=True), lambda broken: None)
    per_epoch, seconds, settled = len(images) // training.loader.batch_size, median_step_seconds(training), model.config
    if config.unsettled:
        settled = with_epochs(settled, images, RunCost(0.0, seconds, REPORT_SECONDS))
    steps = settled.optimization.steps(per_epoch)
    student = training.net.student
    cost = {
        "images": len(images),
        "steps": steps,
        "parameters of the backbone": sum(p.numel() for p in student.backbone.parameters()),
        "parameters in training": sum(p.numel() for p in training.net.parameters() if p.requires_grad),
        "MACs of the backbone": count_macs(
            student.backbone, training.input_spec.size, student.channels, student.frames
        ),
        "memory of queues, bytes": sum(
            b.nbytes for q in training.net.modules() if isinstance(q, Queue) for b in q.buffers()
        ),
        "images per second": training.loader.batch_size / seconds,
        "time": duration(seconds * steps),
        **cached_outputs_cost(config, training.teacher, len(images)),
    }
    settings = settled.values
    if as_json:
        values = {name: setting.as_json() for name, setting in settings.items()}
        print_json({"schema_version": SCHEMA_VERSION, "kind": "dry-run", "settings": values, "cost": cost})
        return
    rows = [(name, setting.value, str(setting.origin)) for name, setting in settings.items()]
    print_table("Settings", ("Setting", "Value", "Origin"), rows)
    print_table("Cost", ("Measure", "Value"), list(cost.items()))


def without_writing(config: ResolvedConfig, cache: CacheChoice) -> ResolvedConfig:
    """The configuration with images cached in memory, if at all, and a teacher that runs in every step."""
    return config.with_values(
        cache=auto_value("off" if cache.where == "off" else "ram", "dry run"),
        teacher_cache=auto_value("off", "dry run"),
    )


def cached_outputs_cost(config: ResolvedConfig, teacher: OnlineTeacher | None, images: int) -> dict[str, int]:
    """The bytes that a teacher's outputs will take on disk, where they are cached."""
    cache = parse_teacher_cache(config.options.teacher_cache)
    if teacher is None or cache.kind == "off":
        return {}
    size = teacher_cache_bytes(max(1, cache.crops), images, teacher.dim, teacher.dtype)
    return {"teacher outputs on disk, bytes": size}


def median_step_seconds(training: TrainingState) -> float:
    """Median seconds of a step, the first left out."""
    config, loader = training.config, training.loader
    steps = min(TIMED_STEPS + 1, loader.steps_per_epoch)
    fitted = engine.fit(
        config.method, training.net, loader.batches(0, steps), without_schedule(config.optimization),
        training.optimizer, training.compute, steps_per_epoch=loader.steps_per_epoch, start=0, seed=0,
    )  # fmt: skip
    times = [step.seconds for step in fitted]
    return float(numpy.median(times[1:] or times))


def sample_views(loader: Loader) -> NDArray[numpy.uint8]:
    """Sample images as cached, and their views: (images, 1 + views, size, size, 3) uint8."""
    spec = loader.student.input_spec
    count = min(SAMPLE_IMAGES, len(loader.images))
    views = dataclasses.replace(loader.student, specs=loader.student.specs[:1] * SAMPLE_VIEWS)
    shown = dataclasses.replace(loader, teacher=None, student=views, batch_size=count, workers=0)
    batch = next(shown.batches(0, 1))
    columns = [torch.stack(column) for column in zip(*(stored_image(loader, int(i)) for i in batch.index), strict=True)]
    columns += [shown_views(view, spec) for view in batch.views]
    return torch.stack(columns, 1).permute(0, 1, 3, 4, 2).contiguous().numpy()


def stored_image(loader: Loader, index: int) -> list[Tensor]:
    """An image squashed to a square as RGB, uint8 (3, size, size); behind it that of the student if it is another."""
    spec, whole = loader.student.input_spec, loader.images.pixel_format
    image = loader.images.readable_image(index, spec.size)[0].resize((spec.size, spec.size))
    pixels = torch.from_numpy(numpy.asarray(image).astype(numpy.float32)).movedim(-1, -3)
    first = loader.student_channels[0] if loader.student_channels else 0
    shown = [(pixels[:first] * (255 / whole.white)).clamp(0, 255).round().to(torch.uint8)] if first else []
    own = normalise_images(pixels[None, first:], **spec.normalisation)
    return [one[list(shown_channels(len(one)))] for one in shown] + [shown_views(own[0], spec)]
