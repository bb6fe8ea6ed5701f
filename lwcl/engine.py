"""The two loops: `fit`, with gradients, trains a method; `extract_features`, without, computes features.

The randomness and learning rate of a step depend only on the settings and its position in the run: no random generator
or counter lives here, so a run resumed at step n equals an unbroken one.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import timm.optim
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from lwcl.config.recipes import Optimization
from lwcl.errors import TrainingDivergedError
from lwcl.losses import upcast
from lwcl.methods.method import Batch, Loss, Method, Progress
from lwcl.models.backbone import batch_norms
from lwcl.models.encoder import Encoder
from lwcl.models.net import Net
from lwcl.rng import step_seed
from lwcl.system import distributed
from lwcl.system.compute import Compute


class TrainStep(NamedTuple):
    """The result of one optimizer step; `number` counts from 1."""

    number: int
    epoch: float  # epochs done after this step
    lr: float
    metrics: dict[str, float]  # the method's scalars, means over micro-batches
    grad_norm: float
    pairs: tuple[Tensor, Tensor] | None  # embeddings of two views, for the embedding health
    waited: float  # seconds spent waiting for data
    seconds: float  # seconds of the whole step
    messages: tuple[float, ...] = ()  # the largest that a process had, see `fit`


class NonFiniteError(TrainingDivergedError):
    """The loss or the gradient of a step is not finite; raised before the weights are updated."""

    def __init__(self, step: int, what: str, value: float, index: Tensor, where: str = "") -> None:
        super().__init__(
            f"The {what} is {value} at step {step}{where}; the weights were not updated.",
            "Usually the learning rate is too high, or a batch contains unusual images.",
            "Try a lower --lr, a longer --warmup, or --precision fp32.",
        )
        self.step, self.index = step, index


def learning_rate(epoch: float, optimization: Optimization, epochs: float, lr: float, warmup: float) -> float:
    """The learning rate at a (fractional) epoch of `epochs`, counted from 0.

    `cosine` is MoCo's: lr (1 + cos(pi (e - w) / (E - w))) / 2 at epoch e of E; a warm-up of w epochs multiplies by (e +
    1) / (w + 1) before epoch w, as light-moco's code does; `step` multiplies by `step_factor` after each of the
    `milestones` (fractions of E).
    """
    epoch = math.floor(epoch) if optimization.per_epoch else epoch
    ramp = min(1.0, (epoch + 1) / (warmup + 1))
    if optimization.schedule == "cosine":
        return lr * ramp * 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup)))
    if optimization.schedule == "step":
        return lr * ramp * optimization.step_factor ** sum(epoch >= share * epochs for share in optimization.milestones)
    return lr * ramp


def build_optimizer(net: nn.Module, optimization: Optimization, lr: float, weight_decay: float) -> Optimizer:
    """timm's optimizer for all parameters with a gradient; weight decay on all of them, as in the papers' code.

    LARS adapts the learning rate of matrices only; biases and norms are optimized as by SGD without weight decay
    (light-moco, `main_lincls_lars.py`). timm's default adapts all parameters that have weight decay.
    """
    name = {"sgd": "momentum"}.get(optimization.optimizer, optimization.optimizer)
    extra: dict[str, Any] = {"fused": True} if name in ("momentum", "adamw") else {}
    trained: list[Any] = [p for p in net.parameters() if p.requires_grad]
    if name == "lars":
        not_adapted = {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0}
        trained = [{"params": [p for p in trained if p.ndim > 1], "always_adapt": True}, not_adapted]
    create: Callable[..., Optimizer] = timm.optim.create_optimizer_v2  # type: ignore[attr-defined]  # not re-exported
    return create(trained, opt=name, lr=lr, weight_decay=weight_decay, momentum=optimization.momentum, **extra)


def fit(
    method: Method,
    net: Net,
    batches: Iterable[Batch],
    optimization: Optimization,
    optimizer: Optimizer,
    compute: Compute,
    *,
    steps_per_epoch: int,
    start: int,
    seed: int,
    messages: Callable[[], Sequence[float]] = tuple,
) -> Iterator[TrainStep]:
    """Trains `net` on `batches` from step `start` on, yielding after each step; the caller saves, reports, stops.

    `messages` returns numbers of this process (stop signal, seconds since the last save); a step has their maximum over
    all processes. Raises `NonFiniteError`, before the weights are updated, if the loss or the gradient is not finite.
    """
    trained = [p for p in net.parameters() if p.requires_grad]
    net.train()
    statistics, loss_module = running_statistics(net), None
    done, stream = start, iter(batches)
    while True:
        # 1. The next batch. Time spent waiting here means that the loader is too slow.
        started = time.perf_counter()
        batch = next(stream, None)
        if batch is None:
            return
        waited = time.perf_counter() - started
        # 2. Learning rate and, below, dropout depend on the position in the run: resuming needs no state of either.
        epoch = done / steps_per_epoch
        lr = learning_rate(epoch, optimization, optimization.epochs, optimization.lr, optimization.warmup)
        for group in optimizer.param_groups:
            group["lr"] = lr
        # 3. Loss and gradient. Memories still hold earlier batches only.
        optimizer.zero_grad(set_to_none=True)
        loss_module = loss_module or replicate(LossModule(method, net), batch, epoch, optimization.accumulate)
        torch.manual_seed(step_seed(seed, done, distributed.rank()))
        losses = compute_gradients(loss_module, batch, epoch, optimization.accumulate, compute)
        norm = nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
        # 4. Check before the update, so that the weights stay usable.
        scalars = read_scalars(losses, norm, messages())
        check_step_finite(scalars, done + 1, batch)
        optimizer.step()
        distributed.average_in_place(statistics)
        done += 1
        # 5. What has no gradient: momentum encoders are updated, queues take this batch's keys.
        method.after_step(net, Progress(done, done / steps_per_epoch, optimization.epochs))
        rest = losses[-1].pairs, waited, time.perf_counter() - started, scalars.messages
        yield TrainStep(done, done / steps_per_epoch, lr, scalars.metrics, scalars.grad_norm, *rest)


class LossModule(nn.Module):
    """A method's loss as a module, whose gradient can be averaged over processes."""

    def __init__(self, method: Method, net: Net) -> None:
        super().__init__()
        self.method, self.net = method, net

    def forward(self, batch: Batch, epoch: float) -> Loss:
        """The loss of a batch at a (fractional) epoch."""
        return self.method.loss(self.net, batch, epoch)


