"""Training batches: which images, in which order, as which views.

Everything follows from (seed, epoch, index), so batches can start at any step. Decoded images come from a `PixelStore`;
without one, worker processes decode and crop, and only colour and blur are computed here, on whole batches. A teacher's
outputs come with the batch, whether they are computed now or read from a cache, so a method cannot tell the difference.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, TypedDict

import torch
from torch import Tensor

from lwcl.config.augmentation import Augmentation
from lwcl.data.augment.apply import AugmentParams, each_frame
from lwcl.data.augment.views import make_views, make_views_from_crops, sample_augment_params
from lwcl.data.cache.pixels import STORED_TYPES, PixelStore
from lwcl.data.dataset import BrokenImage, ImageSet
from lwcl.data.decode_and_crop import CropBatch, CropDataset
from lwcl.data.order import epoch_order
from lwcl.data.workers import load_in_workers
from lwcl.methods.method import Batch, ViewSpec
from lwcl.models.loaded import InputSpec
from lwcl.rng import clip_uniforms
from lwcl.system import distributed
from lwcl.system.compute import Compute


class BatchCrops(NamedTuple):
    """Which crops of which images make up a batch: view v of epoch e is crop number e x views + v."""

    numbers: tuple[int, ...]  # one for each view
    index: Tensor  # type: ignore[assignment]  # (B,) positions of the images in the data set


#: (view of the batch, input spec, channels of the images, all if there are none) -> (B, C, size, size)
Renderer = Callable[[int, InputSpec, tuple[int, ...]], Tensor]


@dataclass(frozen=True)
class StudentViews:
    """The views of each image: how each is augmented, and its size for a network."""

    specs: tuple[ViewSpec, ...]  # one for each view
    augmentation: Augmentation  # the run's; a spec may change it
    input_spec: InputSpec  # of the student

    @functools.cached_property
    def augmentations(self) -> tuple[Augmentation, ...]:
        """The augmentation of each view. Raises `UsageError` where a spec has values out of range."""
        return tuple(augmentation_of(spec, self.augmentation) for spec in self.specs)

    def pixels(self, crop: int, input_spec: InputSpec) -> int:
        """The side of a crop as a network of this input size sees it."""
        return self.specs[crop % len(self.specs)].pixels(input_spec.size)

    def params(
        self, crop: int, index: Tensor, heights: Tensor, widths: Tensor, *, seed: int, input_spec: InputSpec
    ) -> AugmentParams:
        """The augmentation parameters of a crop of the images at `index` (B,), of these sides (B,)."""
        epoch, view = divmod(crop, len(self.specs))
        size = self.pixels(crop, input_spec)
        return sample_augment_params(
            self.augmentations[view], size=size, seed=seed, epoch=epoch, view=view, index=index, heights=heights,
            widths=widths, channels=input_spec.pixel_format.channels,
        )  # fmt: skip

    def clip_starts(self, crop: int, index: Tensor, counts: Tensor, *, seed: int) -> Tensor:
        """The first frames (B,) of a crop's clips in the videos at `index` (B,), of `counts` (B,) frames: uniform."""
        epoch, view = divmod(crop, len(self.specs))
        spare = counts - self.input_spec.pixel_format.frames + 1
        return (clip_uniforms(seed, epoch, view, index) * spare).to(torch.int64)


def augmentation_of(spec: ViewSpec, augmentation: Augmentation) -> Augmentation:
    """The augmentation of a group of views: the run's with the changes of the group."""
    scale = dict(zip(("crop_min", "crop_max"), spec.crop_scale or (), strict=False))
    return replace(augmentation, **scale, **spec.augmentation) if scale or spec.augmentation else augmentation


def own_share(batch: Tensor, accumulate: int) -> Tensor:
    """This process's rows of a batch (B, ...): its part of each micro-batch, so that all work on the same one."""
    count, rank = distributed.world_size(), distributed.rank()
    return torch.cat([part.tensor_split(count)[rank] for part in batch.tensor_split(accumulate)])


class TeacherViews(NamedTuple):
    """The views that a teacher needs."""

    input_spec: InputSpec | None = None  # of the teacher; None: it needs no views, since its outputs are cached
    cached_crops: int | None = None  # crops of an image that have a cached output, used in turn; None: new ones


