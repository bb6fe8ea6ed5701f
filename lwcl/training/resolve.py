"""From a plan to the configuration of a run: values that depend on the images and the machine."""

import dataclasses
from collections.abc import Mapping, Set
from typing import Any, NamedTuple

import numpy

from lwcl.config.auto import RunFacts, resolve_plan
from lwcl.config.diff import json_compatible
from lwcl.config.plan import Plan, ResolvedConfig
from lwcl.config.recipes import Optimization
from lwcl.data.dataset import ImageSet
from lwcl.data.demo import builtin
from lwcl.errors import DataError, UsageError
from lwcl.formatting import duration, plural
from lwcl.kernels import bfloat16
from lwcl.models.teachers import patch_multiple
from lwcl.reporting.console import Screen
from lwcl.settings import AUTO, DEFAULT, RESUMED, OriginKind, SettingValue, auto_value
from lwcl.system import distributed
from lwcl.system.device import resolve_device
from lwcl.system.limits import own_cpus

MIN_IMAGES = 2
SIZE_SAMPLE = 64  # images whose sizes are read for the median
SPARE = 0.98  # of the time that --minutes leaves for training, so that a run rarely ends late
REPORT_SECONDS = 6.0  # pictures and report at the end of a run


def resolve(plan: Plan, images: ImageSet) -> ResolvedConfig:
    """The configuration of a run on these images and this machine.

    Raises `DataError` for fewer than two images; `UsageError` for a batch that does not fit, or where OpenCV is
    missing.
    """
    # 1. The properties of the images and the machine.
    accelerated = is_accelerated(plan)
    plan = settle_devices(plan)
    facts = RunFacts(
        len(images),
        median_short_side(images),
        own_cpus(),
        accelerated,
        demo=set(plan.options.data) <= set(builtin.BUILTIN_SETS),
        opencv=has_opencv(),
        emulated_bf16=not accelerated and not bfloat16.bf16_is_native(),
        processes=distributed.world_size(),
        rgb=images.pixel_format.is_rgb,
    )
    # 2. The rules; then flags that do not fit the images or the machine are refused.
    config = agree(round_sizes_to_patches(resolve_plan(plan, facts)))
    check_batch_size(config, len(images))
    if not config.unsettled:
        check_warmup(config)
    check_sync_bn(config)
    check_opencv(config)
    check_channels(config, images)
    check_device_cache(config)
    return config


def settle_devices(plan: Plan) -> Plan:
    """The plan with the number of processes that were started. Raises `UsageError` where a flag says another one."""
    asked, started = plan.values["devices"], distributed.world_size()
    if started == 1 or asked.value in (None, started):
        return plan
    if asked.origin.kind is OriginKind.FLAG:
        what = f"--devices {asked.value}, but {started} processes were started."
        raise UsageError(what, remedy="Leave --devices out with torchrun and srun.")
    return plan.with_values(devices=auto_value(started, "processes that were started"))


def agree(config: ResolvedConfig) -> ResolvedConfig:
    """The configuration of process 0; only threads and workers are this process's own."""
    own = json_compatible({name: one.value for name, one in config.values.items()})
    first = distributed.broadcast_json(own)
    differing = {
        name: config.values[name]._replace(value=value)
        for name, value in first.items()
        if name not in ("threads", "workers") and own[name] != value
    }
    return config.with_values(**differing) if differing and distributed.is_distributed() else config


def round_sizes_to_patches(config: ResolvedConfig) -> ResolvedConfig:
    """The configuration with sizes of student and teacher rounded to multiples of their patch sizes, if the
    architectures' names give these.

    timm would ignore the border of an image that no patch covers.
    """
    options, changes = config.options, {}
    kind, _, named = (options.teacher or "").partition("/")
    teacher = options.teacher_arch or (named if kind in ("timm", "random") else "")
    sizes = {"image_size": (options.arch, options.image_size), "teacher_size": (teacher, options.teacher_size)}
    for name, (arch, size) in sizes.items():
        if size and (fitting := patch_multiple(arch, size)) != size:
            changes[name] = auto_value(fitting, f"a multiple of the patches of {arch}, instead of {size}")
    return config.with_values(**changes)


