"""Crops of images that are decoded each time they are needed, cut in worker processes, a batch at a time."""

from typing import NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from lwcl.data.augment.apply import AugmentParams
from lwcl.data.augment.crops import crop_with_pillow
from lwcl.data.dataset import BrokenImage, ImageSet

MAX_PENDING_PIXELS = 1 << 24  # pixels of images that are decoded and not yet cut, after which they are: 48 MiB


class ParamSampler(Protocol):
    """What happens to the images at `index` (B,), of these sides (B,), in a crop."""

    def __call__(self, crop: int, index: Tensor, heights: Tensor, widths: Tensor) -> AugmentParams: ...


class DecodedImage(NamedTuple):
    """One image in RGB, where it is in the set, and the broken images that it stands for."""

    place: int
    image: Image.Image
    broken: list[BrokenImage]


class CropBatch(NamedTuple):
    """The crops of a batch's images, uint8 (crops, B, 3, size, size) for each size; the images' sides; the broken.

    Channels are last in memory.
    """

    crops: list[Tensor]
    heights: Tensor  # (B,)
    widths: Tensor
    broken: list[BrokenImage]


class CropDataset(Dataset[CropBatch]):
    """A batch of items (numbers of crops, index): these crops of the images, the same of each, at each of `sizes`.

    JPEG files are decoded at a half, a quarter or an eighth of their size if their short side stays `short_side` pixels
    long or more; None: whole.

    A batch is cut as a whole: drawing what happens costs as much for one image as for many, and so does sending it.
    """

    def __init__(self, images: ImageSet, draw: ParamSampler, sizes: list[int], short_side: int | None) -> None:
        self.images, self.draw, self.sizes, self.short_side = images, draw, sizes, short_side

    def __getitems__(self, places: list[tuple[list[int], int]]) -> CropBatch:
        done: list[CropBatch] = []
        waiting: list[DecodedImage] = []
        held = 0
        for number, (crops, index) in enumerate(places, 1):
            waiting.append(DecodedImage(index, *self.images.good_image(index, self.short_side)))
            held += waiting[-1].image.height * waiting[-1].image.width
            if held >= MAX_PENDING_PIXELS or number == len(places):
                done.append(self.cut(crops, waiting))
                waiting, held = [], 0
        sides = zip(*(cut.crops for cut in done), strict=True)
        crops_of = [torch.cat([crops.movedim(2, 4) for crops in same], 1).movedim(4, 2) for same in sides]
        heights, widths = torch.cat([cut.heights for cut in done]), torch.cat([cut.widths for cut in done])
        return CropBatch(crops_of, heights, widths, [bad for cut in done for bad in cut.broken])

    def cut(self, crops: list[int], found: list[DecodedImage]) -> CropBatch:
        """These crops of a few images."""
        index, heights, widths = torch.tensor([(each.place, each.image.height, each.image.width) for each in found]).T
        draws = [self.draw(crop, index, heights, widths) for crop in crops]
        boxes = [list(zip(draw.boxes.tolist(), draw.flip.tolist(), strict=True)) for draw in draws]
        sides = []
        for size in self.sizes:
            pixels = np.empty((len(crops), len(found), size, size, 3), np.uint8)
            for crop, place in np.ndindex(pixels.shape[:2]):
                pixels[crop, place] = crop_with_pillow(found[place].image, *boxes[crop][place], size)
            sides.append(torch.from_numpy(pixels).movedim(4, 2))
        return CropBatch(sides, heights, widths, [bad for each in found for bad in each.broken])
