"""`lwcl doctor`: can this machine train, how fast, and are these images fit to train on? In under half a minute."""

import importlib.metadata
import os
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

import torch

from lwcl.config.plan import plan_pretrain
from lwcl.data.dataset import ImageSet, open_images
from lwcl.data.decode import UnreadableImageError
from lwcl.errors import LwclError
from lwcl.kernels import bfloat16
from lwcl.reporting.console import Screen, print_json, print_table
from lwcl.system.atomic_files import cache_folder, format_bytes, free_space
from lwcl.system.cpu import keep_freed_memory
from lwcl.system.device import resolve_device
from lwcl.system.limits import available_memory, usable_cpus
from lwcl.training.build import build_training
from lwcl.training.dry_run import median_step_seconds
from lwcl.training.resolve import has_opencv, resolve_auto

CHECKED_PACKAGES = ("torch", "torchvision", "timm", "safetensors", "numpy", "pillow", "scikit-learn")
OPENCV_ADVICE = "pip install 'lwcl[opencv]' lets a CPU make views 1.3 to 2 times as fast"
MAX_SCAN_SECONDS = 5.0
MAX_SCAN_IMAGES = 500
LOW_CPUS, LOW_MEMORY_BYTES, LOW_DISK_BYTES = 2, 4e9, 2e9
TIMED_ARCH = "mobilenetv3_small_100"


class DoctorCheck(NamedTuple):
    """One thing that was looked at."""

    what: str
    found: str
    advice: str = ""


def run_doctor(data: tuple[str, ...], as_json: bool) -> int:
    """Prints what was found; the exit code is 4 if the given images cannot be used, else 0."""
    findings = [*check_environment(), *check_machine()]
    code = 0
    try:
        findings += check_data(open_images(data, "train"))
        findings += check_speed(data)
    except LwclError as error:
        findings.append(DoctorCheck("images", str(error).replace("\n", " "), "so nothing can be trained"))
        code = error.exit_code
    if as_json:
        print_json({"schema_version": 1, "kind": "doctor", "findings": [finding._asdict() for finding in findings]})
    else:
        print_table("", DoctorCheck._fields, findings)
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
    slow = "" if device.type != "cpu" else "no GPU: small images and small nets train well on a CPU too"
    yield DoctorCheck("device", str(device), slow)
    cpus = usable_cpus()
    yield DoctorCheck(
        "CPUs that may be used", str(cpus), "few: expect hours for more than 10,000 images" if cpus <= LOW_CPUS else ""
    )
    busy, crowd = os.getloadavg()[0], f"other programs compute: --threads {max(1, cpus // 2)} makes all of them faster"
    yield DoctorCheck("CPUs busy in the last minute", f"{busy:.1f}", crowd if busy > cpus / 2 else "")
    memory, disk = available_memory(), free_space(cache_folder())
    yield DoctorCheck(
        "memory available",
        format_bytes(memory),
        "little: lower --batch-size, --cache disk" if memory < LOW_MEMORY_BYTES else "",
    )
    yield DoctorCheck(
        "disk free for the cache",
        format_bytes(disk),
        "little: set LWCL_CACHE to another disk" if disk < LOW_DISK_BYTES else "",
    )
    held = sum(file.stat().st_size for file in cache_folder().rglob("*") if file.is_file())
    yield DoctorCheck("cache", f"{format_bytes(held)} in {cache_folder()}", "what is there can be removed at any time")
    yield DoctorCheck("allocator", "tuned" if keep_freed_memory() else "as it is (tuning needs glibc)")
    bf16 = "has native bfloat16" if bfloat16.bf16_is_native() else "no native bfloat16"
    yield DoctorCheck("CPU", f"{torch.backends.cpu.get_cpu_capability()}, {bf16}")


def check_data(images: ImageSet) -> Iterator[DoctorCheck]:
    """How many images, classes and splits, and whether a sample of them can be decoded, how fast and how large."""
    classes = f"{len(images.classes)} classes" if images.labelled else "no labels (none are needed to train)"
    yield DoctorCheck("images", f"{len(images):,}, {classes}", "" if len(images) >= 1000 else "few: expect little")
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
    advice = "they are replaced while training; mend or remove them" if broken else ""
    yield DoctorCheck(
        "broken", f"{len(broken)} of {count} looked at" + (f", such as {broken[0]}" if broken else ""), advice
    )


def check_speed(data: tuple[str, ...]) -> Iterator[DoctorCheck]:
    """How fast a default run would train these images."""
    plan = plan_pretrain({"data": list(data), "arch": TIMED_ARCH})
    images = open_images(plan.options.data, "train")
    plan = resolve_auto(plan, images)
    torch.set_num_threads(plan.options.threads or 1)
    batch = plan.recipe.batch_size or 1
    few = images.subset(range(min(len(images), 4 * batch)))
    training = build_training(plan, few, Screen(quiet=True), lambda broken: None)
    speed = batch / median_step_seconds(plan, training)
    hours = len(images) * (plan.recipe.epochs or 0) / speed / 3600
    what = f"{speed:,.0f} images/s at {plan.options.image_size} px, batch {batch}"
    yield DoctorCheck(
        f"training {TIMED_ARCH}", what, f"{plan.recipe.epochs} epochs of these images: about {hours:.1f} hours"
    )