class RunCost(NamedTuple):
    """What a run takes, in seconds."""

    before: float  # up to the end of the trial
    step: float  # a step, with its share of what follows an epoch
    after: float  # scores, pictures, report

    def steps(self, seconds: float) -> int:
        """The number of steps that fit in the given seconds, at least one."""
        return max(1, int(SPARE * (seconds - self.before - self.after) / self.step))

    def total(self, steps: int) -> float:
        """Seconds of a run of so many steps."""
        return self.before + steps * self.step + self.after


def with_epochs(config: ResolvedConfig, images: ImageSet, cost: RunCost) -> ResolvedConfig:
    """The configuration with the number of epochs that `--minutes` left open, and what follows from it.

    Raises `UsageError` where a warm-up takes all of them.
    """
    minutes, per_epoch = config.options.minutes or 0.0, len(images) // config.optimization.batch_size
    times = (duration(seconds) for seconds in (cost.before, cost.step * per_epoch, cost.after))
    parts = "{} so far, {} an epoch, {} at the end".format(*times)
    epochs = auto_value(cost.steps(60 * minutes) / per_epoch, f"--minutes {minutes:g}: {parts}")
    opened = {name: SettingValue(None, DEFAULT) for name in config.unsettled} | {"epochs": epochs}
    settled = resolve(Plan.from_values(config.command, {**config.values, **opened}, config.user), images)
    check_warmup(settled)
    return settled


def resume_settings(
    config: ResolvedConfig, recorded: Mapping[str, Any], auto: Set[str], screen: Screen
) -> ResolvedConfig:
    """The configuration of a resumed run: what the machine decided (`auto`) stays as `recorded`, for bit-identical
    results, and so do the epochs that `--minutes` settled.

    Raises `UsageError` if it started with OpenCV, and there is none now.
    """
    changes = {}
    for name in auto - {"threads"} if recorded.get("devices", 1) != config.options.devices else auto:
        now, then = config.values[name].value, recorded.get(name)
        if then not in (None, AUTO, now):
            changes[name] = SettingValue(then, RESUMED)
            if now != AUTO:
                screen.warn(f"{name} {then}, as when the run started; a new run on this machine would use {now}.")
    if config.unsettled and (epochs := recorded["epochs"]) is not None:
        changes |= {name: SettingValue(recorded[name], RESUMED) for name in config.unsettled}
        screen.say(f"{plural(epochs, 'epoch')}, as --minutes settled when the run started.")
    config = config.with_values(**changes)
    check_opencv(config)
    return config


def is_accelerated(plan: Plan) -> bool:
    """Whether the run uses a GPU. Raises `UsageError` for a device that is absent."""
    return resolve_device(plan.options.device).type != "cpu"


