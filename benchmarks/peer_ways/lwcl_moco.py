"""MoCo v2 as `lwcl pretrain` trains it: its plan, its rules, its loader and its engine, without run folder and report.

Told by options: `precision`, `cache` and `view_backend`, as on the command line.
"""

from collections.abc import Callable, Iterator
from typing import Any

from lwcl import engine
from lwcl.config.plan import plan_pretrain
from lwcl.data.dataset import BrokenImage, open_images
from lwcl.engine import TrainStep
from lwcl.methods.method import Batch
from lwcl.reporting.console import Screen
from lwcl.system.cpu import keep_freed_memory
from lwcl.training.build import build_model, build_training
from lwcl.training.resolve import resolve
from lwcl.training.state import TrainingState
from peer_ways.turns import Work, serve, timed


def training_of(work: Work) -> TrainingState:
    """The run, put together."""
    chosen: dict[str, Any] = {
        **{"recipe": "moco-v2", "data": (work.folder,), "arch": work.arch, "image_size": work.size},
        **{"batch_size": work.batch, "queue_size": work.queue, "key_momentum": 0.999, "head_norm": False},
        **{"optimizer": "sgd", "lr": 0.03, "weight_decay": 1e-4, "zero_residuals": False},
        **{"device": "cpu", "threads": work.threads, "workers": work.workers},
    }
    plan = plan_pretrain(chosen | work.options)
    images = open_images(plan.options.data, "train")
    keep_freed_memory()
    screen = Screen(quiet=True)
    return build_training(build_model(resolve(plan, images), screen), images, screen, unbroken)


def unbroken(broken: BrokenImage) -> None:
    """Ends the run: all images are good."""
    raise ValueError(broken)


def fitted(
    training: TrainingState, count: int, way: Callable[[Iterator[Batch]], Iterator[Batch]] = iter
) -> Iterator[TrainStep]:
    """The next `count` steps of the run, whose batches are taken this way."""
    stop = training.done + count
    return engine.fit(
        training.plan.method,
        training.net,
        way(training.loader.batches(training.done, stop)),
        training.plan.optimization,
        training.optimizer,
        training.compute,
        steps_per_epoch=training.loader.steps_per_epoch,
        start=training.done,
        seed=training.plan.options.seed,
    )


def start(work: Work) -> Callable[[int], float]:
    """The training, from a store of decoded images or decoding them each time."""
    training = training_of(work)

    def steps(count: int) -> None:
        for step in fitted(training, count):
            training.done = step.number

    return timed(steps)


if __name__ == "__main__":
    serve(start, "torch", "torchvision", "timm")