def replicate(module: LossModule, batch: Batch, epoch: float, accumulate: int) -> nn.Module:
    """The module, or with several processes, one that averages its gradient."""
    return distributed.replicated(module, lambda copy: copy(next(split_microbatches(batch, accumulate)), epoch).total)


def running_statistics(net: nn.Module) -> list[Tensor]:
    """The running means and variances of batch norm that change in training, of which each process has its own."""
    norms = [norm for norm in batch_norms(net) if norm.training and not isinstance(norm, nn.SyncBatchNorm)]
    found = (statistic for norm in norms for statistic in (norm.running_mean, norm.running_var))
    return [statistic for statistic in found if statistic is not None]


def compute_gradients(
    loss_module: nn.Module, batch: Batch, epoch: float, accumulate: int, compute: Compute
) -> list[Loss]:
    """Adds the gradient of the mean loss over `accumulate` micro-batches; returns their losses.

    With several processes, gradients are averaged in the last micro-batch.
    """
    losses: list[Loss] = []
    for number, microbatch in enumerate(split_microbatches(batch, accumulate), 1):
        skip_sync = isinstance(loss_module, DistributedDataParallel) and number < accumulate
        with loss_module.no_sync() if skip_sync else contextlib.nullcontext():  # type: ignore[operator]
            with compute.context():
                loss = loss_module(microbatch, epoch)
            (loss.total / accumulate).backward()
        losses.append(loss)
    return losses


class StepScalars(NamedTuple):
    """What all processes know of a step: means over the processes, and the loss of each."""

    totals: tuple[float, ...]  # the summed losses of each process
    grad_norm: float
    metrics: dict[str, float]
    messages: tuple[float, ...]  # the largest of all processes


def read_scalars(losses: list[Loss], norm: Tensor, messages: Sequence[float]) -> StepScalars:
    """The losses, the gradient's norm, the metrics and the messages, with a single GPU synchronisation."""
    names = list(losses[0].metrics)
    scalars = [norm, *(x for loss in losses for x in (loss.total, *(loss.metrics[name] for name in names)))]
    row = torch.stack([upcast(x.detach()) for x in scalars])
    if distributed.is_distributed():
        row = torch.cat([row, row.new_tensor(messages)])
    table = distributed.all_gather_rows(row[None]).tolist()
    told = [values[len(scalars) :] for values in table] if len(table) > 1 else [messages]
    # Sums over micro-batches, for each process: the total loss, then each metric.
    sums = [[sum(values[c : len(scalars) : 1 + len(names)]) for values in table] for c in range(1, 2 + len(names))]
    means = {name: sum(each) / len(table) / len(losses) for name, each in zip(names, sums[1:], strict=True)}
    return StepScalars(tuple(sums[0]), table[0][0], means, tuple(map(max, zip(*told, strict=True))))


def check_step_finite(scalars: StepScalars, step: int, batch: Batch) -> None:
    """Raises `NonFiniteError` in all processes unless the values of every process are finite."""
    broken = [process for process, total in enumerate(scalars.totals) if not math.isfinite(total)]
    if not broken and math.isfinite(scalars.grad_norm):
        return
    several = len(scalars.totals) > 1
    what, value = ("loss", scalars.totals[broken[0]]) if broken else ("gradient", scalars.grad_norm)
    images = distributed.all_gather_rows(batch.index)
    images = images.tensor_split(len(scalars.totals))[broken[0]] if broken else images
    raise NonFiniteError(step, what, value, images, f" in process {broken[0]}" if several and broken else "")


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
