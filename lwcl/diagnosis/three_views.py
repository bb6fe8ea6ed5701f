"""Each image seen three times, plain and in two random views, and an encoder's features of them: what is diagnosed.

ssl-small's static set (arXiv 2107.14762, `sample-augs.py`) is the same three views on disk; here they are made as they
are needed, and follow from the seed, the image's place and its size alone.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from lwcl import engine
from lwcl.config.augmentation import Augmentation
from lwcl.data.augment.apply import AugmentParams
from lwcl.data.augment.crops import crop_with_pillow
from lwcl.data.augment.views import make_views_from_crops, normalise_images, sample_augment_params
from lwcl.data.cache.policy import available_memory
from lwcl.data.dataset import BrokenImage, ImageSet
from lwcl.data.decode import center_crop
from lwcl.data.workers import load_in_workers
from lwcl.errors import TrainingDivergedError
from lwcl.methods.method import Batch
from lwcl.metrics.health import all_finite
from lwcl.models.loaded import InputSpec, LoadedEncoder
from lwcl.system.compute import Compute

#: A decoded image's short side, in sides of a view: a crop of a fifth of its area has 0.8 of a view's pixels across.
DECODE_SCALE = 1.75
#: For keeping decoded views for the next encoder: at most this share of what is available, and so many bytes.
THREE_VIEWS_CACHE_SHARE, MAX_CACHE_BYTES = 0.25, 2**29
RANDOM_VIEWS = (1, 2)  # of the two random views; the plain one is view 0


class ImageViews(NamedTuple):
    """One image's views before colour and blur, each uint8 (3, size, size); its height and width; broken images met."""

    plain: Tensor
    crops: list[Tensor]
    sides: tuple[int, int]
    broken: list[BrokenImage]


class ViewBatch(NamedTuple):
    """A batch of B images: plain and cropped uint8 (B, 3, size, size), and what happens in the two random views."""

    places: Tensor
    plain: Tensor
    crops: tuple[Tensor, ...]
    draws: tuple[AugmentParams, ...]


class ViewFeatures(NamedTuple):
    """The backbone's features of the plain images and of their two views, each (N, D) float32."""

    plain: Tensor
    first: Tensor
    second: Tensor


class ViewsDataset(Dataset[ImageViews]):
    """Item i: the three views of image i."""

    def __init__(self, images: ImageSet, takes: InputSpec, augmentation: Augmentation, seed: int) -> None:
        self.images, self.takes = images, takes
        self.draw = functools.partial(sample_augment_params, augmentation, size=takes.size, seed=seed, epoch=0)

    def __getitem__(self, position: int) -> ImageViews:
        size = self.takes.size
        image, broken = self.images.good_image(position, round(DECODE_SCALE * size))
        plain = center_crop(image, size, crop_pct=self.takes.crop_pct)
        crops = []
        for view in RANDOM_VIEWS:
            draw = self.drawn(view, torch.tensor([position]), torch.tensor([[image.height, image.width]]))
            crops.append(crop_with_pillow(image, draw.boxes[0].tolist(), bool(draw.flip[0]), size))
        pixels = [torch.from_numpy(one.copy()).permute(2, 0, 1) for one in (plain, *crops)]
        return ImageViews(pixels[0], pixels[1:], (image.height, image.width), broken)

    def drawn(self, view: int, index: Tensor, sides: Tensor) -> AugmentParams:
        """What happens in a view to the images at `index` (B,) of height and width `sides` (B, 2)."""
        return self.draw(view=view, index=index, heights=sides[:, 0], widths=sides[:, 1])


