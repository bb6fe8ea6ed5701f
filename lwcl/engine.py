"""The two loops: `fit`, with gradients, trains a method; `extract_features`, without, computes features.

A step is a pure function of the settings and the position in the run: no random generator or counter lives here, so a
run resumed at step n equals an unbroken one.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import timm.optim
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lwcl.config.recipes import Optimization
from lwcl.errors import TrainingDivergedError
from lwcl.losses import upcast
from lwcl.methods.method import Batch, Loss, Method, Progress
from lwcl.models.encoder import Encoder
from lwcl.models.net import Net
from lwcl.rng import step_seed
from lwcl.system import distributed
from lwcl.system.compute import Compute


class TrainStep(NamedTuple):
    """The result of one optimiser step; `number` counts from 1."""

    number: int
    epoch: float  # epochs done after this step
    lr: float
    metrics: dict[str, float]  # the method's scalars, means over micro-batches
    grad_norm: float
    pairs: tuple[Tensor, Tensor] | None  # embeddings of two views, for the embedding health
    waited: float  # seconds spent waiting for data
    seconds: float  # seconds of the whole step


class NonFiniteError(TrainingDivergedError):
    """The loss or the gradient of a step is not finite; raised before the weights are updated."""

    def __init__(self, step: int, what: str, value: float, index: Tensor) -> None:
        super().__init__(
            f"The {what} is {value} at step {step}; the weights were not updated.",
            "Usually the learning rate is too high, or a batch contains unusual images.",
            "Try a lower --lr, a longer --warmup, or --precision fp32.",
        )
        self.step, self.index = step, index


def learning_rate(epoch: float, recipe: Optimization, epochs: int, lr: float, warmup: float) -> float:
    """The learning rate at a (fractional) epoch of `epochs`, counted from 0.

    `cosine` is MoCo's, as a function of (e - w) / (E - w); a warm-up of w epochs multiplies by (e + 1) / (w + 1) before
    epoch w, as light-moco's code does; `step` multiplies by `step_factor` after each of the `milestones`
    (fractions of E).
    """
    epoch = math.floor(epoch) if recipe.per_epoch else epoch
    ramp = min(1.0, (epoch + 1) / (warmup + 1))
    if recipe.schedule == "cosine":
        return lr * ramp * 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup)))
    if recipe.schedule == "step":
        return lr * ramp * recipe.step_factor ** sum(epoch >= share * epochs for share in recipe.milestones)
    return lr * ramp


def build_optimizer(net: nn.Module, recipe: Optimization, lr: float, weight_decay: float) -> Optimizer:
    """timm's optimiser for all parameters with a gradient; weight decay on all of them, as in the papers' code.

    LARS adapts the learning rate of matrices only; biases and norms are optimised as by SGD without weight decay
    (light-moco, `main_lincls_lars.py`). timm's default adapts all parameters that have weight decay.
    """
    name = {"sgd": "momentum"}.get(recipe.optimizer, recipe.optimizer)
    extra: dict[str, Any] = {"fused": True} if name in ("momentum", "adamw") else {}
    trained: list[Any] = [p for p in net.parameters() if p.requires_grad]
    if name == "lars":
        not_adapted = {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0}
        trained = [{"params": [p for p in trained if p.ndim > 1], "always_adapt": True}, not_adapted]
    create: Callable[..., Optimizer] = timm.optim.create_optimizer_v2  # type: ignore[attr-defined]  # not re-exported
    return create(trained, opt=name, lr=lr, weight_decay=weight_decay, momentum=recipe.momentum, **extra)


def fit(
    method: Method,
    net: Net,
    batches: Iterable[Batch],
    recipe: Optimization,
    optimizer: Optimizer,
    compute: Compute,
    *,
    steps_per_epoch: int,
    start: int,
    seed: int,
) -> Iterator[TrainStep]:
    """Trains `net` on `batches` from step `start` on, yielding after each step; the caller saves, reports, stops.

    Raises `NonFiniteError`, before the weights are updated, if the loss or the gradient is not finite.
    """
    trained = [p for p in net.parameters() if p.requires_grad]
    net.train()
    done, stream = start, iter(batches)
    while True:
        # 1. The next batch. Time spent waiting here means that the loader is too slow.
        started = time.perf_counter()
        batch = next(stream, None)
        if batch is None:
            return
        waited = time.perf_counter() - started
        # 2. Learning rate and dropout depend on the position in the run, so resuming needs no state of either.
        epoch = done / steps_per_epoch
        lr = learning_rate(epoch, recipe, recipe.epochs, recipe.lr, recipe.warmup)
        for group in optimizer.param_groups:
            group["lr"] = lr
        torch.manual_seed(step_seed(seed, done))
        # 3. Loss and gradient. Memories still hold earlier batches only.
        optimizer.zero_grad(set_to_none=True)
        losses = compute_gradients(method, net, batch, epoch, recipe.accumulate, compute)
        distributed.average_gradients(trained)
        norm = nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
        # 4. Check before the update, so that the weights stay usable.
        total, grad_norm, metrics = read_scalars(losses, norm)
        check_step_finite({"loss": total, "gradient": grad_norm}, done + 1, batch)
        optimizer.step()
        done += 1
        # 5. What has no gradient: momentum encoders are updated, queues take this batch's keys.
        method.after_step(net, Progress(done, done / steps_per_epoch, recipe.epochs))
        seconds = time.perf_counter() - started
        yield TrainStep(done, done / steps_per_epoch, lr, metrics, grad_norm, losses[-1].pairs, waited, seconds)


def compute_gradients(
    method: Method, net: Net, batch: Batch, epoch: float, accumulate: int, compute: Compute
) -> list[Loss]:
    """Adds the gradient of the mean loss over `accumulate` micro-batches; returns their losses."""
    losses = []
    for microbatch in split_microbatches(batch, accumulate):
        with compute.context():
            loss = method.loss(net, microbatch, epoch)
        (loss.total / accumulate).backward()  # type: ignore[no-untyped-call]
        losses.append(loss)
    return losses


def read_scalars(losses: list[Loss], norm: Tensor) -> tuple[float, float, dict[str, float]]:
    """The sum of the losses, the gradient's norm, and the means of the metrics, with a single GPU synchronisation."""
    names = list(losses[0].metrics)
    scalars = [norm, *(x for loss in losses for x in (loss.total, *(loss.metrics[name] for name in names)))]
    grad_norm, *values = torch.stack([upcast(x.detach()) for x in scalars]).tolist()
    total, *sums = (sum(values[column :: 1 + len(names)]) for column in range(1 + len(names)))
    return total, grad_norm, {name: value / len(losses) for name, value in zip(names, sums, strict=True)}


