"""Teachers: frozen encoders whose outputs a student learns from, computed in every step, or once and cached.

`center` is CompRess's cached teacher (arXiv 2010.14713, `--cache_teacher` in its code). `views:K` caches an output for
each of K crops, and the student trains on exactly these crops: cached and online outputs are the same, except for the
last bits, which depend on the number of images in a forward pass.
"""

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from lwcl.checkpoints.load import load_encoder
from lwcl.config.teacher_options import TeacherCacheSpec, parse_teacher_cache, parse_teacher_channels
from lwcl.config.train_options import TrainOptions
from lwcl.data.augment.views import normalise_images
from lwcl.data.dataset import ImageSet
from lwcl.data.eval_loader import CenterCropDataset
from lwcl.data.loader import BatchCrops, Loader, TeacherViews
from lwcl.errors import UsageError
from lwcl.formatting import plural
from lwcl.methods.method import Method
from lwcl.models.backbone import batch_norms
from lwcl.models.encoder import check_forward, weights_hash
from lwcl.models.loaded import InputSpec, LoadedEncoder
from lwcl.models.pixel_format import RGB, PixelFormat
from lwcl.reporting.console import Screen
from lwcl.system.device import choose_compute
from lwcl.training.teacher_cache import ComputeOutputs, TeacherCache

#: Images in a forward pass whose outputs are cached; not the run's batch size, on which their last bits would depend.
CACHE_BATCH_SIZE = 128


