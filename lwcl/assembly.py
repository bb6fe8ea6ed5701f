"""A training run put together from its plan and its images: net, decoded images, batches, optimiser."""

from collections.abc import Callable

import torch

from lwcl import engine
from lwcl.backbones import zero_residuals
from lwcl.commands import PretrainOptions
from lwcl.data.fill import fill
from lwcl.data.images import Broken, ImageSet
from lwcl.data.loader import Loader
from lwcl.data.room import Mode, bytes_needed, choose_cache
from lwcl.data.store import Store
from lwcl.depthwise import fast_depthwise
from lwcl.engine import Compute
from lwcl.errors import UsageError
from lwcl.machine import compute_for
from lwcl.nets import Encoder, Net
from lwcl.plan import Plan
from lwcl.progress import Screen
from lwcl.training import Training
from lwcl.trial import must_take
from lwcl.weights import Images

#: A stored image's short side, in sides of a view: a crop of a fifth of its area has 0.8 of a view's pixels across.
STORED_SIDES = 1.75
FEW_IMAGES = 2000  # are decoded sooner than worker processes start


def built(plan: Plan, options: PretrainOptions) -> tuple[Net, Compute, Images]:
    """The net of a plan with weights that follow from the seed, how it computes, and the images it takes."""
    assert options.image_size is not None
    torch.manual_seed(options.seed)
    student = Encoder(
        options.arch,
        plan.method.head,
        norm=plan.method.norm,
        image_size=options.image_size,
        output_stride=options.output_stride,
    )
    must_take(student, options.image_size)
    if options.zero_residuals:
        zero_residuals(student.backbone)
    net = plan.method.build(student)
    compute = compute_for(student, options)
    compute.place(net)
    if compute.device.type == "cpu":
        fast_depthwise(net.student)
    return net, compute, Images.of(options.arch, options.image_size)


def must_fit(plan: Plan, images: int) -> None:
    """Raises `UsageError` where the batch does not fit the number of images, or its parts do not fit the batch."""
    recipe = plan.recipe
    assert recipe.batch_size
    if images < recipe.batch_size:
        raise UsageError(
            f"{images} images are fewer than a batch of {recipe.batch_size}.",
            remedy=f"Give --batch-size {max(2, images)} or less, or more images.",
        )
    if recipe.batch_size % recipe.accumulate:
        raise UsageError(
            f"A batch of {recipe.batch_size} has no {recipe.accumulate} equal parts.",
            remedy="Give an --accumulate that divides --batch-size.",
        )
    parts = recipe.accumulate * plan.method.splits
    if recipe.batch_size // parts < 2:
        raise UsageError(
            f"A batch of {recipe.batch_size} in {parts} parts (--accumulate x --bn-splits) "
            "leaves less than 2 images each.",
            remedy=f"Give --batch-size {2 * parts} or more, or fewer parts.",
        )


def stored(images: ImageSet, takes: Images, options: PretrainOptions, screen: Screen) -> Store | None:
    """The decoded images, kept where `--cache` says; None where they are decoded anew every time."""
    assert options.workers is not None
    short_side = round(takes.size * STORED_SIDES) if options.cache_size == "auto" else None
    mode: Mode = options.cache  # type: ignore[assignment]  # its choices are checked
    cache = choose_cache(mode, bytes_needed(images, short_side))
    screen.say(f"Decoded images: {cache.reason}")
    if cache.where == "off":
        return None
    with screen.counting("Decoding images", len(images)) as counting:
        return fill(
            images,
            short_side=short_side,
            where=cache.where,
            workers=options.workers if len(images) > FEW_IMAGES else 0,
            max_bad=options.max_bad,
            tell=lambda done, count: counting.advance(done - counting.done.count),
        )


def assembled(plan: Plan, images: ImageSet, screen: Screen, broken: Callable[[Broken], None]) -> Training:
    """Everything a run needs, from its plan and images. Raises `UsageError` or `DataError` where they do not fit."""
    options, recipe = plan.options, plan.recipe
    assert recipe.batch_size and recipe.lr and recipe.weight_decay is not None and options.workers is not None
    must_fit(plan, len(images))
    net, compute, takes = built(plan, options)
    store = stored(images, takes, options, screen)
    for bad in store.bad if store else ():
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
