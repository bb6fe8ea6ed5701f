"""Linear evaluation of one encoder by a protocol: on precomputed features, or on random views of the images."""

import copy
import dataclasses
import time
from typing import NamedTuple

import torch
from torch import Tensor

from lwcl import engine
from lwcl.config.eval_options import ProbeOptions
from lwcl.config.probe_plan import PROBE_FLAGS, ProbePlan, plan_probe
from lwcl.data.cache.open import CachedImages, open_cached_images
from lwcl.data.dataset import ImageSet
from lwcl.data.label_fractions import selection_mask
from lwcl.data.loader import Loader, StudentViews
from lwcl.data.workers import worker_count
from lwcl.errors import UsageError
from lwcl.evaluation.evaluator import Evaluator
from lwcl.formatting import plural
from lwcl.kernels.selection import use_cpu_kernels
from lwcl.metrics.bootstrap import Accuracy, rank_accuracy
from lwcl.metrics.linear import LEARNING_RATES, FittedClassifier, fast_probe, logistic_probe
from lwcl.models.encoder import weights_hash
from lwcl.models.loaded import LoadedEncoder
from lwcl.models.probe import ProbeNet, check_weights_unchanged
from lwcl.reporting.console import Screen
from lwcl.reporting.throughput import StepStats
from lwcl.system import distributed
from lwcl.system.compute import Compute
from lwcl.system.device import choose_compute
from lwcl.system.limits import own_cpus

SELECTION_SHARE = 0.2  # of the training images, held out to select hyper-parameters of `fast` and `logistic`
MIN_CROP_RESOLUTION = 0.8  # stored pixels per pixel of a view, for the smallest crop
LOGITS_CHUNK_ROWS = 8192  # rows classified at a time
FeaturePair = tuple[Tensor, Tensor]  # features of the bank and of the queries


class ProbeResult(NamedTuple):
    """Accuracy of a classifier on the queries, its accuracy after each epoch, and how it was trained."""

    accuracy: Accuracy
    curve: tuple[float, ...]
    selected: str
    seconds: float
    images: int  # training images


class ProbeSetup:
    """What all encoders of a command are probed with: labelled images, decoded once, and the protocol."""

    def __init__(self, options: ProbeOptions, bank: ImageSet, queries: ImageSet, screen: Screen) -> None:
        self.options, self.bank, self.queries, self.screen = options, bank, queries, screen
        self.workers = own_cpus() if options.workers is None else options.workers
        plan = self.plan(len(bank))
        self.on_features = plan.protocol.way != "images"
        self.finetunes = plan.method.finetune
        # Features of the bank are needed only where a classifier or its statistics are computed from them.
        needed = bank if self.on_features or plan.method.form == "standard" else bank.subset([0])
        workers = worker_count(self.workers, len(bank))
        self.evaluator = Evaluator(needed, queries, screen=screen, workers=workers)
        self._cached: dict[int, CachedImages] = {}

    def plan(self, images: int) -> ProbePlan:
        """The protocol resolved for this number of training images."""
        flags = {name: getattr(self.options, name) for name in PROBE_FLAGS}
        return plan_probe(self.options.protocol, flags, images, len(self.bank.classes), self.options.data)

    def compute(self, loaded: LoadedEncoder) -> Compute:
        """Device and precision for an encoder."""
        return choose_compute(loaded.encoder, self.options.device, self.options.precision)

    def cached_images(self, size: int, crop_min: float) -> CachedImages:
        """The bank's images for views of `size` pixels and crops of at least the area share `crop_min`."""
        short_side = round(size * MIN_CROP_RESOLUTION / crop_min**0.5)
        if short_side not in self._cached:
            cached = open_cached_images(self.bank, short_side, "auto", self.screen, workers=self.workers)
            self._cached[short_side] = cached
            self.evaluator.broken.update(cached.broken)
        return self._cached[short_side]

    def features(self, loaded: LoadedEncoder) -> FeaturePair | None:
        """The encoder's features, once for all fractions of the labels; None where its weights will be finetuned."""
        return None if self.finetunes else self.evaluator.features(loaded, self.compute(loaded))


def probe_encoder(setup: ProbeSetup, loaded: LoadedEncoder, features: FeaturePair | None, train: Tensor) -> ProbeResult:
    """Trains a classifier on the images `train` (positions in the bank) and evaluates it on the queries.

    Raises `TrainingDivergedError` where the loss is not finite, or a frozen weight moved.
    """
    start = time.monotonic()
    plan, before = setup.plan(len(train)), weights_hash(loaded.encoder)
    torch.manual_seed(setup.options.seed)
    if setup.on_features and features:
        fitted = probe_features(setup, plan, loaded, features, train)
    else:
        fitted = probe_images(setup, plan, loaded, features, train)
    check_weights_unchanged(loaded.name, loaded.encoder, before)
    accuracy = rank_accuracy(fitted.logits, setup.queries.labels)
    return ProbeResult(accuracy, fitted.curve, fitted.selected, time.monotonic() - start, len(train))


