"""One training run, put together: net, optimiser and batches from a plan, its state to a checkpoint and back."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.optim import Optimizer

from lwcl import checkpoint, engine
from lwcl.commands import PretrainOptions
from lwcl.data.fill import fill
from lwcl.data.images import Broken, ImageSet
from lwcl.data.loader import Loader
from lwcl.data.room import bytes_needed, choose_cache
from lwcl.depthwise import fast_depthwise
from lwcl.engine import Compute, NotFiniteError
from lwcl.errors import DataError, UsageError
from lwcl.machine import compute_for
from lwcl.nets import Encoder, Net, backbone_of
from lwcl.optimizer_state import pack_optimizer, unpack_optimizer
from lwcl.plan import Plan
from lwcl.progress import Screen
from lwcl.runfolder import RunFolder
from lwcl.trial import must_take
from lwcl.weights import Images, Loaded

#: A stored image's short side, in sides of a view: a crop of a fifth of its area has 0.8 of a view's pixels across.
STORED_SIDES = 1.75
MIN_SAVE_SECONDS = 10.0  # epochs shorter than this are not all saved


@dataclass
class Training:
    """What a training run works with; `done` steps are behind it."""

    plan: Plan
    images: ImageSet
    takes: Images
    net: Net
    optimizer: Optimizer
    compute: Compute
    loader: Loader
    done: int = 0

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        assert self.plan.recipe.epochs is not None
        return self.plan.recipe.epochs * self.loader.steps_per_epoch

    def save(self, folder: RunFolder) -> None:
        """Writes the whole state as a checkpoint of step `done`."""
        packed, facts = pack_optimizer(self.optimizer)
        tensors = {"net": self.net.state_dict(), "optimizer": packed}
        checkpoint.save(folder.checkpoints, self.done, tensors, {"optimizer": facts, "data": self.images.fingerprint})

    def dump(self, folder: RunFolder, error: NotFiniteError) -> None:
        """Writes what shows a step that was not finite again: weights before it, its images, the last records."""
        names = [self.images.names[index] for index in error.index.tolist()]
        facts = {"step": error.step, "what": str(error), "images": names, "last": folder.metrics()[-50:]}
        checkpoint.save(folder.path / "nonfinite", error.step, {"net": self.net.state_dict()}, facts)

    def loaded(self, name: str) -> Loaded:
        """The student as it is now, as judging takes it, with where its weights come from."""
        options = self.plan.options
        facts = {
            "origin": "lwcl pretrain",
            "method": self.plan.method.name,
            "recipe": options.recipe,
            "steps": self.done,
            "epochs": self.done / self.loader.steps_per_epoch,
            "images": len(self.images),
            "data": self.images.fingerprint,
            "seed": options.seed,
        }
        return Loaded(name, self.net.student, self.takes, facts)

    def resume(self, folder: RunFolder, tell: Callable[[str], None]) -> bool:
        """Goes back to the newest checkpoint, if there is one. Raises `DataError` if the images are not the run's."""
        found = checkpoint.latest(folder.checkpoints, tell)
        folder.truncate_metrics(found.step if found else 0)
        if found is None:
            return False
        if found.facts["data"] != self.images.fingerprint:
            raise DataError(
                "The images are not those that this run began with.",
                "Names, sizes or times of files have changed.",
                "Put them back, or begin anew with --overwrite or another --out.",
            )
        self.net.load_state_dict(found.tensors["net"])
        unpack_optimizer(self.optimizer, found.tensors["optimizer"], found.facts["optimizer"])
        self.done = found.step
        return True


def built(plan: Plan, options: PretrainOptions) -> tuple[Net, Compute, Images]:
    """The net of a plan with weights that follow from the seed, how it computes, and the images it takes."""
    torch.manual_seed(options.seed)
    assert options.image_size is not None
    probe, _ = backbone_of(options.arch, image_size=options.image_size, output_stride=options.output_stride)
    head = plan.method.head(int(probe.head_hidden_size))  # type: ignore[arg-type]  # an int on every timm model
    torch.manual_seed(options.seed)
    norm = bool(getattr(plan.method, "head_norm", False))
    student = Encoder(
        options.arch, head, norm=norm, image_size=options.image_size, output_stride=options.output_stride
    )
    must_take(student, options.image_size)
    net = plan.method.build(student)
    compute = compute_for(student, options)
    compute.place(net)
    if compute.device.type == "cpu":
        fast_depthwise(net.student)
    return net, compute, Images.of(options.arch, options.image_size)


