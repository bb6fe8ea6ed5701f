"""Crops scaled to a view by antialiased bilinear interpolation, as in Pillow and torchvision; in three ways.

`crop_uint8` (CPU, torch's vectorised kernel), `crop_float32` (any device, as matrix products) and `crop_with_pillow`
(for worker processes that decode). Tests check that they agree.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from lwcl.config.augmentation import Augmentation
from lwcl.data.band_image import Array, Picture

FAST_CHANNELS = 4  # at most, of images that torch scales by vector instructions
CROP_ATTEMPTS = 10  # before the center crop is used, as in torchvision


def sample_crop_boxes(augmentation: Augmentation, numbers: Tensor, heights: Tensor, widths: Tensor) -> Tensor:
    """The boxes (B, 4) of torchvision's RandomResizedCrop from uniform `numbers` (B, 2 `CROP_ATTEMPTS` + 2).

    Top, left, height and width. Area uniform, aspect ratio log-uniform; the first attempt that fits the image, else the
    largest centred box of an allowed ratio.
    """
    areas, ratios = numbers[:, :CROP_ATTEMPTS], numbers[:, CROP_ATTEMPTS : 2 * CROP_ATTEMPTS]
    high, wide = heights[:, None].double(), widths[:, None].double()
    areas = high * wide * (augmentation.crop_min + areas * (augmentation.crop_max - augmentation.crop_min))
    ratios = torch.exp((2 * ratios - 1) * math.log(augmentation.aspect))
    tried_widths, tried_heights = (areas * ratios).sqrt().round(), (areas / ratios).sqrt().round()
    fits = (tried_widths > 0) & (tried_widths <= wide) & (tried_heights > 0) & (tried_heights <= high)
    first, found = fits.int().argmax(1, keepdim=True), fits.any(1, keepdim=True)
    height = torch.where(found, tried_heights.gather(1, first), high.minimum((wide * augmentation.aspect).round()))
    width = torch.where(found, tried_widths.gather(1, first), wide.minimum((high * augmentation.aspect).round()))
    spare = torch.cat([high - height, wide - width], 1)
    corners = torch.where(found, (numbers[:, -2:] * (spare + 1)).floor(), (spare / 2).floor())
    return torch.cat([corners, height, width], 1).to(torch.int64)


def crop_uint8(image: Tensor, box: Sequence[int], size: int) -> Tensor:
    """The box of a uint8 image (1, C, H, W) on the CPU, scaled to (1, C, size, size) uint8: within 1 of Pillow.

    Fixed-point arithmetic. An image that is channels_last in memory is scaled two to three times as fast; more channels
    than four are scaled four at a time.
    """
    top, left, height, width = box
    part = image[:, :, top : top + height, left : left + width]
    if (channels := part.shape[1]) <= FAST_CHANNELS:
        return F.interpolate(part, (size, size), mode="bilinear", antialias=True)
    padded = F.pad(part[0].permute(1, 2, 0), (0, -channels % FAST_CHANNELS))
    groups = padded.reshape(height, width, -1, FAST_CHANNELS).permute(2, 3, 0, 1)
    fast = groups.contiguous(memory_format=torch.channels_last)  # a third of the time, and the same bits
    return F.interpolate(fast, (size, size), mode="bilinear", antialias=True).flatten(0, 1)[None, :channels]


def crop_deep(image: Tensor, box: Sequence[int], size: int) -> Tensor:
    """As `crop_uint8`, of uint16, in float32."""
    top, left, height, width = box
    part = image[:, :, top : top + height, left : left + width]
    return F.interpolate(part.float(), (size, size), mode="bilinear", antialias=True)


def resize_matrices(starts: Tensor, lengths: Tensor, source: int, size: int) -> Tensor:
    """The matrices (n, size, source) that scale `lengths` (n,) pixels from `starts` (n,) to `size` pixels.

    Rows sum to 1: a triangle filter as wide as the larger of a source and a target pixel, centred on the target pixel,
    cut off at the box.
    """
    scale = lengths.to(torch.float64)[:, None, None] / size
    centre = (torch.arange(size, device=starts.device) + 0.5)[:, None] * scale
    place = torch.arange(source, device=starts.device) - starts[:, None, None]
    weights = (1 - ((place + 0.5 - centre) / scale.clamp_min(1)).abs()).clamp_min_(0)
    weights = weights * ((place >= 0) & (place < lengths[:, None, None]))
    return weights / weights.sum(2, keepdim=True)


def crop_float32(images: Tensor, boxes: Tensor, flips: Tensor, size: int) -> Tensor:
    """The boxes (n, 4) of images (n, C, H, W), scaled to float32 (n, C, size, size), some flipped.

    Two batched matrix products; the flip is a reversed matrix. `boxes` are (top, left, height, width), `flips` (n,)
    bool, all on one device. Within 1e-5 of torchvision's `resized_crop` on floats in [0, 1]; an image's last bits may
    depend on the batch.
    """
    rows = resize_matrices(boxes[:, 0], boxes[:, 2], images.shape[2], size)
    columns = resize_matrices(boxes[:, 1], boxes[:, 3], images.shape[3], size)
    columns = torch.where(flips[:, None, None], columns.flip(1), columns)
    return rows[:, None].float() @ (images.float() @ columns[:, None].float().mT)


def crop_with_pillow(image: Picture, box: Sequence[int], flip: bool, size: int) -> Array:
    """The box (top, left, height, width) of an image, scaled by Pillow, perhaps flipped: (size, size, channels)."""
    top, left, height, width = box
    scaled = image.crop((left, top, left + width, top + height)).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(scaled.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else scaled)
