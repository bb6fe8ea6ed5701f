"""Crops of images that are decoded each time they are needed, cut in worker processes, a batch at a time."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lwcl.data.augment.apply import AugmentParams
from lwcl.data.augment.crops import crop_with_pillow
from lwcl.data.band_image import Picture
from lwcl.data.dataset import BrokenImage, ImageSet
from lwcl.data.frames import Frames

MAX_PENDING_PIXELS = 1 << 24  # of images that are decoded and not yet cropped: 48 MiB

Request = tuple[Sequence[int], int]  # numbers of crops, and the position of an image in the data set


class ParamSampler(Protocol):
    """The augmentation parameters of a crop of the images at `index` (B,), of these sides (B,)."""

    def __call__(self, crop: int, index: Tensor, heights: Tensor, widths: Tensor) -> AugmentParams: ...


class StartSampler(Protocol):
    """The first frames (B,) of a crop's clips of the videos at `index` (B,), which have `counts` (B,) frames."""

    def __call__(self, crop: int, index: Tensor, counts: Tensor) -> Tensor: ...


class DecodedImage(NamedTuple):
    """An image, its position in the data set, and the broken images that it replaces."""

    position: int
    image: Picture
    broken: list[BrokenImage]


class CropBatch(NamedTuple):
    """The crops of a batch of images, uint8 or uint16, channels last in memory; sides of the images; broken images."""

    crops: dict[int, Tensor]  # by size: (views cut at this size, B, C, size, size); of clips (..., T, C, size, size)
    views: Mapping[int, Sequence[int]]  # by size: these views
    heights: Tensor  # (B,)
    widths: Tensor
    broken: list[BrokenImage]

    def of_view(self, view: int, size: int) -> Tensor:
        """The crops of a view at a size: (B, C, size, size)."""
        return self.crops[size][self.views[size].index(view)]


class CropDataset(Dataset[CropBatch]):
    """Crops of a batch of requests, which all ask for the same crops; `views` lists, by size, which are cut at it.

    JPEG files are decoded at 1/2, 1/4 or 1/8 of their size if their short side stays at least `short_side` pixels;
    None: at full size. A batch is processed as a whole: sampling parameters costs as much for one image as for many,
    and so does sending the result.
    """

    def __init__(
        self,
        images: ImageSet,
        params: ParamSampler,
        views: Mapping[int, Sequence[int]],
        short_side: int | None,
        starts: StartSampler,
    ) -> None:
        self.images, self.params, self.views, self.short_side, self.starts = images, params, views, short_side, starts

    def __getitems__(self, requests: list[Request]) -> CropBatch:
        done: list[CropBatch] = []
        pending: list[DecodedImage] = []
        pixels = 0
        for count, (crops, position) in enumerate(requests, 1):
            pending.append(DecodedImage(position, *self.images.readable_image(position, self.short_side)))
            image = pending[-1].image
            pixels += image.height * image.width * (len(image) if isinstance(image, Frames) else 1)
            if pixels >= MAX_PENDING_PIXELS or count == len(requests):
                done.append(self.cut(crops, pending))
                pending, pixels = [], 0
        crops_by_size = {
            size: torch.cat([batch.crops[size].movedim(-3, -1) for batch in done], 1).movedim(-1, -3)
            for size in self.views
        }
        heights, widths = torch.cat([batch.heights for batch in done]), torch.cat([batch.widths for batch in done])
        return CropBatch(crops_by_size, self.views, heights, widths, [broken for b in done for broken in b.broken])

    def cut(self, crops: Sequence[int], images: list[DecodedImage]) -> CropBatch:
        """The crops of a few images."""
        rows = [(decoded.position, decoded.image.height, decoded.image.width) for decoded in images]
        index, heights, widths = torch.tensor(rows).T
        sampled = [self.params(crop, index, heights, widths) for crop in crops]
        boxes = [list(zip(params.boxes.tolist(), params.flip.tolist(), strict=True)) for params in sampled]
        clips = [self.clips(crop, index, images) for crop in crops]
        crops_by_size, pixel_format = {}, self.images.pixel_format
        frames = (pixel_format.frames,) if pixel_format.frames else ()
        for size, views in self.views.items():
            shape = (len(views), len(images), *frames, size, size, pixel_format.channels)
            pixels = np.empty(shape, pixel_format.dtype)
            for row, place in np.ndindex(shape[:2]):
                pixels[row, place] = crop_with_pillow(clips[views[row]][place], *boxes[views[row]][place], size)
            crops_by_size[size] = torch.from_numpy(pixels).movedim(-1, -3)
        broken = [broken for decoded in images for broken in decoded.broken]
        return CropBatch(crops_by_size, self.views, heights, widths, broken)

    def clips(self, crop: int, index: Tensor, images: list[DecodedImage]) -> list[Picture]:
        """What a crop is cut out of: the images, or of videos its clips."""
        whole = [decoded.image for decoded in images]
        videos = [image for image in whole if isinstance(image, Frames)]
        if not videos:
            return whole
        starts = self.starts(crop, index, torch.tensor([len(video) for video in videos]))
        frames = self.images.pixel_format.frames
        return [video.clip(frames, start) for video, start in zip(videos, starts.tolist(), strict=True)]
