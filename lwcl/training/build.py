"""A training run built from its configuration and its images: net, teacher, precision, cached images, optimizer."""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass

import timm.layers
import torch
from torch import nn

from lwcl import engine
from lwcl.checkpoints.load import load_encoder
from lwcl.checkpoints.onnx_encoder import reject_onnx
from lwcl.config.plan import ResolvedConfig
from lwcl.config.teacher_options import parse_teacher_cache
from lwcl.config.train_options import CompressOptions, TrainOptions
from lwcl.data.cache.open import CachedImages, open_cached_images
from lwcl.data.cache.policy import CACHED_SIDE_RATIO, CLIP_SIDE_RATIO, CacheMode
from lwcl.data.dataset import BrokenImage, ImageSet
from lwcl.data.loader import Loader, StudentViews
from lwcl.data.pairs import stack_images
from lwcl.data.statistics import measure_statistics
from lwcl.errors import UsageError
from lwcl.kernels import bfloat16
from lwcl.kernels.selection import use_cpu_kernels
from lwcl.methods.method import Method
from lwcl.models.backbone import zero_init_residuals
from lwcl.models.encoder import Encoder, check_forward
from lwcl.models.loaded import InputSpec
from lwcl.models.low_bits import LowBits, simulate_bits, start_heads
from lwcl.models.momentum_encoder import MomentumEncoder
from lwcl.models.net import Net
from lwcl.models.pixel_format import RGB, PixelFormat
from lwcl.models.split_norm import split_batch_norms
from lwcl.models.teachers import licence_warning
from lwcl.reporting.console import Screen
from lwcl.settings import AUTO, auto_value
from lwcl.system import distributed
from lwcl.system.compute import Compute
from lwcl.system.device import choose_compute, resolve_device, set_matmul_precision
from lwcl.training.precision import AUTOCAST_DTYPES, TimingJob, choose_precision
from lwcl.training.state import TrainingState
from lwcl.training.teacher import OnlineTeacher, attach_teacher, cache_center_crops, load_teacher


@dataclass(frozen=True)
class BuiltModel:
    """What is trained, before the image cache is built; in `config`, the precision is no longer `auto`."""

    config: ResolvedConfig
    net: Net
    compute: Compute
    input_spec: InputSpec
    teacher: OnlineTeacher | None = None


def build_model(config: ResolvedConfig, screen: Screen, images: ImageSet | None = None) -> BuiltModel:
    """The net, its teacher, and how they are computed. Raises `UsageError` where architecture or teacher do not fit."""
    options, method = config.options, config.method
    warn_slow_precision(config, screen)
    # 1. The teacher first: the student's head may have its width.
    teacher = load_teacher(options, method, images)
    if teacher and teacher.licence and (warning := licence_warning(teacher.licence)):
        screen.warn(warning)
    teacher_dim = teacher.dim if teacher else 0
    input_spec = input_spec_for(options, images and (images.partner or images))
    net, compute = build_placed_net(config, teacher_dim, input_spec.pixel_format)
    # 2. `--precision auto`: fp32, or the faster of fp32 and bf16 for architectures on which bf16 is validated.
    if options.precision == AUTO and compute.device.type == "cpu":
        choice = choose_precision(TimingJob(method, net, config.optimization, compute, options.image_size, teacher_dim))
        config = config.with_values(precision=auto_value(choice.name, choice.reason))
        compute = compute._replace(autocast=AUTOCAST_DTYPES[choice.name])
    set_matmul_precision(compute)
    return BuiltModel(config, net, compute, input_spec, teacher)


def build_placed_net(config: ResolvedConfig, teacher_dim: int, pixel_format: PixelFormat) -> tuple[Net, Compute]:
    """The net of a run where it is computed, and how."""
    options, net = config.options, build_net(config, teacher_dim, pixel_format)
    compute = choose_compute(net.student, options.device, options.precision)
    compute.place(net)
    if compute.device.type == "cpu":
        use_cpu_kernels(net, net.student)
    if options.compile:
        compile_backbones(net)
    return net, compute


