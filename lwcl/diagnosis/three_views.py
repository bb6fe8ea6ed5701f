"""Three views of each image, a center crop and two random ones, and an encoder's features of them.

ssl-small's static set (arXiv 2107.14762, `sample-augs.py`) is the same three views on disk; here they are made on
demand, and depend on the seed, the image's position and its size alone.
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
from lwcl.data.augment.views import (
    make_views_from_crops,
    normalise_images,
    sample_augment_params,
    shown_views,
)
from lwcl.data.cache.policy import CACHED_SIDE_RATIO
from lwcl.data.copies import pixel_hashes
from lwcl.data.dataset import BrokenImage, ImageSet, as_input
from lwcl.data.decode import center_crop
from lwcl.data.workers import load_in_workers
from lwcl.evaluation.evaluator import BatchCache, check_features_finite
from lwcl.methods.method import Batch
from lwcl.models.loaded import InputSpec, LoadedEncoder
from lwcl.system.compute import Compute

RANDOM_VIEWS = (1, 2)  # numbers of the random views; the center crop is view 0


class ImageViews(NamedTuple):
    """One image's views before colour and blur, each (C, size, size)."""

    plain: Tensor
    crops: list[Tensor]
    sides: tuple[int, int]  # height and width of the image
    broken: list[BrokenImage]


class ViewBatch(NamedTuple):
    """A batch of B images."""

    positions: Tensor  # (B,) int64
    plain: Tensor  # (B, C, size, size)
    crops: tuple[Tensor, ...]  # of the two random views, the same
    params: tuple[AugmentParams, ...]


class ViewFeatures(NamedTuple):
    """The backbone's features of the plain images and of their two random views, each (N, D) float32."""

    plain: Tensor
    first: Tensor
    second: Tensor


class ViewsDataset(Dataset[ImageViews]):
    """Item i: the three views of image i."""

    def __init__(self, images: ImageSet, spec: InputSpec, augmentation: Augmentation, seed: int) -> None:
        self.images, self.spec = as_input(images, spec.pixel_format), spec
        self._sample = functools.partial(
            sample_augment_params, augmentation, size=spec.size, seed=seed, epoch=0, channels=spec.pixel_format.channels
        )

    def __getitem__(self, position: int) -> ImageViews:
        size = self.spec.size
        image, broken = self.images.readable_image(position, round(CACHED_SIDE_RATIO * size))
        plain = center_crop(image, size, crop_pct=self.spec.crop_pct)
        crops = []
        for view in RANDOM_VIEWS:
            params = self.params(view, torch.tensor([position]), torch.tensor([[image.height, image.width]]))
            crops.append(crop_with_pillow(image, params.boxes[0].tolist(), bool(params.flip[0]), size))
        pixels = [torch.from_numpy(view.copy()).permute(2, 0, 1) for view in (plain, *crops)]
        return ImageViews(pixels[0], pixels[1:], (image.height, image.width), broken)

    def params(self, view: int, positions: Tensor, sides: Tensor) -> AugmentParams:
        """The augmentation in a view of the images at `positions` (B,) with height and width `sides` (B, 2)."""
        return self._sample(view=view, index=positions, heights=sides[:, 0], widths=sides[:, 1])


class ThreeViews:
    """The images of a diagnosis in three views, in order; decoded once for all encoders if memory allows."""

    def __init__(
        self, dataset: ViewsDataset, *, batch_size: int, workers: int, broken: Callable[[BrokenImage], None]
    ) -> None:
        self.dataset, self.batch_size, self.workers, self.broken = dataset, batch_size, workers, broken
        self.boxes = torch.empty(len(RANDOM_VIEWS), len(dataset.images), 4, dtype=torch.int64)  # after the first pass
        self.hashes: list[bytes] = []  # of the plain views, after the first pass
        self._cache: BatchCache[ViewBatch] = BatchCache()

    def batches(self) -> Iterator[ViewBatch]:
        """All images, batch by batch."""
        return self._cache.batches(
            "views",
            3 * self.dataset.spec.pixel_format.bytes * self.dataset.spec.size**2 * len(self.dataset.images),
            self._decode,
        )

    def _decode(self) -> Iterator[ViewBatch]:
        positions = [part.tolist() for part in torch.split(torch.arange(len(self.dataset.images)), self.batch_size)]
        for part, items in zip(positions, load_in_workers(self.dataset, positions, self.workers), strict=True):
            for broken in (broken for item in items for broken in item.broken):
                self.broken(broken)
            batch = self.collate(part, items)
            self.hashes[part[0] :] = pixel_hashes(batch.plain)
            self.boxes[:, part] = torch.stack([params.boxes for params in batch.params])
            yield batch

    def collate(self, positions: Sequence[int], items: Sequence[ImageViews]) -> ViewBatch:
        """A batch of the images at `positions`."""
        index, sides = torch.tensor(positions), torch.tensor([item.sides for item in items])
        crops = tuple(torch.stack([item.crops[n] for item in items]) for n in range(len(RANDOM_VIEWS)))
        params = tuple(self.dataset.params(view, index, sides) for view in RANDOM_VIEWS)
        return ViewBatch(index, torch.stack([item.plain for item in items]), crops, params)

    def samples(self, spec: InputSpec, count: int) -> list[list[NDArray[numpy.uint8]]]:
        """Some images, evenly spaced, each in its three views as the encoder sees them: uint8 (size, size, 3)."""
        total = len(self.dataset.images)
        positions = torch.linspace(0, total - 1, min(count, total)).long().tolist()
        batch = self.collate(positions, [self.dataset[position] for position in positions])
        views = torch.stack(self.normalised(batch, spec, Compute(torch.device("cpu"))), 1)
        pixels = shown_views(views, spec).permute(0, 1, 3, 4, 2)
        return [list(row) for row in pixels.numpy()]

    def normalised(self, batch: ViewBatch, spec: InputSpec, compute: Compute) -> list[Tensor]:
        """The three views of a batch as input of an encoder: float32 (B, C, size, size), normalised."""
        layout: dict[str, Any] = {**spec.normalisation, "channels_last": compute.channels_last}
        random = [
            make_views_from_crops(crops.to(compute.device), params, **layout)
            for crops, params in zip(batch.crops, batch.params, strict=True)
        ]
        return [normalise_images(batch.plain.to(compute.device), **layout), *random]

    def features(self, loaded: LoadedEncoder, compute: Compute, advance: Callable[[int], None]) -> ViewFeatures:
        """An encoder's features. Raises `TrainingDivergedError` if they are not finite."""
        encoder, total = compute.place(loaded.encoder), len(self.dataset.images)
        features = ViewFeatures(*(torch.empty(total, encoder.width) for _ in ViewFeatures._fields))
        for batch in self.batches():
            positions, count = batch.positions, len(batch.positions)
            unlabelled = torch.full_like(positions, -1)
            for rows, view in zip(features, self.normalised(batch, loaded.input_spec, compute), strict=True):
                rows[positions] = engine.extract_features(
                    encoder, [Batch((view,), positions, unlabelled)], compute, count
                )
            advance(count)
        check_features_finite(loaded.name, *features)
        return features
