"""Jitter of images that are not RGB: brightness and contrast of each channel, and channels replaced by their mean.

Saturation, hue and grayscale mean nothing there. Pixels as in `colour`; every operation rounds separately, so the bits
of an image do not depend on the batch.
"""

import torch
from torch import Tensor

from lwcl.config.augmentation import Augmentation
from lwcl.data.augment.colour import MAX_PIXEL_VALUE

FACTORS = 2  # of each channel: brightness and contrast
UNCHANGED = 1.0


def sample_band_factors(augmentation: Augmentation, numbers: Tensor, jittered: Tensor) -> Tensor:
    """Brightness and contrast of each channel (B, C, 2), from uniform `numbers` (B, 2 C), as ColorJitter's ranges.

    1 where `jittered` (B,) is false.
    """
    strength = torch.tensor([augmentation.brightness, augmentation.contrast], dtype=torch.float64)
    low = (UNCHANGED - strength).clamp_min(0)
    factors = low + numbers.view(len(numbers), -1, FACTORS) * (UNCHANGED + strength - low)
    return torch.where(jittered[:, None, None], factors, UNCHANGED).float()


def sample_dropped_bands(numbers: Tensor, dropped: Tensor, channels: int) -> Tensor:
    """The channel (B,) that is dropped, from uniform `numbers` (B,); -1 where `dropped` is false, or of one channel."""
    chosen = (numbers * channels).to(torch.int64)
    return torch.where(dropped & (channels > 1), chosen, -1)


def jitter_bands_(pixels: Tensor, factors: Tensor) -> None:
    """Brightness, then contrast about the channel's mean, both clamped: (n, C, P) by factors (n, C, 2)."""
    brightness, contrast = factors[:, :, None].unbind(3)
    pixels.mul_(brightness).clamp_(0, MAX_PIXEL_VALUE)
    gray = pixels.mean(2, keepdim=True).mul_(1 - contrast)
    pixels.mul_(contrast).add_(gray).clamp_(0, MAX_PIXEL_VALUE)


def drop_bands_(pixels: Tensor, dropped: Tensor) -> None:
    """Replaces the channel `dropped` (n,) of each image (n, C, P) by its mean; -1: none."""
    for row, channel in enumerate(dropped.tolist()):
        if channel >= 0:
            pixels[row, channel] = pixels[row, channel].mean()
