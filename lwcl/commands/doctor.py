"""`lwcl doctor`: can this machine train, how fast, and are these images usable? In under half a minute."""

import importlib.metadata
import os
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

import torch

from lwcl.config.plan import plan_pretrain
from lwcl.config.train_options import DataOptions
from lwcl.data.dataset import ImageSet, open_images
from lwcl.data.native import UnreadableImageError
from lwcl.errors import LwclError
from lwcl.formatting import SCHEMA_VERSION, plural
from lwcl.kernels import bfloat16
from lwcl.reporting.console import Screen, print_json, print_table
from lwcl.system.atomic_files import cache_folder, format_bytes, free_space
from lwcl.system.cpu import keep_freed_memory
from lwcl.system.device import resolve_device
from lwcl.system.limits import available_memory, usable_cpus
from lwcl.training.build import build_model, build_training
from lwcl.training.dry_run import median_step_seconds
from lwcl.training.resolve import has_opencv, resolve

CHECKED_PACKAGES = ("torch", "torchvision", "timm", "safetensors", "numpy", "pillow", "scikit-learn")
OPENCV_ADVICE = "pip install 'lwcl[opencv]': augmentations are 1.3 to 2 times as fast on a CPU"
MAX_SCAN_SECONDS = 5.0
MAX_SCAN_IMAGES = 500
LOW_CPUS, LOW_MEMORY_BYTES, LOW_DISK_BYTES = 2, 4e9, 2e9


class DoctorCheck(NamedTuple):
    """The result of one check."""

    check: str
    result: str
    advice: str = ""


def run_doctor(options: DataOptions, *, as_json: bool) -> int:
    """Prints the checks; the exit code is 4 if the given images cannot be used, else 0."""
    checks = [*check_environment(), *check_machine()]
    code = 0
    try:
        images = open_images(options.data, "train", **options.reading)
        checks += check_data(images)
        checks += check_speed(options, images)
    except LwclError as error:
        checks.append(DoctorCheck("images", str(error).replace("\n", " "), "cannot train on these"))
        code = error.exit_code
    if as_json:
        print_json(
            {"schema_version": SCHEMA_VERSION, "kind": "doctor", "checks": [check._asdict() for check in checks]}
        )
    else:
        print_table("", tuple(name.capitalize() for name in DoctorCheck._fields), checks)
    return code


def check_environment() -> Iterator[DoctorCheck]:
    """Python and the libraries."""
    yield DoctorCheck("python", sys.version.split()[0])
    for name in CHECKED_PACKAGES:
        yield DoctorCheck(name, importlib.metadata.version(name))
    yield DoctorCheck("opencv", "works", "") if has_opencv() else DoctorCheck("opencv", "not installed", OPENCV_ADVICE)


def check_machine() -> Iterator[DoctorCheck]:
    """Device, threads, memory, disk, allocator."""
    device = resolve_device("auto")
    slow = "" if device.type != "cpu" else "no GPU: fine for small images and small models"
    yield DoctorCheck("device", str(device), slow)
    cpus = usable_cpus()
    yield DoctorCheck(
        "CPUs available", str(cpus), "few: more than 10,000 images take hours" if cpus <= LOW_CPUS else ""
    )
    busy, advice = os.getloadavg()[0], f"other programs are busy: try --threads {max(1, cpus // 2)}"
    yield DoctorCheck("CPUs busy in the last minute", f"{busy:.1f}", advice if busy > cpus / 2 else "")
    memory, disk = available_memory(), free_space(cache_folder())
    yield DoctorCheck(
        "memory available",
        format_bytes(memory),
        "low: lower --batch-size, or give --cache disk" if memory < LOW_MEMORY_BYTES else "",
    )
    yield DoctorCheck(
        "disk free for the cache",
        format_bytes(disk),
        "low: set LWCL_CACHE to another disk" if disk < LOW_DISK_BYTES else "",
    )
    used = sum(file.stat().st_size for file in cache_folder().rglob("*") if file.is_file())
    yield DoctorCheck("cache", f"{format_bytes(used)} in {cache_folder()}", "can be deleted at any time")
    yield DoctorCheck("allocator", "tuned" if keep_freed_memory() else "not tuned (needs glibc)")
    bf16 = "has native bfloat16" if bfloat16.bf16_is_native() else "no native bfloat16"
    yield DoctorCheck("CPU", f"{torch.backends.cpu.get_cpu_capability()}, {bf16}")


def check_data(images: ImageSet) -> Iterator[DoctorCheck]:
    """The number of images and classes; of a sample, the decoding speed, the sizes and the broken ones."""
    classes = plural(len(images.classes), "class", "classes") if images.labelled else "no labels (not needed to train)"
    yield DoctorCheck(
        "images", f"{len(images):,}, {classes}", "" if len(images) >= 1000 else "few: expect weak features"
    )
    yield DoctorCheck("pixels", images.pixel_format.describe())
    for note in images.notes:
        yield DoctorCheck("note", note)
    begun, sizes, broken = time.perf_counter(), [], []
    step = max(1, len(images) // MAX_SCAN_IMAGES)
    for index in range(0, len(images), step):
        try:
            sizes.append(images.image(index).size)
        except UnreadableImageError as error:
            broken.append(f"{images.names[index]!r}: {error.reason}")
        if time.perf_counter() - begun > MAX_SCAN_SECONDS:
            break
    count = len(sizes) + len(broken)
    yield DoctorCheck("decoding", f"{count / (time.perf_counter() - begun):,.0f} images/s in one process")
    if sizes:
        sides = sorted(min(size) for size in sizes)
        yield DoctorCheck("short sides", f"{sides[0]} to {sides[-1]} px, median {sides[len(sides) // 2]}")
    advice = "replaced while training; fix or remove them" if broken else ""
    yield DoctorCheck("broken", f"{len(broken)} of {count} read" + (f", such as {broken[0]}" if broken else ""), advice)


def check_speed(options: DataOptions, images: ImageSet) -> Iterator[DoctorCheck]:
    """The speed of a default run on these images, in fp32."""
    chosen = {name: value for name, value in vars(options).items() if value != getattr(DataOptions, name)}
    plan, screen = plan_pretrain({**chosen, "precision": "fp32"}), Screen(quiet=True)
    config = resolve(plan, images)
    torch.set_num_threads(config.options.threads)
    batch, epochs = config.optimization.batch_size, config.optimization.epochs
    few = images.subset(range(min(len(images), 4 * batch)))
    speed = batch / median_step_seconds(
        build_training(build_model(config, screen, images), few, screen, lambda broken: None)
    )
    hours = len(images) * epochs / speed / 3600
    what = f"{speed:,.0f} images/s at {config.options.image_size} px, batch {batch}"
    yield DoctorCheck(
        f"training {plan.options.arch}", what, f"{plural(epochs, 'epoch')} of these images: about {hours:.1f} hours"
    )
