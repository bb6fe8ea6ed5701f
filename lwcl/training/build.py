"""A training run put together from its plan and its images: net, decoded images, batches, optimiser."""

import functools
from collections.abc import Callable

import torch

from lwcl import engine
from lwcl.checkpoints.load import load_encoder
from lwcl.config.plan import Plan
from lwcl.config.teacher_options import parse_teacher_cache
from lwcl.config.train_options import TrainOptions
from lwcl.data.cache.open import CachedImages, open_cached_images
from lwcl.data.cache.policy import CACHED_SIDE_RATIO, CacheMode
from lwcl.data.dataset import BrokenImage, ImageSet
from lwcl.data.loader import Loader, StudentViews
from lwcl.errors import UsageError
from lwcl.kernels.depthwise import use_fast_depthwise
from lwcl.kernels.pointwise import use_fast_pointwise
from lwcl.models.backbone import zero_init_residuals
from lwcl.models.check_forward import check_forward
from lwcl.models.encoder import Encoder
from lwcl.models.loaded import InputSpec
from lwcl.models.net import Net
from lwcl.reporting.console import Screen
from lwcl.system.compute import Compute
from lwcl.system.device import choose_compute, set_matmul_precision
from lwcl.training.state import TrainingState
from lwcl.training.teacher import attach_teacher, cache_center_crops, load_teacher


def build_net(plan: Plan, options: TrainOptions, teacher_dim: int = 0) -> tuple[Net, Compute, InputSpec]:
    """The net of a plan, how it computes, and the images it takes; `teacher_dim`: width of the teacher's outputs.

    Weights are those of `--init`, or follow from the seed.
    """
    assert options.image_size is not None
    torch.manual_seed(options.seed)
    student = Encoder(
        options.arch,
        functools.partial(plan.method.head, teacher_dim=teacher_dim),
        norm=plan.method.head_norm,
        image_size=options.image_size,
        output_stride=options.output_stride,
    )
    for size in {spec.pixels(options.image_size) for spec in plan.method.view_specs()}:
        check_forward(student, size)
    if options.init:
        init_from(student, options.init, head=options.init_head)
    elif options.zero_residuals:
        zero_init_residuals(student.backbone)
    net = plan.method.build(student, teacher_dim)
    compute = choose_compute(student, options.device, options.precision)
    compute.place(net)
    if compute.device.type == "cpu":
        use_fast_depthwise(net.student)
        use_fast_pointwise(net)
    if options.compile:
        compile_backbones(net)
    return net, compute, InputSpec.for_arch(options.arch, options.image_size)


def compile_backbones(net: Net) -> None:
    """Let `torch.compile` make kernels of the backbones at their first pass; names and weights stay as they are."""
    for encoder in (module for module in net.modules() if isinstance(module, Encoder)):
        encoder.backbone.compile()


def init_from(student: Encoder, spec: str, *, head: bool) -> None:
    """Gives the student another encoder's backbone, and its head if wanted. Raises `UsageError` where they differ."""
    first = load_encoder(spec).encoder
    parts = [("backbone", student.backbone, first.backbone)]
    parts += [("head", student.head, first.head)] if head else []
    for name, own, other in parts:
        try:
            own.load_state_dict(other.state_dict())
        except RuntimeError as error:
            raise UsageError(
                f"--init {spec}: its {name} does not fit the {name} of {student.arch}.",
                f"It is of {first.arch}. {' '.join(str(error).split())[:200]}",
                "Give an encoder of the same --arch" + (", or leave --init-head out." if head else "."),
            ) from None


def check_batch_size(plan: Plan, images: int) -> None:
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
    parts = recipe.accumulate * plan.method.bn_splits
    if recipe.batch_size // parts < 2:
        raise UsageError(
            f"A batch of {recipe.batch_size} in {parts} parts (--accumulate x --bn-splits) "
            "leaves less than 2 images each.",
            remedy=f"Give --batch-size {2 * parts} or more, or fewer parts.",
        )


def stored_short_side(options: TrainOptions, teacher: int = 0) -> int | None:
    """The short side of a stored image, if it is shrunk; `teacher`: pixels of its views. Raises `UsageError`."""
    assert options.image_size
    if options.cache == "jpeg" and options.cache_size == "full":
        what = "--cache jpeg keeps shrunk images, and --cache-size full is to keep whole ones."
        raise UsageError(what, remedy="Leave one of them out.")
    return round(max(options.image_size, teacher) * CACHED_SIDE_RATIO) if options.cache_size == "auto" else None


def open_image_cache(images: ImageSet, teacher: int, options: TrainOptions, screen: Screen) -> CachedImages:
    """The images for this run, held as `--cache` and `--cache-size` say."""
    assert options.workers is not None
    mode: CacheMode = options.cache  # type: ignore[assignment]  # its choices are checked
    short_side = stored_short_side(options, teacher)
    return open_cached_images(images, short_side, mode, screen, workers=options.workers, max_bad=options.max_bad)


def build_training(
    plan: Plan, images: ImageSet, screen: Screen, broken: Callable[[BrokenImage], None]
) -> TrainingState:
    """Everything a run needs, from its plan and images. Raises `UsageError` or `DataError` where they do not fit."""
    options, recipe = plan.options, plan.recipe
    assert (
        recipe.batch_size
        and recipe.lr
        and recipe.weight_decay is not None
        and options.workers is not None
        and options.views_by
    )
    check_batch_size(plan, len(images))
    live = load_teacher(plan)
    net, compute, takes = build_net(plan, options, live.dim if live else 0)
    set_matmul_precision(compute)
    largest = live.input_spec.size if live and parse_teacher_cache(options.teacher_cache).kind != "center" else 0
    found = open_image_cache(images, largest, options, screen)
    for bad in found.broken:
        broken(bad)
    loader = Loader(
        images=found.images,
        store=found.store,
        short_side=found.short_side,
        student=StudentViews(plan.method.view_specs(), plan.augmentation, takes),
        batch_size=recipe.batch_size,
        seed=options.seed,
        compute=compute,
        workers=options.workers,
        on_broken=broken,
        views_by=options.views_by,
    )
    loader = attach_teacher(loader, live, plan, images, screen) if live else loader
    optimizer = engine.build_optimizer(net, recipe, recipe.lr, recipe.weight_decay)
    return TrainingState(plan, images, takes, net, optimizer, compute, loader, live)


def prepare_method(training: TrainingState, screen: Screen) -> None:
    """What a method needs before its first step: what the teacher says of all images, where it learns from that."""
    method, live, loader = training.plan.method, training.teacher, training.loader
    if live and method.needs_teacher_features:
        said = cache_center_crops(live, training.images, loader.workers, screen)
        method.initialise(training.net, said.whole(0), training.plan.options.seed)
