"""Whole runs small enough for tests: made images, the words of a command, processes that run it, what a run leaves."""

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy
import pytest
from crash import ended, started
from PIL import Image

import lwcl.commands.train  # noqa: F401  # here, so that no child has to wait for torch
from lwcl.checkpoints import training_state
from lwcl.cli import main
from lwcl.config.recipes import RECIPES
from lwcl.methods.method import methods
from lwcl.runs.folder import RunFolder
from lwcl.settings import field_names

STEPS, PER_EPOCH, SAVE_EVERY = 12, 6, 3
SMALL = (
    "--arch test_efficientnet --image-size 32 --epochs 2 --batch-size 8 --hidden 16 --dim 8 --queue-size 20 --lr 0.01 "
    f"--threads 1 --workers 0 --device cpu --log-every 1 --save-every {SAVE_EVERY} --quiet"
).split()
METHODS = {"light-moco": ["--neighbours", "3"], "moco": ["--recipe", "ssl-small"]}
#: What the way to the end of a run must not change.
LASTING = ("encoder.safetensors", "export/model.safetensors", "metrics.jsonl")


def picture(number: int, side: int = 24) -> Image.Image:
    """A small image of its own: nine coloured patches, smoothly joined."""
    pixels = numpy.random.default_rng(number).integers(0, 256, (3, 3, 3), dtype=numpy.uint8)
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)


def made_images(folder: Path, count: int = 48, classes: tuple[str, ...] = (), suffix: str = ".png") -> Path:
    """A folder of made images, in class folders if there are classes."""
    for number in range(count):
        place = folder / classes[number % len(classes)] if classes else folder
        place.mkdir(parents=True, exist_ok=True)
        picture(number).save(place / f"{number:03}{suffix}")
    return folder


def pretrain(data: Path | str, out: Path, *more: str) -> list[str]:
    """The words of a small run, by the recipe light unless another recipe or method is named; `more` words win."""
    recipe = () if {"--recipe", "--method"} & set(more) else ("--recipe", "light")
    small = fitting(more[more.index("--recipe") + 1]) if "--recipe" in more else SMALL
    return ["pretrain", "--data", str(data), "--out", str(out), *small, *recipe, *more]


def fitting(recipe: str) -> list[str]:
    """The words of a small run without those of settings that the recipe's method lacks."""
    own = field_names(methods()[RECIPES[recipe].method])
    lost = {f"--{name.replace('_', '-')}" for name in ("hidden", "dim", "queue_size") if name not in own}
    return [word for before, word in zip(["", *SMALL], SMALL, strict=False) if not {before, word} & lost]


def ran(words: list[str]) -> int:
    """The exit code of a command, run in this process as if it had been typed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["lwcl", *words])
        return main.main(words)


def begun(words: list[str], cache: Path, fault: str = "", before: Callable[[], object] = bool) -> int:
    """The process id of a forked child that runs a command after `before`, with a cache folder of its own."""

    def work() -> None:
        os.environ["LWCL_CACHE"] = str(cache)
        before()
        os._exit(ran(words))

    return started(work, fault)


def child(words: list[str], cache: Path, fault: str = "", before: Callable[[], object] = bool) -> int:
    """The exit code of a forked child that runs a command."""
    return ended(begun(words, cache, fault, before))


def at_step(number: int, act: Callable[[], object]) -> Callable[[], None]:
    """Something to do `before` a child's run: `act` in the middle of step `number`, when its metrics are written."""
    append = RunFolder.append_metrics

    def watched(folder: RunFolder, record: dict[str, object]) -> None:
        append(folder, record)
        if record["step"] == number:
            act()

    def patch() -> None:
        RunFolder.append_metrics = watched  # type: ignore[assignment,method-assign]

    return patch


def left_by(out: Path, steps: int = STEPS) -> dict[str, bytes]:
    """The content of what a run leaves that must not depend on interruptions: encoder, metrics, whole final state."""
    newest = training_state.list_checkpoints(out / "checkpoints")[0]
    assert newest.name == f"step-{steps:06}"
    state = {f"{newest.name}/{file.name}": file.read_bytes() for file in sorted(newest.iterdir())}
    return {name: (out / name).read_bytes() for name in LASTING} | state


def copied(run: Path, to: Path) -> Path:
    """A copy of a run's folder."""
    return shutil.copytree(run, to)


@contextlib.contextmanager
def cache_at(folder: Path) -> Iterator[None]:
    """A cache folder for fixtures that serve a whole file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LWCL_CACHE", str(folder))
        yield