def input_spec_for(options: TrainOptions, images: ImageSet | None) -> InputSpec:
    """The student's input: timm's statistics for RGB, those of the images for anything else."""
    usual = InputSpec.for_arch(options.arch, options.image_size)
    if images is None or images.pixel_format.is_rgb:
        return usual if images is None else dataclasses.replace(usual, pixel_format=images.pixel_format)
    return InputSpec(usual.size, *measure_statistics(images), usual.crop_pct, images.pixel_format)


def warn_slow_precision(config: ResolvedConfig, screen: Screen) -> None:
    """Warns if the user chose bf16 and this CPU emulates it."""
    options = config.options
    if resolve_device(options.device).type != "cpu" or not bfloat16.bf16_is_emulated():
        return
    for flag, precision, used in (
        ("--precision", options.precision, True),
        ("--teacher-precision", options.teacher_precision, options.teacher),
    ):
        if used and precision == "bf16":
            screen.warn(f"{flag} bf16: this CPU is many times faster in fp32.")


def build_net(config: ResolvedConfig, teacher_dim: int = 0, pixel_format: PixelFormat = RGB) -> Net:
    """The net of a run; `teacher_dim` is the width of the teacher's output, 0 without one.

    Its weights are those of `--init`, or follow from the seed.
    """
    options, method = config.options, config.method
    torch.manual_seed(options.seed)
    student = Encoder(
        options.arch,
        functools.partial(method.head, teacher_dim=teacher_dim),
        norm=method.head_norm,
        image_size=options.image_size,
        output_stride=options.output_stride,
        channels=pixel_format.channels,
        frames=pixel_format.frames,
        temporal=options.temporal,
    )
    for size in {spec.pixels(options.image_size) for spec in method.view_specs()}:
        check_forward(student, size)
    if options.init:
        load_initial_weights(student, options.init, head=options.init_head)
    elif options.zero_residuals:
        zero_init_residuals(student.backbone)
    if isinstance(options, CompressOptions) and options.bits is not None:
        reduce_bits(student, options, method)
    net = method.build(student, teacher_dim)
    split_batches(net, config.optimization.bn_splits)
    convert: Callable[[Net], Net] = timm.layers.convert_sync_batchnorm  # type: ignore[attr-defined]  # not re-exported
    return convert(net) if config.optimization.sync_bn else net


def split_batches(net: Net, parts: int) -> None:
    """Lets the batch norms of a net compute a batch in that many parts, momentum encoders in shuffled ones."""
    for module in net.children():
        if isinstance(module, MomentumEncoder):
            module.split(parts)
        else:
            split_batch_norms(module, parts)


def reduce_bits(student: Encoder, options: CompressOptions, method: Method) -> None:
    """Switches a float32 student to fake-quantised layers, and initialises its head to match the teacher."""
    if options.compile:
        raise UsageError("--bits cannot be combined with --compile.", remedy="Remove --compile.")
    if distributed.world_size() > 1:
        raise UsageError("--bits trains in one process.", remedy="Remove --devices.")
    twin = load_encoder(str(options.init)).encoder
    own = method.teacher_space == "features" and options.teacher == options.init
    start_heads(student, twin, same_space=own)
    simulate_bits(student, LowBits(options.bits or 0, options.activation_bits))


def compile_backbones(net: Net) -> None:
    """Lets `torch.compile` compile the backbones at their first forward pass; names and weights stay as they are."""
    for encoder in (module for module in net.modules() if isinstance(module, Encoder)):
        encoder.backbone.compile()


def load_initial_weights(student: Encoder, spec: str, *, head: bool) -> None:
    """Loads another encoder's backbone, and with `head` its head. Raises `UsageError` where the shapes differ."""
    loaded = load_encoder(spec)
    reject_onnx(loaded)
    source = loaded.encoder
    if source.bits:
        what = f"--init {spec}: its weights have {source.bits.weights} bits."
        raise UsageError(what, remedy="Give the float32 encoder that it was made of.")
    modules = [("backbone", student.backbone, source.backbone)]
    modules += [("head", student.head, source.head)] if head else []
    for name, own, other in modules:
        if difference := shape_difference(own, other):
            what = f"--init {spec}: its {name} ({source.arch}) does not fit the {name} of {student.arch}."
            if name == "head":
                remedy = "Remove --init-head, or choose the method and the widths it was trained with."
            elif source.arch != student.arch:
                remedy = f"Give --arch {source.arch}, or another encoder."
            else:
                remedy = "Choose the --channels and sizes it was trained with, or give another encoder."
            raise UsageError(what, difference, remedy)
        own.load_state_dict(other.state_dict())