def assembled(plan: Plan, images: ImageSet, screen: Screen, broken: Callable[[Broken], None]) -> Training:
    """Everything a run needs, from its plan and images. Raises `UsageError` or `DataError` where they do not fit."""
    options, recipe = plan.options, plan.recipe
    assert recipe.batch_size and recipe.lr and recipe.weight_decay is not None and options.workers is not None
    if len(images) < recipe.batch_size:
        raise UsageError(
            f"{len(images)} images are fewer than a batch of {recipe.batch_size}.",
            remedy=f"Give --batch-size {max(2, len(images))} or less, or more images.",
        )
    if recipe.batch_size % recipe.accumulate:
        raise UsageError(
            f"A batch of {recipe.batch_size} has no {recipe.accumulate} equal parts.",
            remedy="Give an --accumulate that divides --batch-size.",
        )
    parts = recipe.accumulate * getattr(plan.method, "bn_splits", 1)
    if recipe.batch_size // parts < 2:
        raise UsageError(
            f"A batch of {recipe.batch_size} in {parts} parts (--accumulate x --bn-splits) "
            "leaves less than 2 images each.",
            remedy=f"Give --batch-size {2 * parts} or more, or fewer parts.",
        )
    net, compute, takes = built(plan, options)
    short_side = round(takes.size * STORED_SIDES) if options.cache_size == "auto" else None
    cache = choose_cache(options.cache, bytes_needed(images, short_side))  # type: ignore[arg-type]  # its choices are checked
    screen.say(f"Decoded images: {cache.reason}")
    store = None
    if cache.where != "off":
        with screen.counting("Decoding images", len(images)) as counting:
            store = fill(
                images,
                short_side=short_side,
                where=cache.where,
                workers=options.workers if len(images) > 2000 else 0,
                max_bad=options.max_bad,
                tell=lambda done, count: counting.advance(done - counting.done.count),
            )
        for bad in store.bad:
            broken(bad)
    loader = Loader(
        images=images,
        store=store,
        augmentation=plan.augmentation,
        takes=takes,
        views=plan.method.views,
        batch_size=recipe.batch_size,
        seed=options.seed,
        compute=compute,
        workers=options.workers,
        broken=broken,
    )
    return Training(
        plan, images, takes, net, engine.optimizer_of(net, recipe, recipe.lr, recipe.weight_decay), compute, loader
    )


class Saver:
    """When a checkpoint is due: every N steps or minutes, and at epoch ends that are not seconds apart."""

    def __init__(self, every: str, steps_per_epoch: int) -> None:
        self.steps, self.seconds = interval_of(every)
        self.steps_per_epoch, self.last = steps_per_epoch, time.monotonic()

    def due(self, step: int) -> bool:
        """Whether to save after `step`."""
        waited = time.monotonic() - self.last
        epoch_end = step % self.steps_per_epoch == 0 and waited > MIN_SAVE_SECONDS
        due = step % self.steps == 0 if self.steps else waited > self.seconds
        if due or epoch_end:
            self.last = time.monotonic()
        return due or epoch_end


def interval_of(every: str) -> tuple[int, float]:
    """`--save-every` as (steps, 0) or (0, seconds). Raises `UsageError`."""
    text = every.strip().lower()
    try:
        steps, seconds = (0, 60 * float(text[:-1])) if text.endswith("m") else (int(text), 0.0)
    except ValueError:
        steps, seconds = 0, 0.0
    if steps <= 0 and not 0 < seconds < math.inf:
        raise UsageError(f"--save-every: got {every!r}.", remedy="Give steps, such as 500, or minutes, such as 10m.")
    return steps, seconds
