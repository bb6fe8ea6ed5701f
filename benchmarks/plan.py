"""What a run of a given size needs on the disk, in memory and over the network, and its hours; docs/scale.md's table.

    python benchmarks/plan.py                      # the table
    python benchmarks/plan.py --images-per-second 220 --gpus 1 2   # with a speed that you measured
    python benchmarks/plan.py --measured           # what benchmarks/processes.py measured on CPUs

The formulas are below; what is measured and what is assumed stands beside each number.
"""

import argparse
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).with_name("results.jsonl")
INDEX_BYTES = 27.0  # an image, in the index on the disk, mapped once a node: benchmarks/index.py
OWN_BYTES = 32.0  # an image, of each process: benchmarks/index.py
JPEG_BYTES = 120_000.0  # an image shrunk to a short side of 392 px (224 px views), JPEG quality 95, 4:4:4: 93 to 153 kB
PIXEL_BYTES = 3 * 392 * 523.0  # the same as pixels, 4:3
NODE = 8  # GPUs
NVLINK, INFINIBAND = 450e9, 50e9  # bytes/s and GPU, one direction: NVIDIA's H200 data sheet; NDR 400 Gb/s a GPU
PARAMETERS = 5.5e6  # MobileNetV3-Large with MoCo v2's head: 4 bytes each in a gradient
DIM, VIEWS, QUEUE, FEATURES = 128, 2, 65_536, 2048  # of a key; views; keys in the queue; of a teacher's feature


class Plan(NamedTuple):
    """A number of images on a number of GPUs."""

    images: float
    gpus: int
    batch: int  # images of a step, over all GPUs
    images_per_second: float  # of one GPU

    @property
    def network_bytes(self) -> float:
        """Bytes that a GPU sends in a step: a ring's all-reduce of the gradients, and its keys to all others."""
        return ring_bytes(4 * PARAMETERS, self.gpus) + self.gathered(VIEWS * DIM)

    def gathered(self, numbers: int) -> float:
        """Bytes that a GPU sends so that all have float32 `numbers` of each image."""
        return (self.gpus - 1) / self.gpus * self.batch * numbers * 4

    @property
    def step_seconds(self) -> tuple[float, float]:
        """Seconds of a step: computing, and the network if nothing of it is hidden behind the computing."""
        link = NVLINK if self.gpus <= NODE else INFINIBAND
        return self.batch / self.gpus / self.images_per_second, self.network_bytes / link + latency(self.gpus)

    @property
    def epoch_hours(self) -> float:
        """Hours of an epoch, the network not hidden."""
        return self.images / self.batch * sum(self.step_seconds) / 3600

    @property
    def read_bytes(self) -> float:
        """Bytes of JPEG that all GPUs together read a second."""
        return self.batch * JPEG_BYTES / sum(self.step_seconds)


def ring_bytes(size: float, processes: int) -> float:
    """Bytes that a process sends so that all have the sum of `size` bytes each."""
    return 2 * (processes - 1) / processes * size


def latency(gpus: int) -> float:
    """Seconds of the messages' starts: 5 us a hop of a tree within a node, 20 us between nodes (assumed)."""
    within, between = math.log2(max(1, min(gpus, NODE))), math.log2(max(1, gpus / NODE))
    return 2 * (5e-6 * within + 20e-6 * between)


def told_size(count: float) -> str:
    """Bytes for people."""
    unit = next((unit for unit in (12, 9, 6, 3) if count >= 10**unit), 0)
    return f"{count / 10**unit:.3g} {dict(zip((12, 9, 6, 3, 0), ('TB', 'GB', 'MB', 'kB', 'B'), strict=True))[unit]}"


def rows(told: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    """The table."""
    yield ("images", "GPUs", "batch", "index", "shrunk JPEGs", "pixels", "memory per node", "sent per step",
           "computing, ms", "network, ms", "reads", "epoch, h")  # fmt: skip
    for images in told.images:
        for gpus in told.gpus:
            plan = Plan(images, gpus, told.batch * gpus, told.images_per_second)
            computing, network = plan.step_seconds
            memory = images * (OWN_BYTES * min(gpus, NODE) + INDEX_BYTES)
            yield (
                f"{images:,.0f}", f"{gpus}", f"{plan.batch:,}", told_size(images * INDEX_BYTES),
                told_size(images * JPEG_BYTES), told_size(images * PIXEL_BYTES), told_size(memory),
                told_size(plan.network_bytes) if gpus > 1 else "-",
                f"{1000 * computing:.0f}", f"{1000 * network:.2f}" if gpus > 1 else "-",
                f"{told_size(plan.read_bytes)}/s", f"{plan.epoch_hours:.3g}",
            )  # fmt: skip


def measured() -> Iterator[tuple[str, ...]]:
    """The newest steps that benchmarks/processes.py measured, and their gradients by gloo and between nodes."""
    yield ("net", "processes", "images/s", "step, ms", "gradients", "gloo, ms", "gloo, of the step", "gloo, bytes/s",
           "64 GPUs, ms")  # fmt: skip
    found = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    newest: dict[str, dict[str, Any]] = {row["architecture"]: row for row in found if row.get("allreduce_s")}
    for arch, row in newest.items():
        step, seconds, size = row["batch"] / row["images_per_second"], row["allreduce_s"], row["gradient_bytes"]
        between = ring_bytes(size, 64) / INFINIBAND + latency(64)
        yield (
            arch, f"{row['processes']}", f"{row['images_per_second']:.0f}", f"{1000 * step:.0f}", told_size(size),
            f"{1000 * seconds:.1f}", f"{100 * seconds / step:.1f} %",
            f"{told_size(ring_bytes(size, row['processes']) / seconds)}", f"{1000 * between:.2f}",
        )  # fmt: skip


def remarks(told: argparse.Namespace) -> Iterator[str]:
    """What does not depend on the images."""
    yield f"A checkpoint: {told_size(4 * (3 * PARAMETERS + QUEUE * DIM))} (student, key encoder, momentum, queue)."
    plans = [Plan(0, gpus, told.batch * gpus, told.images_per_second) for gpus in told.gpus if gpus > 1]
    sizes = ", ".join(f"{told_size(plan.gathered(FEATURES))} at {plan.gpus} GPUs" for plan in plans)
    yield f"Anchors of a teacher with {FEATURES:,} features add to what is sent per step: {sizes}."


def print_table(table: Iterable[tuple[str, ...]]) -> None:
    """Prints a table in Markdown."""
    for number, row in enumerate(table):
        print("| " + " | ".join(row) + " |")
        if number == 0:
            print("|" + "---|" * len(row))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=float, nargs="+", default=[1.28e6, 14e6, 1e9])
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64, 512])
    parser.add_argument("--batch", type=int, default=256, help="images of a step on each GPU")
    parser.add_argument("--images-per-second", type=float, default=2000.0, help="of one GPU (assumed: measure yours)")
    parser.add_argument("--measured", action="store_true", help="what benchmarks/processes.py measured instead")
    told = parser.parse_args()
    print_table(measured() if told.measured else rows(told))
    if not told.measured:
        print("", *remarks(told), sep="\n")


if __name__ == "__main__":
    main()