def shape_difference(own: nn.Module, other: nn.Module) -> str:
    """The first tensor that two modules do not share in name and shape; empty where they share all."""
    shapes, others = ({name: tuple(x.shape) for name, x in one.state_dict().items()} for one in (own, other))
    for name in (*shapes, *others):
        if shapes.get(name) != others.get(name):
            said = [str(known[name]) if name in known else "missing" for known in (others, shapes)]
            return f"The first difference is {name}: {said[0]} there, {said[1]} here."
    return ""


def stored_short_side(options: TrainOptions, teacher_size: int = 0) -> int | None:
    """The short side of a cached image, None for whole images; `teacher_size`: side of the teacher's views in pixels.

    Raises `UsageError` for options that contradict each other.
    """
    if options.cache == "jpeg" and options.cache_size == "full":
        what = "--cache jpeg stores shrunk images, --cache-size full stores whole ones."
        raise UsageError(what, remedy="Remove one of them.")
    ratio = CLIP_SIDE_RATIO if options.clip else CACHED_SIDE_RATIO
    return round(max(options.image_size, teacher_size) * ratio) if options.cache_size == AUTO else None


def open_image_cache(images: ImageSet, teacher_size: int, options: TrainOptions, screen: Screen) -> CachedImages:
    """The images of a run, cached as `--cache` and `--cache-size` say."""
    mode: CacheMode = options.cache  # type: ignore[assignment]  # its choices are checked
    short_side = stored_short_side(options, teacher_size)
    return open_cached_images(images, short_side, mode, screen, workers=options.workers, max_bad=options.max_bad)


def build_training(
    model: BuiltModel, images: ImageSet, screen: Screen, on_broken: Callable[[BrokenImage], None]
) -> TrainingState:
    """Everything a run needs, from its model and images. Raises `UsageError` or `DataError` where they do not fit."""
    config, teacher = model.config, model.teacher
    options, optimization = config.options, config.optimization
    # 1. Cached images are large enough for the student's views, and for the teacher's where it sees crops.
    cache = parse_teacher_cache(options.teacher_cache)
    teacher_size = teacher.input_spec.size if teacher and cache.kind != "center" else 0
    stacked = stack_images(images)
    first, both = images.pixel_format.channels, stacked.pixel_format.channels
    cached = open_image_cache(stacked, teacher_size, options, screen)
    for bad in cached.broken:
        on_broken(bad)
    # 2. Batches, with the outputs of the teacher: computed in each step, or now where they are cached.
    loader = Loader(
        images=cached.images,
        store=cached.store.on(model.compute.device) if cached.store and options.cache == "device" else cached.store,
        short_side=cached.short_side,
        student=StudentViews(config.method.view_specs(), config.augmentation, model.input_spec),
        batch_size=optimization.batch_size,
        accumulate=optimization.accumulate,
        seed=options.seed,
        shuffle_block=options.shuffle_block,
        compute=model.compute,
        workers=options.workers,
        on_broken=on_broken,
        view_backend=options.view_backend,
        student_channels=tuple(range(first, both)),
        teacher_channels=tuple(range(first)) if both > first else teacher.channels if teacher else (),
    )
    loader = attach_teacher(loader, teacher, cache, images, screen) if teacher else loader
    optimizer = engine.build_optimizer(model.net, optimization, optimization.lr, optimization.weight_decay)
    return TrainingState(config, images, model.input_spec, model.net, optimizer, model.compute, loader, teacher)


def prepare_method(training: TrainingState, screen: Screen) -> None:
    """Initialises a method that needs the teacher's features of all images, before the first step."""
    method, teacher, loader = training.config.method, training.teacher, training.loader
    if teacher and method.needs_teacher_features:
        features = cache_center_crops(teacher, training.images, loader.workers, screen).whole(0)
        if distributed.rank():
            return  # the others get what process 0 fits when training starts
        method.initialise(training.net, features, training.config.options.seed)