def check_batch_size(config: ResolvedConfig, images: int) -> None:
    """Raises `UsageError` for a batch larger than the data set, or micro-batches that do not fit the batch."""
    batch, accumulate, processes = (
        config.optimization.batch_size,
        config.optimization.accumulate,
        config.options.devices,
    )
    if images < MIN_IMAGES:
        what = (
            f"{plural(images, 'image')}: training compares images with each other, so it needs at least {MIN_IMAGES}."
        )
        raise DataError(what, remedy="Use more images; a few hundred is still very few.")
    if images < batch:
        raise UsageError(
            f"{plural(images, 'image')} cannot fill a batch of {batch:,}.",
            remedy=f"Give --batch-size {images} or less, or more images.",
        )
    if processes > 1 and batch % (processes * accumulate):
        parts = processes * accumulate
        sizes = " or ".join(str(size) for size in (batch // parts * parts, (batch // parts + 1) * parts) if size)
        shares = f" and {accumulate} micro-batches" if accumulate > 1 else ""
        raise UsageError(
            f"A batch of {batch} cannot be divided evenly among {processes} processes{shares}.",
            "--batch-size is that of all processes together.",
            f"Give --batch-size {sizes}, or another number of processes.",
        )
    if batch % accumulate:
        raise UsageError(
            f"A batch of {batch} cannot be split into {accumulate} equal micro-batches.",
            remedy="Give an --accumulate that divides --batch-size.",
        )
    count = accumulate * config.optimization.bn_splits * processes
    if batch // count < 2:
        raise UsageError(
            f"A batch of {batch} split {count} times leaves fewer than 2 images each.",
            "It is split --accumulate times --bn-splits times --devices.",
            f"Give --batch-size {2 * count} or more, or split less.",
        )


def without_schedule(optimization: Optimization) -> Optimization:
    """For a trial: with a constant learning rate, as the number of epochs may still be open."""
    return dataclasses.replace(optimization, schedule="constant", warmup=0.0)


def check_warmup(config: ResolvedConfig) -> None:
    """Raises `UsageError` where the warm-up leaves no epochs for the cosine after it."""
    warmup, epochs = config.optimization.warmup, config.optimization.epochs
    if config.optimization.schedule == "cosine" and warmup >= epochs:
        raise UsageError(
            f"A warm-up of {plural(warmup, 'epoch')} does not fit in a run of {plural(epochs, 'epoch')}.",
            remedy=f"Give a --warmup below {epochs:g}, or a longer run.",
        )


def check_sync_bn(config: ResolvedConfig) -> None:
    """Raises `UsageError` where batch norm cannot take the images of all processes together."""
    if config.optimization.sync_bn and config.optimization.bn_splits > 1:
        what = "--sync-bn normalises the images of all processes together, --bn-splits those of each in parts."
        raise UsageError(what, remedy="Remove one of them.")
    if config.optimization.sync_bn and not is_accelerated(config):
        raise UsageError(
            "--sync-bn needs accelerators: this run computes on the CPU.",
            "torch.nn.SyncBatchNorm has no code for CPUs.",
            "Leave it out; for more images in a batch norm give fewer --devices or a larger --batch-size.",
        )


def check_channels(config: ResolvedConfig, images: ImageSet) -> None:
    """Raises `UsageError` where OpenCV is to compute the views of images that are not 8-bit RGB."""
    if config.options.view_backend == "opencv" and not images.pixel_format.is_rgb:
        what = f"--view-backend opencv is for 8-bit RGB; these images are {images.pixel_format.describe()}."
        raise UsageError(what, remedy="Leave it out: their views are computed by tensors.")


def check_opencv(config: ResolvedConfig) -> None:
    """Raises `UsageError` where OpenCV is to compute the views and cannot."""
    accelerated = is_accelerated(config)
    if config.options.view_backend == "opencv" and (accelerated or not has_opencv()):
        found = "a GPU" if accelerated else "no working OpenCV (pip install 'lwcl[opencv]')"
        raise UsageError(
            "--view-backend opencv needs OpenCV and a CPU.",
            f"This machine has {found}.",
            "Give --view-backend tensor, or another --out if the run started with it.",
        )


def check_device_cache(config: ResolvedConfig) -> None:
    """Raises `UsageError` where images are to be cached on a GPU and there is none."""
    if config.options.cache == "device" and not is_accelerated(config):
        raise UsageError("--cache device needs a GPU: this run computes on the CPU.", remedy="Give --cache ram.")


def has_opencv() -> bool:
    """Whether OpenCV works: not a broken installation, nor a folder left over from one."""
    try:
        import cv2

        return all(map(callable, (cv2.sepFilter2D, cv2.setNumThreads)))
    except Exception:  # another numpy, missing libraries: whatever an extension raises when it is imported
        return False


def median_short_side(images: ImageSet) -> int:
    """The median short side, in pixels, of at most `SIZE_SAMPLE` images, evenly spaced."""
    indices = numpy.linspace(0, len(images) - 1, min(SIZE_SAMPLE, len(images))).round().astype(int)
    return int(numpy.median([images.short_side(int(index)) for index in indices]))