class ThreeViews:
    """The images of a diagnosis in their three views, in order; kept for the next encoder if memory allows."""

    def __init__(
        self, sights: ViewsDataset, *, batch_size: int, workers: int, broken: Callable[[BrokenImage], None]
    ) -> None:
        self.sights, self.batch_size, self.workers, self.broken = sights, batch_size, workers, broken
        self.boxes = torch.empty(
            len(RANDOM_VIEWS), 0, 4, dtype=torch.int64
        )  # of the two random views, after the first pass
        self._kept: list[ViewBatch] = []

    def __len__(self) -> int:
        return len(self.sights.images)

    def batches(self) -> Iterator[ViewBatch]:
        """All images, batch by batch."""
        if self._kept:
            yield from self._kept
            return
        needed, boxes = 9 * self.sights.takes.size**2 * len(self), []
        fits, kept = needed < min(MAX_CACHE_BYTES, THREE_VIEWS_CACHE_SHARE * available_memory()), []
        for seen in self.decoded():
            boxes.append(torch.stack([draw.boxes for draw in seen.draws]))
            if fits:
                kept.append(seen)
            yield seen
        self._kept, self.boxes = kept, torch.cat(boxes, 1)

    def decoded(self) -> Iterator[ViewBatch]:
        """The batches, decoded anew."""
        places = [part.tolist() for part in torch.split(torch.arange(len(self)), self.batch_size)]
        for place, items in zip(places, load_in_workers(self.sights, places, self.workers), strict=True):
            for bad in (bad for item in items for bad in item.broken):
                self.broken(bad)
            yield self.together(place, items)

    def together(self, places: Sequence[int], items: Sequence[ImageViews]) -> ViewBatch:
        """A batch of the images at `places`."""
        index, sides = torch.tensor(places), torch.tensor([item.sides for item in items])
        crops = tuple(torch.stack([item.crops[n] for item in items]) for n in range(len(RANDOM_VIEWS)))
        draws = tuple(self.sights.drawn(view, index, sides) for view in RANDOM_VIEWS)
        return ViewBatch(index, torch.stack([item.plain for item in items]), crops, draws)

    def samples(self, takes: InputSpec, count: int) -> list[list[NDArray[numpy.uint8]]]:
        """Some images, evenly spaced, each plain and in its two views, as the network sees them: (size, size, 3)."""
        places = torch.linspace(0, len(self) - 1, min(count, len(self))).long().tolist()
        seen = self.together(places, [self.sights[place] for place in places])
        mean, std = (torch.tensor(value)[:, None, None] for value in (takes.mean, takes.std))
        views = torch.stack(self.as_seen(seen, takes, Compute(torch.device("cpu"))), 1)
        pixels = (views * std + mean).clamp(0, 1).mul(255).round().to(torch.uint8).permute(0, 1, 3, 4, 2)
        return [list(row) for row in pixels.numpy()]

    def as_seen(self, seen: ViewBatch, takes: InputSpec, compute: Compute) -> list[Tensor]:
        """The three views of a batch as an encoder takes them: float32 (B, 3, size, size), normalised."""
        how: dict[str, Any] = {"mean": takes.mean, "std": takes.std, "channels_last": compute.channels_last}
        pairs = zip(seen.crops, seen.draws, strict=True)
        views = [make_views_from_crops(crops.to(compute.device), draw, **how) for crops, draw in pairs]
        return [normalise_images(seen.plain.to(compute.device), **how), *views]

    def features(self, loaded: LoadedEncoder, compute: Compute, advance: Callable[[int], None]) -> ViewFeatures:
        """An encoder's features. Raises `TrainingDivergedError` if they are not finite."""
        encoder = compute.place(loaded.encoder)
        found = ViewFeatures(*(torch.empty(len(self), encoder.width) for _ in ViewFeatures._fields))
        for seen in self.batches():
            unknown, count = torch.full_like(seen.places, -1), len(seen.places)
            for rows, view in zip(found, self.as_seen(seen, loaded.input_spec, compute), strict=True):
                rows[seen.places] = engine.embed(encoder, [Batch((view,), seen.places, unknown)], compute, count)
            advance(count)
        if not all(all_finite(rows) for rows in found):
            raise TrainingDivergedError(
                f"{loaded.name}: features are not finite, so there is nothing to diagnose.",
                "Weights are damaged, or training diverged.",
                "Train again with a lower --lr, or give another checkpoint.",
            )
        return found
