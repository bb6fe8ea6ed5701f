"""What a run of a given size needs on the disk, in memory and over the network, and its hours; docs/scale.md's table.

    python benchmarks/plan.py                      # the table
    python benchmarks/plan.py --images-per-second 220 --gpus 1 2   # with a speed that you measured

The formulas are below; what is measured and what is assumed stands beside each number.
"""

import argparse
import math
from collections.abc import Iterator
from typing import NamedTuple

INDEX_BYTES = 35.0  # an image, in the index on the disk: measured on 1,000,000 images in 100 shards
JPEG_BYTES = 25_000.0  # an image shrunk to a short side of 392 px (224 px views), JPEG quality 90: assumed
PIXEL_BYTES = 3 * 392 * 523.0  # the same as pixels, 4:3
NODE = 8  # GPUs
NVLINK, INFINIBAND = 450e9, 50e9  # bytes/s and GPU, one direction: NVIDIA's H200 data sheet; NDR 400 Gb/s a GPU
PARAMETERS = 5.5e6  # MobileNetV3-Large with MoCo v2's head: 4 bytes each in a gradient
DIM, VIEWS = 128, 2


class Plan(NamedTuple):
    """A number of images on a number of GPUs."""

    images: float
    gpus: int
    batch: int  # images of a step, over all GPUs
    images_per_second: float  # of one GPU

    @property
    def network_bytes(self) -> float:
        """Bytes that a GPU sends in a step: a ring's all-reduce of the gradients, and its keys to all others."""
        n = self.gpus
        keys = VIEWS * self.batch / n * DIM * 4
        return 2 * (n - 1) / n * 4 * PARAMETERS + (n - 1) * keys

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


def latency(gpus: int) -> float:
    """Seconds of the messages' starts: 5 us a hop of a tree within a node, 20 us between nodes (assumed)."""
    within, between = math.log2(max(1, min(gpus, NODE))), math.log2(max(1, gpus / NODE))
    return 2 * (5e-6 * within + 20e-6 * between)


def size(count: float) -> str:
    """Bytes for people."""
    unit = next((unit for unit in (12, 9, 6, 3) if count >= 10**unit), 0)
    return f"{count / 10**unit:.3g} {dict(zip((12, 9, 6, 3, 0), ('TB', 'GB', 'MB', 'kB', 'B'), strict=True))[unit]}"


def rows(told: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    """The table."""
    yield ("images", "GPUs", "batch", "index", "shrunk JPEGs", "pixels", "memory a node", "sent a step",
           "computing, ms", "network, ms", "reads", "epoch, h")  # fmt: skip
    for images in told.images:
        for gpus in told.gpus:
            plan = Plan(images, gpus, told.batch * gpus, told.images_per_second)
            computing, network = plan.step_seconds
            memory = images * (16 * min(gpus, NODE) + INDEX_BYTES)
            yield (
                f"{images:,.0f}", f"{gpus}", f"{plan.batch:,}", size(images * INDEX_BYTES), size(images * JPEG_BYTES),
                size(images * PIXEL_BYTES), size(memory), size(plan.network_bytes) if gpus > 1 else "-",
                f"{1000 * computing:.0f}", f"{1000 * network:.2f}" if gpus > 1 else "-",
                f"{size(plan.read_bytes)}/s", f"{plan.epoch_hours:.3g}",
            )  # fmt: skip


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=float, nargs="+", default=[1.28e6, 14e6, 1e9])
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64, 512])
    parser.add_argument("--batch", type=int, default=256, help="images of a step on each GPU")
    parser.add_argument("--images-per-second", type=float, default=2000.0, help="of one GPU (assumed: measure yours)")
    told = parser.parse_args()
    for number, row in enumerate(rows(told)):
        print("| " + " | ".join(row) + " |")
        if number == 0:
            print("|" + "---|" * len(row))


if __name__ == "__main__":
    main()