def probe_features(
    setup: ProbeSetup, plan: ProbePlan, loaded: LoadedEncoder, features: FeaturePair, train: Tensor
) -> FittedClassifier:
    """The protocols `fast` and `logistic`, on precomputed features."""
    images, (bank, queries), classes = setup.bank.subset(train), features, plan.method.classes
    bank = bank if len(train) == len(bank) else bank[train]  # no copy of all rows
    held_out = selection_mask(images, SELECTION_SHARE, setup.options.seed)
    if plan.protocol.way == "logistic":
        return logistic_probe(bank, images.labels, queries, held_out, classes=classes)
    optimization = plan.optimization
    return fast_probe(
        bank,
        images.labels,
        queries,
        setup.queries.labels,
        held_out,
        [optimization.lr] if optimization.lr else LEARNING_RATES,
        classes=classes,
        epochs=int(optimization.epochs),
        batch_size=optimization.batch_size,
        seed=setup.options.seed,
        device=setup.compute(loaded).device,
    )


def probe_images(
    setup: ProbeSetup, plan: ProbePlan, loaded: LoadedEncoder, features: FeaturePair | None, train: Tensor
) -> FittedClassifier:
    """A published protocol: trained on random views, evaluated on the queries after each epoch."""
    optimization, compute = plan.optimization, setup.compute(loaded)
    loader = build_probe_loader(setup, plan, loaded, compute, train)
    net = build_probe_net(plan, loaded, compute, features, train)
    optimizer = engine.build_optimizer(net, optimization, optimization.lr, optimization.weight_decay)
    per_epoch, seed = loader.steps_per_epoch, setup.options.seed
    steps, curve = optimization.steps(per_epoch), []
    batches = loader.batches(0, steps)
    fitted = engine.fit(
        plan.method, net, batches, optimization, optimizer, compute, steps_per_epoch=per_epoch, start=0, seed=seed
    )
    title = f"{setup.options.protocol} {loaded.name}"
    shape = {"start": 0, "steps": steps, "steps_per_epoch": per_epoch, "batch_size": loader.batch_size}
    with setup.screen.training(title, **shape, metrics=()) as display:
        for step in fitted:
            display.step(StepStats(step.number, step.epoch, step.lr, step.metrics["loss"], step.waited, step.seconds))
            if step.number % per_epoch == 0:
                logits = query_logits(setup, net, loaded, compute, features)
                curve.append(float((logits.argmax(1) == setup.queries.labels[: len(logits)]).float().mean()))
    selected = f"{plan.method.form} features, lr {plan.optimization.lr:g}, batch size {plan.optimization.batch_size}"
    return FittedClassifier(logits, tuple(curve), selected, 0)


def build_probe_net(
    plan: ProbePlan, loaded: LoadedEncoder, compute: Compute, features: FeaturePair | None, train: Tensor
) -> ProbeNet:
    """The encoder, or a copy of it to finetune, with a new classifier."""
    net = plan.method.build(copy.deepcopy(loaded.encoder) if plan.method.finetune else loaded.encoder)
    assert isinstance(net, ProbeNet)
    compute.place(net)
    if plan.method.finetune and compute.device.type == "cpu":
        use_cpu_kernels(net, net.student)
    if plan.method.form == "standard" and features is not None and distributed.rank() == 0:
        net.classifier.fit_statistics(features[0][train])
    return net


def build_probe_loader(
    setup: ProbeSetup, plan: ProbePlan, loaded: LoadedEncoder, compute: Compute, train: Tensor
) -> Loader:
    """Labelled training batches of the images `train`. Raises `UsageError` where they are fewer than a batch."""
    cached, size = setup.cached_images(loaded.input_spec.size, plan.augmentation.crop_min), plan.optimization.batch_size
    images, store = cached.images.subset(train), cached.store
    if len(images) < size:
        raise UsageError(
            f"{plural(len(images), 'image')} cannot fill a batch of {size:,}.",
            remedy=f"Give at most --batch-size {len(images)}.",
        )
    if size % distributed.world_size():
        raise UsageError(
            f"A batch of {size} cannot be shared out evenly to {distributed.world_size()} processes.",
            remedy="Give a --batch-size that can.",
        )
    if store:
        store = store.rows(train)
    return Loader(
        images=images,
        store=store,
        short_side=cached.short_side,
        student=StudentViews(plan.method.view_specs(), plan.augmentation, loaded.input_spec),
        batch_size=size,
        seed=setup.options.seed,
        compute=compute,
        workers=setup.workers,
        on_broken=setup.evaluator.broken.add,
    )


@torch.inference_mode()
def query_logits(
    setup: ProbeSetup, net: ProbeNet, loaded: LoadedEncoder, compute: Compute, features: FeaturePair | None
) -> Tensor:
    """Logits (N, C) of the queries, on the CPU; their features are recomputed where the encoder is finetuned."""
    current = dataclasses.replace(loaded, encoder=net.student)
    queries = setup.evaluator.features(current, compute)[1] if features is None else features[1]
    return torch.cat([net.logits(part.to(compute.device)).cpu() for part in torch.split(queries, LOGITS_CHUNK_ROWS)])