def check_step_finite(values: dict[str, float], step: int, batch: Batch) -> None:
    """Raises `NonFiniteError` unless the values of every process are finite: all processes stop together."""
    for what, value in values.items():
        if distributed.any_process(not math.isfinite(value)):
            raise NonFiniteError(step, what, value, batch.index)


def split_microbatches(batch: Batch, count: int) -> Iterator[Batch]:
    """`count` equal parts of a batch, in order."""
    tensors, views = (batch.index, batch.labels, *batch.views, *batch.teacher_output), len(batch.views)
    for index, labels, *others in zip(*(x.tensor_split(count) for x in tensors), strict=True):
        yield Batch(tuple(others[:views]), index, labels, tuple(others[views:]))


@torch.inference_mode()
def extract_features(encoder: Encoder, batches: Iterable[Batch], compute: Compute, count: int) -> Tensor:
    """The backbone's features of `count` images, in order: (count, width) float32 on the CPU, in eval mode.

    They are written into one tensor batch by batch: concatenating would need twice the memory.
    """
    training, features, done = encoder.training, torch.empty(count, encoder.width), 0
    encoder.eval()
    for batch in batches:
        end = done + len(batch.index)
        with compute.context():
            features[done:end] = encoder.features(batch.views[0])
        done = end
    encoder.train(training)
    assert done == count, "the batches have `count` images"
    return features
