"""lightly-train (AGPL) as a black box: its command, run on folders of images, with SimCLR, its one contrastive method.

SimCLR has no key encoder and no queue, and gradients through both views: a step is more work than MoCo's, about 4/3.
Its command is run twice, on images of so many steps and of `LEAST` steps: the difference of the times is the steps',
and what the command does before and after them cancels out.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path

from peer_ways.turns import Work, serve

COMMAND = Path(sys.executable).with_name("lightly-train")
LEAST = 2


def run(work: Work, images: Path, out: str) -> None:
    """One epoch on a folder of images."""
    settings = {
        **{"out": out, "data": images, "model": f"timm/{work.arch}", "method": "simclr", "epochs": 1},
        **{"batch_size": work.batch, "num_workers": work.workers, "accelerator": "cpu"},
        "transform_args.image_size": [work.size, work.size],
    }
    settings |= {"model_args.img_size": work.size} if work.arch.startswith(("vit", "deit")) else {}
    words = [f"{name}={value}" for name, value in settings.items()]
    done = subprocess.run([COMMAND, "pretrain", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True)  # noqa: S603
    if done.returncode:
        raise RuntimeError(f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}")


def seconds(work: Work, count: int) -> float:
    """Seconds of the whole command on images of `count` steps."""
    with tempfile.TemporaryDirectory(dir=Path(work.folder).parent) as scratch:
        images = Path(scratch, "images")
        images.mkdir()
        for number, file in enumerate(islice(cycle(sorted(Path(work.folder).iterdir())), count * work.batch)):
            os.link(file, images / f"{number:06d}.jpg")
        begun = time.perf_counter()
        run(work, images, f"{scratch}/out")
        return time.perf_counter() - begun


def start(work: Work) -> Callable[[int], float]:
    """Gives the seconds of so many steps, each time by two runs of the command."""
    return lambda count: seconds(work, LEAST + count) - seconds(work, LEAST)


if __name__ == "__main__":
    serve(start, "lightly-train", "torch", "torchvision", "timm")
