"""A probe of one encoder by a protocol: on features that are computed once, or image by image."""

import copy
import time
from typing import NamedTuple

import torch
from torch import Tensor

from lwcl import engine
from lwcl.config.eval_options import ProbeOptions
from lwcl.config.probe_plan import PROBE_FLAGS, ProbePlan, plan_probe
from lwcl.data.cache.open import MIN_IMAGES_TO_START_WORKERS, CachedImages, open_cached_images
from lwcl.data.cache.pixels import PixelStore
from lwcl.data.dataset import ImageSet
from lwcl.data.label_fractions import selection_mask
from lwcl.data.loader import Loader, StudentViews
from lwcl.errors import UsageError
from lwcl.evaluation.judge import Evaluator
from lwcl.kernels.depthwise import use_fast_depthwise
from lwcl.kernels.pointwise import use_fast_pointwise
from lwcl.metrics.knn import KnnScore, rank_classes
from lwcl.metrics.linear import LEARNING_RATES, FittedClassifier, fast_probe, logistic_probe
from lwcl.models.encoder import weights_hash
from lwcl.models.loaded import LoadedEncoder
from lwcl.models.probe import ProbeNet, check_weights_unchanged
from lwcl.reporting.console import Screen
from lwcl.reporting.throughput import StepStats
from lwcl.system.compute import Compute
from lwcl.system.cpu import usable_cpus
from lwcl.system.device import choose_compute

SELECTION_SHARE = 0.2  # of the training images: what `fast` and `logistic` choose on
MIN_CROP_RESOLUTION = 0.8  # of a stored image, for a pixel of a view that shows the smallest crop
LOGITS_CHUNK_ROWS = 8192  # rows that are classified at a time
FeaturePair = tuple[Tensor, Tensor]  # features of the bank and of the queries


class ProbeResult(NamedTuple):
    """How an encoder did: which queries are right, the share of them after each epoch, what was chosen, seconds."""

    score: KnnScore
    curve: tuple[float, ...]
    chosen: str
    seconds: float
    images: int  # that it was trained on


class ProbeSetup:
    """What all encoders of a command are probed with: labelled images, decoded once, and the protocol."""

    def __init__(self, options: ProbeOptions, bank: ImageSet, queries: ImageSet, screen: Screen) -> None:
        self.options, self.bank, self.queries, self.screen = options, bank, queries, screen
        self.workers = usable_cpus() if options.workers is None else options.workers
        several = self.workers if len(bank) > MIN_IMAGES_TO_START_WORKERS else 0
        plan = self.plan(len(bank))
        self.by_features = plan.protocol.way != "images"
        self.finetunes = plan.method.finetune
        # Of the bank, features are only asked for where a classifier or its statistics are made of them.
        asked = bank if self.by_features or plan.method.form == "standard" else bank.subset([0])
        self.judge = Evaluator(asked, queries, batch_size=256, workers=several, screen=screen)
        self._held: dict[int, CachedImages] = {}

    def plan(self, images: int) -> ProbePlan:
        """The settled protocol for so many images to train on."""
        chosen = {name: getattr(self.options, name) for name in PROBE_FLAGS}
        return plan_probe(self.options.protocol, chosen, images, len(self.bank.classes), self.options.data)

    def held(self, size: int, crop_min: float) -> CachedImages:
        """The bank's images for views of `size` pixels and such crops."""
        short_side = round(size * MIN_CROP_RESOLUTION / crop_min**0.5)
        if short_side not in self._held:
            self._held[short_side] = open_cached_images(
                self.bank, short_side, "auto", self.screen, workers=self.workers
            )
            self.judge.broken.update(self._held[short_side].broken)
        return self._held[short_side]

    def features(self, loaded: LoadedEncoder) -> FeaturePair | None:
        """The encoder's features, once for all shares of the labels; None where its weights are going to change."""
        return (
            None
            if self.finetunes
            else self.judge.features(
                loaded, choose_compute(loaded.encoder, self.options.device, self.options.precision)
            )
        )


def probe_encoder(bench: ProbeSetup, loaded: LoadedEncoder, rows: FeaturePair | None, kept: Tensor) -> ProbeResult:
    """A classifier trained on the images `kept` (positions in the bank), and what it says of the queries.

    Raises `TrainingDivergedError` where the loss is not finite, or a frozen weight moved.
    """
    begun = time.monotonic()
    plan, before = bench.plan(len(kept)), weights_hash(loaded.encoder)
    torch.manual_seed(bench.options.seed)
    found = (
        probe_features(bench, plan, loaded, rows, kept)
        if bench.by_features
        else probe_images(bench, plan, loaded, rows, kept)
    )
    check_weights_unchanged(loaded.name, loaded.encoder, before)
    score = rank_classes(found.logits, bench.queries.labels, 0)
    return ProbeResult(score, found.curve, found.chosen, time.monotonic() - begun, len(kept))


