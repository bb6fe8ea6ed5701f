"""`lwcl doctor`: can this machine train, how fast, and are these images fit to train on? In under half a minute."""

import importlib.metadata
import os
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

import torch

from lwcl.config.plan import plan_pretrain
from lwcl.data.cache.policy import available_memory
from lwcl.data.dataset import ImageSet, open_images
from lwcl.data.decode import BadImage
from lwcl.errors import LwclError
from lwcl.kernels import bfloat16
from lwcl.reporting.console import Screen, print_json, print_table
from lwcl.system.atomic_files import cache_folder, free_space, size_text
from lwcl.system.cpu import tune_allocator, usable_cpus
from lwcl.system.device import device_of
from lwcl.training.build import assembled
from lwcl.training.dry_run import timed_step
from lwcl.training.resolve import has_opencv, settled

PACKAGES = ("torch", "torchvision", "timm", "safetensors", "numpy", "pillow", "scikit-learn")
OPENCV = "pip install 'lwcl[opencv]' lets a CPU make views 1.3 to 2 times as fast"
SCAN_SECONDS = 5.0
SCAN_IMAGES = 500
FEW_CPUS, LITTLE_MEMORY, LITTLE_DISK = 2, 4e9, 2e9
ARCH = "mobilenetv3_small_100"


class Finding(NamedTuple):
    """One thing that was looked at."""

    what: str
    found: str
    advice: str = ""


def examine(data: tuple[str, ...], as_json: bool) -> int:
    """Prints what was found; the exit code is 4 if the given images cannot be used, else 0."""
    findings = [*environment_found(), *machine_found()]
    code = 0
    try:
        findings += data_found(open_images(data, "train"))
        findings += speed_found(data)
    except LwclError as error:
        findings.append(Finding("images", str(error).replace("\n", " "), "so nothing can be trained"))
        code = error.exit_code
    if as_json:
        print_json({"schema_version": 1, "kind": "doctor", "findings": [finding._asdict() for finding in findings]})
    else:
        print_table("", Finding._fields, findings)
    return code


def environment_found() -> Iterator[Finding]:
    """Python and the libraries."""
    yield Finding("python", sys.version.split()[0])
    for name in PACKAGES:
        yield Finding(name, importlib.metadata.version(name))
    yield Finding("opencv", "works", "") if has_opencv() else Finding("opencv", "not installed", OPENCV)


def machine_found() -> Iterator[Finding]:
    """Device, threads, memory, disk, allocator."""
    device = device_of("auto")
    slow = "" if device.type != "cpu" else "no GPU: small images and small nets train well on a CPU too"
    yield Finding("device", str(device), slow)
    cpus = usable_cpus()
    yield Finding(
        "CPUs that may be used", str(cpus), "few: expect hours for more than 10,000 images" if cpus <= FEW_CPUS else ""
    )
    busy, crowd = os.getloadavg()[0], f"other programs compute: --threads {max(1, cpus // 2)} makes all of them faster"
    yield Finding("CPUs busy in the last minute", f"{busy:.1f}", crowd if busy > cpus / 2 else "")
    memory, disk = available_memory(), free_space(cache_folder())
    yield Finding(
        "memory available",
        size_text(memory),
        "little: lower --batch-size, --cache disk" if memory < LITTLE_MEMORY else "",
    )
    yield Finding(
        "disk free for the cache",
        size_text(disk),
        "little: set LWCL_CACHE to another disk" if disk < LITTLE_DISK else "",
    )
    held = sum(file.stat().st_size for file in cache_folder().rglob("*") if file.is_file())
    yield Finding("cache", f"{size_text(held)} in {cache_folder()}", "what is there can be removed at any time")
    yield Finding("allocator", "tuned" if tune_allocator() else "as it is (tuning needs glibc)")
    bf16 = "has native bfloat16" if bfloat16.is_native() else "no native bfloat16"
    yield Finding("CPU", f"{torch.backends.cpu.get_cpu_capability()}, {bf16}")


def data_found(images: ImageSet) -> Iterator[Finding]:
    """How many images, classes and splits, and whether a sample of them can be decoded, how fast and how large."""
    classes = f"{len(images.classes)} classes" if images.labelled else "no labels (none are needed to train)"
    yield Finding("images", f"{len(images):,}, {classes}", "" if len(images) >= 1000 else "few: expect little")
    begun, sizes, broken = time.perf_counter(), [], []
    step = max(1, len(images) // SCAN_IMAGES)
    for index in range(0, len(images), step):
        try:
            sizes.append(images.image(index).size)
        except BadImage as error:
            broken.append(f"{images.names[index]!r}: {error.reason}")
        if time.perf_counter() - begun > SCAN_SECONDS:
            break
    count = len(sizes) + len(broken)
    yield Finding("decoding", f"{count / (time.perf_counter() - begun):,.0f} images/s in one process")
    if sizes:
        sides = sorted(min(size) for size in sizes)
        yield Finding("short sides", f"{sides[0]} to {sides[-1]} px, median {sides[len(sides) // 2]}")
    advice = "they are replaced while training; mend or remove them" if broken else ""
    yield Finding(
        "broken", f"{len(broken)} of {count} looked at" + (f", such as {broken[0]}" if broken else ""), advice
    )


def speed_found(data: tuple[str, ...]) -> Iterator[Finding]:
    """How fast a default run would train these images."""
    plan = plan_pretrain({"data": list(data), "arch": ARCH})
    images = open_images(plan.options.data, "train")
    plan = settled(plan, images)
    torch.set_num_threads(plan.options.threads or 1)
    batch = plan.recipe.batch_size or 1
    few = images.subset(range(min(len(images), 4 * batch)))
    training = assembled(plan, few, Screen(quiet=True), lambda broken: None)
    speed = batch / timed_step(plan, training)
    hours = len(images) * (plan.recipe.epochs or 0) / speed / 3600
    what = f"{speed:,.0f} images/s at {plan.options.image_size} px, batch {batch}"
    yield Finding(f"training {ARCH}", what, f"{plan.recipe.epochs} epochs of these images: about {hours:.1f} hours")