class Teacher(Protocol):
    """A source of teacher outputs; see `lwcl.training.teacher`."""

    @property
    def views(self) -> TeacherViews:
        """The views that it needs."""

    def outputs(self, crops: BatchCrops, views: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Its output (B, D) float32 for each crop; `views`: the crops in its format, () if its outputs are cached."""


class BatchViews(NamedTuple):
    """Crops as views of the student and of the teacher, (B, 3, size, size) each; of clips (B, T, 3, size, size)."""

    crops: BatchCrops
    student: tuple[Tensor, ...]
    teacher: tuple[Tensor, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Loader:
    """Training batches of random views, in a new order every epoch; a last incomplete batch is dropped."""

    images: ImageSet
    store: PixelStore | None  # decoded images; None: they are decoded each time they are needed
    short_side: int | None = None  # minimum short side when decoding, in pixels; None: full size
    student: StudentViews
    teacher: Teacher | None = None
    batch_size: int  # over all processes
    accumulate: int = 1  # micro-batches; a process has its share of each
    seed: int
    shuffle_block: int = 0  # see `epoch_order`
    compute: Compute
    workers: int = 0
    on_broken: Callable[[BrokenImage], None]  # called for each image that had to be replaced
    view_backend: str = "tensor"  # or "opencv"; see `make_views`
    student_channels: tuple[int, ...] = ()  # those of the images that the student sees; empty: all
    teacher_channels: tuple[int, ...] = ()

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in an epoch."""
        return len(self.images) // self.batch_size

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """The batches of steps `start` to `stop` (counted over all epochs); this process's share of each."""
        for crops, student, teacher in self.from_store(start, stop) if self.store else self.from_files(start, stop):
            outputs = self.teacher.outputs(crops, teacher) if self.teacher else ()
            yield Batch(student, crops.index, self.images.labels[crops.index], outputs)

    def crops(self, start: int, stop: int) -> Iterator[BatchCrops]:
        """The crops of each step."""
        views = len(self.student.specs)
        cycle = self.teacher.views.cached_crops if self.teacher else None
        for step in range(start, stop):
            epoch, place = divmod(step, self.steps_per_epoch)
            if place == 0 or step == start:
                order = epoch_order(len(self.images), self.seed, epoch, self.shuffle_block)
            batch = order[place * self.batch_size : (place + 1) * self.batch_size]
            numbers = range(epoch * views, (epoch + 1) * views)
            yield BatchCrops(
                tuple(number % cycle if cycle else number for number in numbers),
                own_share(batch, self.accumulate),
            )

    def from_store(self, start: int, stop: int) -> Iterator[BatchViews]:
        """Views of stored images."""
        for crops in self.crops(start, stop):
            yield self.render_views(crops, self.store_renderer(crops))

    def from_files(self, start: int, stop: int) -> Iterator[BatchViews]:
        """Views of images that worker processes decode and crop."""
        sizes: dict[int, list[int]] = {}
        for view, spec in enumerate(self.student.specs):
            for size in {spec.pixels(input_spec.size) for input_spec in self.input_specs}:
                sizes.setdefault(size, []).append(view)
        now, ahead = itertools.tee(self.crops(start, stop))  # workers are a few batches ahead
        for crops, batch in zip(now, self.decode_crops(ahead, sizes, self.workers), strict=True):
            yield self.render_views(crops, self.crop_renderer(crops, batch))

    @property
    def input_specs(self) -> list[InputSpec]:
        """The input specification of the student, and that of a teacher that needs views."""
        teacher = self.teacher.views.input_spec if self.teacher else None
        return [self.student.input_spec, *([teacher] if teacher else [])]

    def render_views(self, crops: BatchCrops, render: Renderer) -> BatchViews:
        """The crops as views for the student, and for a teacher that needs any."""
        views = range(len(crops.numbers))
        seen = zip(self.input_specs, (self.student_channels, self.teacher_channels), strict=False)
        return BatchViews(crops, *(tuple(render(view, *network) for view in views) for network in seen))

    def store_renderer(self, crops: BatchCrops) -> Renderer:
        """Renders views of stored images."""
        assert self.store is not None
        if self.store.pixel_format.frames:
            return self.clip_renderer(self.store, crops)
        images, heights, widths = self.store.batch(crops.index)
        pixels = self.compute.send(images)
        parts: dict[tuple[int, ...], Tensor] = {}

        def render(view: int, input_spec: InputSpec, channels: tuple[int, ...]) -> Tensor:
            if channels not in parts:
                parts[channels] = take_channels(pixels, channels, input_spec)
            params = self.params(crops.numbers[view], crops.index, heights, widths, input_spec=input_spec)
            size = self.student.pixels(crops.numbers[view], input_spec)
            return make_views(parts[channels], params, size, **self.view_format(input_spec))

        return render

    def clip_renderer(self, store: PixelStore, crops: BatchCrops) -> Renderer:
        """Renders views of stored videos: of each crop's own clip, which student and teacher share."""
        clips: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

        def render(view: int, input_spec: InputSpec, _: tuple[int, ...]) -> Tensor:
            crop = crops.numbers[view]
            if crop not in clips:
                starts = self.student.clip_starts(crop, crops.index, store.counts[crops.index], seed=self.seed)
                images, heights, widths = store.batch(crops.index, starts)
                clips[crop] = self.compute.send(images), heights, widths
            pixels, heights, widths = clips[crop]
            params = self.params(crop, crops.index, heights, widths, input_spec=input_spec)
            size = self.student.pixels(crop, input_spec)
            views = make_views(*each_frame(pixels, params), size, **self.view_format(input_spec))
            return torch.unflatten(views, 0, pixels.shape[:-3])

        return render

    def crop_renderer(self, crops: BatchCrops, batch: CropBatch) -> Renderer:
        """Renders views of crops that were cut by worker processes."""

        def render(view: int, input_spec: InputSpec, channels: tuple[int, ...]) -> Tensor:
            params = self.params(crops.numbers[view], crops.index, batch.heights, batch.widths, input_spec=input_spec)
            pixels = batch.of_view(view, self.student.pixels(crops.numbers[view], input_spec))
            pixels = take_channels(self.compute.send(pixels), channels, input_spec)
            views = make_views_from_crops(*each_frame(pixels, params), **self.view_format(input_spec))
            return torch.unflatten(views, 0, pixels.shape[:-3])

        return render

    def decode_crops(
        self, crops: Iterator[BatchCrops], sizes: dict[int, list[int]], workers: int
    ) -> Iterator[CropBatch]:
        """Crops from files, decoded by workers; `sizes`: the views needed at each size. Reports broken images."""
        params = functools.partial(self.student.params, seed=self.seed, input_spec=self.student.input_spec)
        starts = functools.partial(self.student.clip_starts, seed=self.seed)
        dataset = CropDataset(self.images, params, sizes, self.short_side, starts)
        requests = ([(numbers, int(i)) for i in index] for numbers, index in crops)
        for batch in load_in_workers(dataset, requests, workers):
            for broken in batch.broken:
                self.on_broken(broken)
            yield batch

    def view(self, crop: int, index: Tensor, input_spec: InputSpec, channels: tuple[int, ...] = ()) -> Tensor:
        """One crop of the images at `index` (B,) as a network takes it: (B, C, size, size)."""
        crops = BatchCrops((crop,), index)
        if self.store:
            return self.store_renderer(crops)(0, input_spec, channels)
        batch = next(self.decode_crops(iter([crops]), {self.student.pixels(crop, input_spec): [0]}, 0))
        return self.crop_renderer(crops, batch)(0, input_spec, channels)

    def params(
        self, crop: int, index: Tensor, heights: Tensor, widths: Tensor, *, input_spec: InputSpec
    ) -> AugmentParams:
        """The augmentation parameters of a crop; see `StudentViews.params`."""
        return self.student.params(crop, index, heights, widths, seed=self.seed, input_spec=input_spec)

    def view_format(self, input_spec: InputSpec) -> "ViewFormat":
        """How views are normalised and laid out in memory, and what computes them."""
        return {
            **input_spec.normalisation,
            "channels_last": self.compute.channels_last,
            "backend": self.view_backend if input_spec.pixel_format.is_rgb else "tensor",
            "threads": max(1, self.workers),
        }


def take_channels(images: Tensor, channels: tuple[int, ...], input_spec: InputSpec) -> Tensor:
    """Some channels of images (B, C, H, W), in the type that a network's own images have; all if there are none."""
    if not channels:
        return images
    return (
        images[:, list(channels)]
        .to(STORED_TYPES[input_spec.pixel_format.dtype])
        .contiguous(memory_format=torch.channels_last)
    )


class ViewFormat(TypedDict):
    """How views are normalised and laid out in memory, and what computes them; see `make_views`."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    white: float
    channels_last: bool
    backend: str
    threads: int
