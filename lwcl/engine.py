"""The two loops: `fit`, with gradients, trains a method; `embed`, without, gives features. And the learning rate.

A run is a pure function of its settings and where it is: nothing here keeps a random generator or a counter of its own,
so a run that goes on at step n equals one that never stopped.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

import timm.optim
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lwcl.config.recipes import Recipe
from lwcl.errors import TrainingDivergedError
from lwcl.losses import upcast
from lwcl.methods.method import Batch, Loss, Method
from lwcl.models.encoder import Encoder
from lwcl.models.net import Net
from lwcl.rng import step_seed
from lwcl.system import distributed
from lwcl.system.compute import Compute

N = TypeVar("N", bound=nn.Module)


class TrainStep(NamedTuple):
    """What one optimiser step did; `number` counts from 1."""

    number: int
    epoch: float  # epochs done after this step
    lr: float
    parts: dict[str, float]  # the method's scalars, means over the parts of an accumulated batch
    grad_norm: float
    pairs: tuple[Tensor, Tensor] | None
    waited: float  # seconds spent waiting for data
    seconds: float  # seconds of the whole step


class NonFiniteError(TrainingDivergedError):
    """The loss or the gradient of a step is not finite; raised before the optimiser moves anything."""

    def __init__(self, step: int, what: str, value: float, index: Tensor) -> None:
        super().__init__(
            f"The {what} is {value} at step {step}: stopped before the weights were changed.",
            "Mostly the learning rate is too high, or the images hold something unusual.",
            "Try a lower --lr, a longer --warmup, or --precision fp32.",
        )
        self.step, self.index = step, index


def learning_rate(epoch: float, recipe: Recipe, epochs: int, lr: float, warmup: float) -> float:
    """The rate at a (fractional) epoch of `epochs`, counted from 0.

    `cosine` is MoCo's; a warm-up of w epochs multiplies it by (e + 1) / (w + 1) before epoch w while the cosine runs on
    (e - w) / (E - w), as light-moco's code does; `step` multiplies by `step_factor` after each of the `milestones`
    (shares of E).
    """
    epoch = math.floor(epoch) if recipe.per_epoch else epoch
    ramp = min(1.0, (epoch + 1) / (warmup + 1))
    if recipe.schedule == "cosine":
        return lr * ramp * 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup)))
    if recipe.schedule == "step":
        return lr * ramp * recipe.step_factor ** sum(epoch >= share * epochs for share in recipe.milestones)
    return lr * ramp


def build_optimizer(net: nn.Module, recipe: Recipe, lr: float, weight_decay: float) -> Optimizer:
    """timm's optimiser for what requires a gradient; weight decay on all parameters, as the papers' code has it.

    LARS adapts the rate of matrices only, and treats biases and norms as SGD without decay does (light-moco,
    `main_lincls_lars.py`); timm's own default adapts all parameters, but none without weight decay.
    """
    name = {"sgd": "momentum"}.get(recipe.optimizer, recipe.optimizer)
    more: dict[str, Any] = {"fused": True} if name in ("momentum", "adamw") else {}
    trained: list[Any] = [p for p in net.parameters() if p.requires_grad]
    if name == "lars":
        flat = {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0}
        trained = [{"params": [p for p in trained if p.ndim > 1], "always_adapt": True}, flat]
    create: Callable[..., Optimizer] = timm.optim.create_optimizer_v2  # type: ignore[attr-defined]  # not re-exported
    return create(trained, opt=name, lr=lr, weight_decay=weight_decay, momentum=recipe.momentum, **more)


def fit(
    method: Method,
    net: Net,
    batches: Iterable[Batch],
    recipe: Recipe,
    optimizer: Optimizer,
    compute: Compute,
    *,
    steps_per_epoch: int,
    start: int,
    seed: int,
) -> Iterator[TrainStep]:
    """Trains `net` on `batches` from step `start` on, yielding after each step; the caller saves, reports, stops.

    The order of a step: keys without gradient -> student -> logits against the queue without this batch -> loss ->
    backward -> optimiser -> key encoder follows -> queue takes the keys. Raises `NonFiniteError` before a bad update.
    """
    assert recipe.epochs and recipe.lr and recipe.warmup is not None, "rules settle these before a run"
    trained = [p for p in net.parameters() if p.requires_grad]
    net.train()
    done, stream = start, iter(batches)
    while True:
        begun = time.perf_counter()
        batch = next(stream, None)
        if batch is None:
            return
        waited = time.perf_counter() - begun
        epoch = done / steps_per_epoch
        lr = learning_rate(epoch, recipe, recipe.epochs, recipe.lr, recipe.warmup)
        for group in optimizer.param_groups:
            group["lr"] = lr
        torch.manual_seed(step_seed(seed, done))
        optimizer.zero_grad(set_to_none=True)
        losses = []
        for part in split_microbatches(batch, recipe.accumulate):
            with compute.context():
                loss = method.loss(net, part, epoch)
            (loss.total / recipe.accumulate).backward()  # type: ignore[no-untyped-call]
            losses.append(loss)
        distributed.average_gradients(trained)
        norm = nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
        total, length, parts = read_scalars(losses, norm)
        check_step_finite({"loss": total, "gradient": length}, done + 1, batch)
        optimizer.step()
        done += 1
        net.advance()
        seconds = time.perf_counter() - begun
        yield TrainStep(done, done / steps_per_epoch, lr, parts, length, losses[-1].pairs, waited, seconds)


def read_scalars(losses: list[Loss], norm: Tensor) -> tuple[float, float, dict[str, float]]:
    """The sum of the losses, the norm, and the means of the losses' parts, in one read: a GPU is waited for once."""
    names = list(losses[0].parts)
    scalars = [norm, *(x for loss in losses for x in (loss.total, *(loss.parts[name] for name in names)))]
    length, *values = torch.stack([upcast(x.detach()) for x in scalars]).tolist()
    total, *parts = (sum(values[place :: 1 + len(names)]) for place in range(1 + len(names)))
    return total, length, {name: part / len(losses) for name, part in zip(names, parts, strict=True)}


def check_step_finite(values: dict[str, float], step: int, batch: Batch) -> None:
    """Raises `NonFiniteError` unless every process's values are finite: all stop together, before an update."""
    for what, value in values.items():
        if distributed.any_process(not math.isfinite(value)):
            raise NonFiniteError(step, what, value, batch.index)


def split_microbatches(batch: Batch, count: int) -> Iterator[Batch]:
    """`count` equal parts of a batch, in order."""
    tensors, seen = (batch.index, batch.labels, *batch.views, *batch.taught), len(batch.views)
    for index, labels, *others in zip(*(x.tensor_split(count) for x in tensors), strict=True):
        yield Batch(tuple(others[:seen]), index, labels, tuple(others[seen:]))


@torch.inference_mode()
def embed(encoder: Encoder, batches: Iterable[Batch], compute: Compute, count: int) -> Tensor:
    """The backbone's features of `count` images, in their order: (count, width) float32 on the CPU.

    Each batch's are written where they stay: joining takes their memory twice. The encoder is in eval mode meanwhile.
    """
    training, rows, done = encoder.training, torch.empty(count, encoder.width), 0
    encoder.eval()
    for batch in batches:
        here = slice(done, done + len(batch.index))
        with compute.context():
            rows[here] = encoder.features(batch.views[0])
        done = here.stop
    encoder.train(training)
    assert done == count, "as many images as were promised"
    return rows