def probe_features(
    bench: ProbeSetup, plan: ProbePlan, loaded: LoadedEncoder, rows: FeaturePair | None, kept: Tensor
) -> FittedClassifier:
    """`fast` or `logistic`."""
    assert rows is not None
    images, (bank, queries), classes = bench.bank.subset(kept), rows, plan.method.classes
    bank = bank if len(kept) == len(bank) else bank[kept]  # all of them need no copy
    out = selection_mask(images, SELECTION_SHARE, bench.options.seed)
    if plan.protocol.way == "logistic":
        return logistic_probe(bank, images.labels, queries, out, classes=classes)
    recipe = plan.recipe
    assert recipe.epochs and recipe.batch_size
    return fast_probe(
        bank,
        images.labels,
        queries,
        bench.queries.labels,
        out,
        [recipe.lr] if recipe.lr else LEARNING_RATES,
        classes=classes,
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        seed=bench.options.seed,
        device=choose_compute(loaded.encoder, bench.options.device, bench.options.precision).device,
    )


def probe_images(
    bench: ProbeSetup, plan: ProbePlan, loaded: LoadedEncoder, rows: FeaturePair | None, kept: Tensor
) -> FittedClassifier:
    """A published protocol: random views of the images, epoch after epoch, each judged on the queries."""
    recipe, compute = plan.recipe, choose_compute(loaded.encoder, bench.options.device, bench.options.precision)
    assert recipe.epochs and recipe.lr and recipe.weight_decay is not None
    loader = build_probe_loader(bench, plan, loaded, compute, kept)
    net = build_probe_net(plan, loaded, compute, rows, kept)
    optimizer = engine.build_optimizer(net, recipe, recipe.lr, recipe.weight_decay)
    per_epoch, seed = loader.steps_per_epoch, bench.options.seed
    steps, curve = recipe.epochs * per_epoch, []
    batches = loader.batches(0, steps)
    fitted = engine.fit(
        plan.method, net, batches, recipe, optimizer, compute, steps_per_epoch=per_epoch, start=0, seed=seed
    )
    shape = {"start": 0, "steps": steps, "steps_per_epoch": per_epoch, "batch_size": loader.batch_size}
    with bench.screen.training(f"{bench.options.protocol} {loaded.name}", **shape, metrics=()) as display:
        for step in fitted:
            display.step(StepStats(step.number, step.epoch, step.lr, step.metrics["loss"], step.waited, step.seconds))
            if step.number % per_epoch == 0:
                logits = query_logits(bench, net, loaded, compute, rows)
                curve.append(float((logits.argmax(1) == bench.queries.labels).float().mean()))
    return FittedClassifier(
        logits, tuple(curve), f"{plan.method.form} features, lr {recipe.lr:g}, batch {recipe.batch_size}", 0
    )


def build_probe_net(
    plan: ProbePlan, loaded: LoadedEncoder, compute: Compute, rows: FeaturePair | None, kept: Tensor
) -> ProbeNet:
    """The encoder, or a copy of it if it is finetuned, and a new classifier on it."""
    net = plan.method.build(copy.deepcopy(loaded.encoder) if plan.method.finetune else loaded.encoder)
    assert isinstance(net, ProbeNet)
    compute.place(net)
    if plan.method.finetune and compute.device.type == "cpu":
        use_fast_depthwise(net.student)
        use_fast_pointwise(net)
    if plan.method.form == "standard" and rows is not None:
        net.classifier.fit_statistics(rows[0][kept])
    return net


def build_probe_loader(
    bench: ProbeSetup, plan: ProbePlan, loaded: LoadedEncoder, compute: Compute, kept: Tensor
) -> Loader:
    """Labelled training batches of the images `kept`. Raises `UsageError` where they are fewer than a batch."""
    whole, size = bench.held(loaded.input_spec.size, plan.augmentation.crop_min), plan.recipe.batch_size
    images = whole.images.subset(kept)
    assert size
    if len(images) < size:
        what, remedy = (
            f"{len(images):,} images are fewer than a batch of {size:,}.",
            f"Give at most --batch-size {len(images)}.",
        )
        raise UsageError(what, remedy=remedy)
    store = whole.store
    if store:
        store = PixelStore(store.pixels, store.offsets[kept], store.heights[kept], store.widths[kept], [])
    return Loader(
        images=images,
        store=store,
        short_side=whole.short_side,
        student=StudentViews(plan.method.view_specs(), plan.augmentation, loaded.input_spec),
        batch_size=size,
        seed=bench.options.seed,
        compute=compute,
        workers=bench.workers,
        on_broken=bench.judge.broken.add,
    )


@torch.inference_mode()
def query_logits(
    bench: ProbeSetup, net: ProbeNet, loaded: LoadedEncoder, compute: Compute, rows: FeaturePair | None
) -> Tensor:
    """Logits (N, C) of the queries, on the CPU: of their features, computed anew where the encoder changes."""
    now = LoadedEncoder(loaded.name, net.student, loaded.input_spec, loaded.metadata)
    queries = bench.judge.features(now, compute)[1] if rows is None else rows[1]
    return torch.cat([net.logits(part.to(compute.device)).cpu() for part in torch.split(queries, LOGITS_CHUNK_ROWS)])
