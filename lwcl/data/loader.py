"""Batches: which images, in which order, seen how; all follows from (seed, epoch, index), so they begin at any step.

Decoded images come from a `Store`; without one, worker processes decode and crop, and only colour and blur are done
on whole batches here.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lwcl import world
from lwcl.augmentation import Augmentation
from lwcl.data.crops import crop_with_pillow
from lwcl.data.decode import plain_view
from lwcl.data.draws import epoch_order
from lwcl.data.images import Broken, ImageSet
from lwcl.data.store import Store
from lwcl.data.views import apply_views, colour_and_blur, draw_views, plain_views
from lwcl.data.workers import workers_over
from lwcl.engine import Compute
from lwcl.method import Batch
from lwcl.weights import Images


@dataclass(frozen=True, kw_only=True)
class Loader:
    """Training batches: `views` random views of each image, in a new order every epoch; no last, short batch."""

    images: ImageSet
    store: Store | None  # None: images are decoded each time they are needed
    augmentation: Augmentation
    takes: Images  # side and statistics of the views
    views: int
    batch_size: int  # over all processes
    seed: int
    compute: Compute
    workers: int = 0
    broken: Callable[[Broken], None]  # hears of images that had to be replaced

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch."""
        return len(self.images) // self.batch_size

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """The batches of steps `start` to `stop` (counted over all epochs); this process's share of each."""
        raw = self.from_store(start, stop) if self.store else self.decoded(start, stop)
        for _, index, views in raw:
            yield Batch(tuple(views), index, self.images.labels[index])

    def places(self, start: int, stop: int) -> Iterator[tuple[int, Tensor]]:
        """For each step its epoch and the positions of its images in the set."""
        for step in range(start, stop):
            epoch, place = divmod(step, self.steps_per_epoch)
            if place == 0 or step == start:
                order = epoch_order(len(self.images), self.seed, epoch)
            share = order[place * self.batch_size : (place + 1) * self.batch_size]
            yield epoch, share.tensor_split(world.size())[world.rank()]

    def from_store(self, start: int, stop: int) -> Iterator[tuple[int, Tensor, list[Tensor]]]:
        """Views made of stored images."""
        assert self.store is not None
        for epoch, index in self.places(start, stop):
            images, heights, widths = self.store.batch(index)
            images = images.to(self.compute.device, non_blocking=True)
            draws = (self.draw(epoch, view, index, heights, widths) for view in range(self.views))
            yield epoch, index, [apply_views(images, draw, self.takes.size, **self.finish) for draw in draws]

    def decoded(self, start: int, stop: int) -> Iterator[tuple[int, Tensor, list[Tensor]]]:
        """Views whose crops worker processes cut from images that they decode."""
        crops = Crops(self)
        places = list(self.places(start, stop))
        batches = [[(epoch, int(i)) for i in index] for epoch, index in places]
        found = workers_over(crops, batches, self.workers)
        for (epoch, index), items in zip(places, found, strict=True):
            heights, widths = (torch.tensor([item[1][side] for item in items]) for side in (0, 1))
            for item in items:
                for bad in item[2]:
                    self.broken(bad)
            views = []
            for view in range(self.views):
                pixels = torch.stack([item[0][view] for item in items]).to(self.compute.device, non_blocking=True)
                views.append(colour_and_blur(pixels, self.draw(epoch, view, index, heights, widths), **self.finish))
            yield epoch, index, views

    def draw(self, epoch: int, view: int, index: Tensor, heights: Tensor, widths: Tensor) -> Any:
        """What happens to the images at `index` in a view."""
        return draw_views(
            self.augmentation,
            size=self.takes.size,
            seed=self.seed,
            epoch=epoch,
            view=view,
            index=index,
            heights=heights,
            widths=widths,
        )

    @property
    def finish(self) -> dict[str, Any]:
        """How views are normalised and laid out."""
        return {"mean": self.takes.mean, "std": self.takes.std, "channels_last": self.compute.channels_last}


class Cut(NamedTuple):
    """One image's crops, each uint8 (3, size, size), its height and width, and the broken images met."""

    crops: list[Tensor]
    size: tuple[int, int]
    broken: list[Broken]


class Crops(Dataset[Cut]):
    """Item (epoch, index): the image's crops for all its views."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def __getitem__(self, place: tuple[int, int]) -> Cut:
        epoch, position = place
        loader, index = self.loader, torch.tensor([place[1]])
        image, broken = loader.images.good_image(position)
        sides = torch.tensor([image.height]), torch.tensor([image.width])
        crops = []
        for view in range(loader.views):
            draw = loader.draw(epoch, view, index, *sides)
            crop = crop_with_pillow(image, draw.boxes[0].tolist(), bool(draw.flip[0]), loader.takes.size)
            crops.append(torch.from_numpy(crop.copy()).permute(2, 0, 1))
        return Cut(crops, (image.height, image.width), broken)


class Plain(Dataset[tuple[Tensor, list[Broken]]]):
    """Item i: the judging view of image i, uint8 (3, size, size), and the broken images met."""

    def __init__(self, images: ImageSet, takes: Images) -> None:
        self.images, self.takes = images, takes

    def __getitem__(self, index: int) -> tuple[Tensor, list[Broken]]:
        image, broken = self.images.good_image(index, round(self.takes.size / self.takes.crop_pct))
        view = plain_view(image, self.takes.size, crop_pct=self.takes.crop_pct)
        return torch.from_numpy(view.copy()).permute(2, 0, 1), broken


def plain_pixels(
    images: ImageSet, takes: Images, *, batch_size: int, workers: int, broken: Callable[[Broken], None]
) -> Iterator[Tensor]:
    """The judging views of all images in order, in batches of uint8 (B, 3, size, size)."""
    batches = torch.split(torch.arange(len(images)), batch_size)
    for items in workers_over(Plain(images, takes), [batch.tolist() for batch in batches], workers):
        for _, bad in items:
            for each in bad:
                broken(each)
        yield torch.stack([pixels for pixels, _ in items])


def plain_batches(
    pixels: Iterator[Tensor] | Sequence[Tensor], labels: Tensor, takes: Images, compute: Compute
) -> Iterator[Batch]:
    """Batches for judging from uint8 pixels in the order of `labels` (N,)."""
    done = 0
    for part in pixels:
        index = torch.arange(done, done + len(part))
        done += len(part)
        view = plain_views(
            part.to(compute.device, non_blocking=True),
            mean=takes.mean,
            std=takes.std,
            channels_last=compute.channels_last,
        )
        yield Batch((view,), index, labels[index])
