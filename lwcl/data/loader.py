"""Batches: which images, in which order, seen how; all follows from (seed, epoch, index), so they begin at any step.

Decoded images come from a `Store`; without one, worker processes decode and crop, and only colour and blur are done
on whole batches here. Where there is a teacher, what it says of each view comes with the batch.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypedDict

from torch import Tensor

from lwcl.config.augmentation import Augmentation
from lwcl.data.augment.apply import AugmentParams
from lwcl.data.augment.views import make_views, make_views_from_crops, sample_augment_params
from lwcl.data.cache.pixels import PixelStore
from lwcl.data.dataset import BrokenImage, ImageSet
from lwcl.data.decode_and_crop import CropBatch, CropDataset
from lwcl.data.workers import load_in_workers
from lwcl.methods.method import Batch
from lwcl.models.loaded import InputSpec
from lwcl.rng import epoch_permutation
from lwcl.system import distributed
from lwcl.system.compute import Compute


class Teacher(Protocol):
    """Who says what each view shows; see `lwcl.training.teacher`."""

    @property
    def crops(self) -> int:
        """So many crops of an image are all there are; 0: every epoch has new ones."""

    @property
    def sees(self) -> InputSpec | None:
        """How it takes views; None where its answers are stored, or do not depend on the view."""

    def answer(self, crop: int, index: Tensor, seen: Tensor | None) -> Tensor:
        """What it says of the `crop`-th crop of the images at `index` (B,), `seen` as it takes them: (B, D) float32."""


@dataclass(frozen=True, kw_only=True)
class Loader:
    """Training batches: `views` random views of each image, in a new order every epoch; no last, short batch.

    The views are crops, numbered over all epochs: view v of epoch e is crop e x views + v.
    """

    images: ImageSet
    store: PixelStore | None  # None: images are decoded each time they are needed
    short_side: int | None = (
        None  # pixels below which an image that is decoded anew must not come; None: it comes whole
    )
    augmentation: Augmentation
    takes: InputSpec  # side and statistics of the views
    views: int
    batch_size: int  # over all processes
    seed: int
    compute: Compute
    workers: int = 0
    broken: Callable[[BrokenImage], None]  # hears of images that had to be replaced
    teacher: Teacher | None = None
    views_by: str = "tensor"  # or "opencv"; see `make_views`

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch."""
        return len(self.images) // self.batch_size

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """The batches of steps `start` to `stop` (counted over all epochs); this process's share of each."""
        for crops, index, sides in self.from_store(start, stop) if self.store else self.decoded(start, stop):
            taught = []
            for place, crop in enumerate(crops if self.teacher else ()):
                assert self.teacher
                taught.append(self.teacher.answer(crop, index, sides[1][place] if self.teacher.sees else None))
            yield Batch(tuple(sides[0]), index, self.images.labels[index], tuple(taught))

    def places(self, start: int, stop: int) -> Iterator[tuple[list[int], Tensor]]:
        """For each step the numbers of its crops, and the positions of its images in the set."""
        for step in range(start, stop):
            epoch, place = divmod(step, self.steps_per_epoch)
            if place == 0 or step == start:
                order = epoch_permutation(len(self.images), self.seed, epoch)
            share = order[place * self.batch_size : (place + 1) * self.batch_size]
            most = self.teacher.crops if self.teacher else 0
            crops = [epoch * self.views + view for view in range(self.views)]
            yield (
                [crop % most if most else crop for crop in crops],
                share.tensor_split(distributed.world_size())[distributed.rank()],
            )

    @property
    def taken(self) -> list[InputSpec]:
        """Who takes each crop: the student, and the teacher where it is asked."""
        sees = self.teacher.sees if self.teacher else None
        return [self.takes, sees] if sees else [self.takes]

    def from_store(self, start: int, stop: int) -> Iterator[tuple[list[int], Tensor, list[list[Tensor]]]]:
        """Crops made of stored images: their numbers, the images' positions, and for each who takes them, the views."""
        for crops, index in self.places(start, stop):
            yield crops, index, [[self.stored_view(crop, index, takes) for crop in crops] for takes in self.taken]

    def stored_view(self, crop: int, index: Tensor, takes: InputSpec) -> Tensor:
        """The `crop`-th crop of the stored images at `index` (B,) as views (B, 3, size, size)."""
        assert self.store is not None
        images, heights, widths = self.store.batch(index)
        draw = self.draw(crop, index, heights, widths, takes.size)
        return make_views(self.compute.send(images), draw, takes.size, **self.finish(takes))

    def decoded(self, start: int, stop: int) -> Iterator[tuple[list[int], Tensor, list[list[Tensor]]]]:
        """As `from_store`, of crops that worker processes cut from images that they decode."""
        taken, (places, ahead) = self.taken, itertools.tee(self.places(start, stop))  # workers are a few batches ahead
        batches = ([(crops, int(i)) for i in index] for crops, index in ahead)
        for (crops, index), cut in zip(places, self.cuts(taken, batches, self.workers), strict=True):
            yield crops, index, [self.cut_views(crops, index, cut, side, takes) for side, takes in enumerate(taken)]

    def cuts(
        self, taken: list[InputSpec], batches: Iterable[list[tuple[list[int], int]]], workers: int
    ) -> Iterator[CropBatch]:
        """The crops that these take of the images of each batch, which are decoded now; broken ones are told."""
        draw = functools.partial(self.draw, size=self.takes.size)
        for cut in load_in_workers(
            CropDataset(self.images, draw, [takes.size for takes in taken], self.short_side), batches, workers
        ):
            for bad in cut.broken:
                self.broken(bad)
            yield cut

    def cut_views(self, crops: list[int], index: Tensor, cut: CropBatch, side: int, takes: InputSpec) -> list[Tensor]:
        """The views (B, 3, size, size) of crops that were cut at the size of the `side`-th who takes them."""
        views = []
        for crop, pixels in zip(crops, cut.crops[side], strict=True):
            draw = self.draw(crop, index, cut.heights, cut.widths, takes.size)
            views.append(make_views_from_crops(self.compute.send(pixels), draw, **self.finish(takes)))
        return views

    def view(self, crop: int, index: Tensor, takes: InputSpec) -> Tensor:
        """The `crop`-th crop of the images at `index` (B,), stored or decoded now: (B, 3, size, size)."""
        if self.store:
            return self.stored_view(crop, index, takes)
        cut = next(self.cuts([takes], [[([crop], int(i)) for i in index]], 0))
        return self.cut_views([crop], index, cut, 0, takes)[0]

    def draw(self, crop: int, index: Tensor, heights: Tensor, widths: Tensor, size: int) -> AugmentParams:
        """What happens to the images at `index` in their `crop`-th crop, seen at `size` pixels."""
        epoch, view = divmod(crop, self.views)
        return sample_augment_params(
            self.augmentation,
            size=size,
            seed=self.seed,
            epoch=epoch,
            view=view,
            index=index,
            heights=heights,
            widths=widths,
        )

    def finish(self, takes: InputSpec) -> "ViewFormat":
        """How views are normalised and laid out."""
        return {
            "mean": takes.mean,
            "std": takes.std,
            "channels_last": self.compute.channels_last,
            "by": self.views_by,
            "threads": max(1, self.workers),
        }


class ViewFormat(TypedDict):
    """How views are normalised and laid out."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels_last: bool
    by: str
    threads: int
