"""lightly-train (AGPL) as a black box: its command, as installed, on a folder of images for a budget of time.

Its schedule needs epochs, not seconds. Two short runs on a part of the images tell the seconds of a step and those
that do not grow with the steps; a run of the nearest whole number of epochs then leaves the weights of a mark.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from peer_ways.budget import Task, told

COMMAND = Path(sys.executable).with_name("lightly-train")
BATCH = 128  # its default
FEW, MORE = 2, 8  # steps of the runs that measure


def run(task: Task, folder: Path, epochs: int, out: Path) -> float:
    """A whole run; gives its seconds. Raises `RuntimeError` with the end of what it said."""
    settings: dict[str, Any] = {
        **{"out": out, "data": folder, "model": f"timm/{task.arch}", "method": task.method, "epochs": epochs},
        **{"num_workers": task.workers, "accelerator": "cpu", "seed": task.seed, "batch_size": task.batch or BATCH},
        "transform_args.image_size": [task.size, task.size],
    }
    settings |= {"model_args.img_size": task.size} if task.arch.startswith(("vit", "deit")) else {}
    begun = time.time()
    words = [f"{name}={value}" for name, value in settings.items()]
    done = subprocess.run([COMMAND, "pretrain", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True)  # noqa: S603
    if done.returncode:
        raise RuntimeError(f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return time.time() - begun


def short_run(task: Task, scratch: Path, steps: int) -> float:
    """Seconds of a run of one epoch on images of so many steps."""
    folder = scratch / f"images{steps}"
    folder.mkdir()
    for file in sorted(Path(task.folder).iterdir())[: steps * (task.batch or BATCH)]:
        os.link(file, folder / file.name)
    return run(task, folder, 1, scratch / f"out{steps}")


def train(task: Task, mark: float, epoch_s: float, start_s: float, out: Path) -> dict[str, Any]:
    """Trains for about `mark` seconds; gives what it cost, counted from the start of the run itself."""
    epochs = max(1, round((mark - start_s) / epoch_s))
    seconds, batch = run(task, Path(task.folder), epochs, out), task.batch or BATCH
    steps = epochs * (len(list(Path(task.folder).iterdir())) // batch)
    return {"mark": mark, "seconds": seconds, "steps": steps, "batch": batch}


def main() -> None:
    """A run for each mark."""
    task = told()
    with tempfile.TemporaryDirectory(dir=task.out) as scratch:
        few, more = (short_run(task, Path(scratch), steps) for steps in (FEW, MORE))
        step_s = (more - few) / (MORE - FEW)
        epoch_s = step_s * (len(list(Path(task.folder).iterdir())) // (task.batch or BATCH))
        for mark in task.marks:
            out = Path(scratch, f"run{mark:g}")
            cost = train(task, mark, epoch_s, few - FEW * step_s, out)
            weights = torch.load(out / "exported_models" / "exported_last.pt", weights_only=True)
            torch.save(weights, Path(task.out, f"{mark:g}.pth"))
            Path(task.out, f"{mark:g}.json").write_text(json.dumps(cost))


if __name__ == "__main__":
    main()