class OnlineTeacher:
    """A teacher that computes its outputs in every step."""

    def __init__(
        self, loaded: LoadedEncoder, method: Method, options: TrainOptions, channels: tuple[int, ...] = ()
    ) -> None:
        self.loaded, self.space, self.channels = loaded, method.teacher_space, channels
        self.compute = choose_compute(loaded.encoder, options.device, options.teacher_precision)
        self.encoder = self.compute.place(loaded.encoder).requires_grad_(False).eval()
        self.dtype = self.compute.autocast or torch.float32
        if method.teacher_uses_batch_stats:
            use_batch_statistics(self.encoder)
        self.hash = weights_hash(self.encoder)

    @property
    def dim(self) -> int:
        """The width of its output."""
        widths = self.encoder.head_widths if self.space == "embedding" else ()
        return widths[-1] if widths else self.encoder.width

    @property
    def input_spec(self) -> InputSpec:
        """The input that it expects."""
        return self.loaded.input_spec

    @property
    def licence(self) -> str | None:
        """The licence of its weights, or of those of its own teacher, where one is known."""
        facts = self.loaded.metadata
        return facts.get("licence") or facts.get("teacher licence")

    @property
    def views(self) -> TeacherViews:
        """It needs the student's crops at its own image size."""
        return TeacherViews(self.input_spec)

    def outputs(self, crops: BatchCrops, views: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Its output (B, D) float32 for each view (B, 3, size, size)."""
        return tuple(self.output(view) for view in views)

    def output(self, view: Tensor) -> Tensor:
        """Its output for a view (B, 3, size, size): (B, D) float32, rounded to the precision of the cache."""
        with torch.inference_mode(), self.compute.context():
            images = self.compute.arrange(view.to(self.compute.device))
            output: Tensor = self.encoder(images) if self.space == "embedding" else self.encoder.features(images)
        return output.to(self.dtype).float().clone()  # unlike an inference tensor, a clone can be used in a loss


class CachedTeacher:
    """A teacher whose outputs are read from a cache: for each of `crops` crops, or for the center crop (`crops` 0)."""

    def __init__(self, cache: TeacherCache, crops: int, device: torch.device) -> None:
        self.cache, self.crops, self.device = cache, crops, device

    @property
    def views(self) -> TeacherViews:
        """It needs none. The student trains on the cached crops in turn, or, with the center crop's output, on any."""
        return TeacherViews(cached_crops=self.crops or None)

    def outputs(self, crops: BatchCrops, views: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The cached output (B, D) float32 for each crop."""
        rows = (self.cache.rows(number if self.crops else 0, crops.index) for number in crops.numbers)
        return tuple(output.to(self.device) for output in rows)


def load_teacher(options: TrainOptions, method: Method, images: ImageSet | None = None) -> OnlineTeacher | None:
    """The teacher of a method; None if the method has none. Raises `UsageError`."""
    if options.teacher is None or not method.teacher_space:
        return None
    loaded = load_encoder(options.teacher, arch=options.teacher_arch, image_size=options.teacher_size)
    loaded = loaded.for_data(images.pixel_format if images else RGB, "mean")
    for size in {loaded.input_spec.size, *(spec.pixels(loaded.input_spec.size) for spec in method.view_specs())}:
        check_forward(loaded.encoder, size)
    if method.teacher_uses_batch_stats and parse_teacher_cache(options.teacher_cache).kind != "off":
        raise UsageError(
            "--teacher-bn train cannot be combined with --teacher-cache.",
            "The teacher's outputs then depend on the batch, so they cannot be cached.",
            "Leave --teacher-cache out, or give --teacher-bn eval.",
        )
    spec, channels = teacher_input(loaded, options, images.pixel_format if images else RGB)
    return OnlineTeacher(dataclasses.replace(loaded, input_spec=spec), method, options, channels)


def teacher_input(
    loaded: LoadedEncoder, options: TrainOptions, pixels: PixelFormat
) -> tuple[InputSpec, tuple[int, ...]]:
    """The input of a teacher on images of a format, and the positions of its channels there, none for all of them.

    One channel is repeated; of several, --teacher-channels takes some. Raises `UsageError`.
    """
    spec, own = loaded.input_spec, loaded.encoder.channels
    chosen = parse_teacher_channels(options.teacher_channels)
    if not chosen and own != pixels.channels:
        chosen = (1,) * own if pixels.channels == 1 else ()
    if (chosen and (len(chosen) != own or max(chosen) > pixels.channels)) or (not chosen and own != pixels.channels):
        given = f", and --teacher-channels {options.teacher_channels} are not {own} of them" if chosen else ""
        raise UsageError(
            f"--teacher takes {plural(own, 'channel')}; the images have {pixels.channels}{given}.",
            "Which of them it is to see is for you to say.",
            f"Give --teacher-channels with {plural(own, 'number')} of 1 to {pixels.channels}, such as 3,2,1.",
        )
    if chosen:
        positions = tuple(number - 1 for number in chosen)
        return dataclasses.replace(spec, pixel_format=pixels.picked(positions)), positions
    return (dataclasses.replace(spec, pixel_format=pixels) if spec.pixel_format == RGB else spec), ()


def attach_teacher(
    loader: Loader, teacher: OnlineTeacher, cache: TeacherCacheSpec, images: ImageSet, screen: Screen
) -> Loader:
    """The loader with the teacher's outputs in its batches; if they are to be cached, computes and caches them first.

    `images` are the original ones; those of the loader may be downscaled.
    """
    if cache.kind == "off":
        return dataclasses.replace(loader, teacher=teacher)
    if cache.kind == "center":
        outputs = cache_center_crops(teacher, images, loader.workers, screen)
        return dataclasses.replace(loader, teacher=CachedTeacher(outputs, 0, loader.compute.device))
    store = loader.store
    origin = {
        "augmentations": [dataclasses.asdict(augmentation) for augmentation in loader.student.augmentations],
        "sizes": [spec.size for spec in loader.student.specs],
        "seed": loader.seed,
        "view_backend": loader.view_backend,
        "stored pixels": int((store.heights * store.widths).sum()) if store else None,
        "decoded": None if store else [loader.short_side, loader.images is not images],
    }
    outputs = open_teacher_cache(teacher, loader.images, cache.crops, origin)

    def compute(crop: int, index: Tensor) -> Tensor:
        return teacher.output(loader.view(crop, index, teacher.input_spec, loader.teacher_channels))

    fill_teacher_cache(outputs, screen, compute)
    return dataclasses.replace(loader, teacher=CachedTeacher(outputs, cache.crops, loader.compute.device))


def cache_center_crops(teacher: OnlineTeacher, images: ImageSet, workers: int, screen: Screen) -> TeacherCache:
    """The teacher's outputs for the center crop of every image, from the cache or computed now."""
    spec = teacher.input_spec
    outputs, dataset = open_teacher_cache(teacher, images, 1, {"plain": True}), CenterCropDataset(images, spec)

    def compute(crop: int, index: Tensor) -> Tensor:
        crops = torch.stack(list(pool.map(lambda position: dataset[position][0], index.tolist())))
        return teacher.output(normalise_images(crops.to(teacher.compute.device), **spec.normalisation))

    with ThreadPoolExecutor(max(1, workers)) as pool:
        fill_teacher_cache(outputs, screen, compute)
    return outputs


def open_teacher_cache(teacher: OnlineTeacher, images: ImageSet, crops: int, origin: dict[str, Any]) -> TeacherCache:
    """The cache of a teacher's outputs for some crops of each image, identified by all that they depend on."""
    fingerprint = {
        "teacher": teacher.hash,
        "space": teacher.space,
        "input_spec": teacher.input_spec.as_json(),
        "data": images.fingerprint,
        **origin,
    }
    return TeacherCache.open(fingerprint, (crops, len(images), teacher.dim), teacher.dtype)


def fill_teacher_cache(cache: TeacherCache, screen: Screen, compute: ComputeOutputs) -> None:
    """Computes the outputs that are missing in the cache."""
    rows = cache.shape[0] * cache.shape[1]
    with screen.counting("Computing teacher features", rows) as counting:
        cache.fill(compute, CACHE_BATCH_SIZE, counting.update)


def use_batch_statistics(encoder: nn.Module) -> None:
    """Sets batch norms to batch statistics, as DisCo's code does for its teacher; running statistics do not change."""
    for norm in batch_norms(encoder):
        norm.train()
        norm.momentum = 0.0
