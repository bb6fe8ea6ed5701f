"""Colour jitter and grayscale for many images at once, in place, with torchvision's tensor semantics.

Pixels are float (n, 3, P) in [0, 255], P pixels of n images. Every operation rounds separately (no fused multiply-add),
so the bits of an image do not depend on the batch.
"""

from collections.abc import Collection, Sequence
from itertools import groupby

import torch
from torch import Tensor

from lwcl.config.augmentation import Augmentation

MAX_PIXEL_VALUE = 255.0
LUMA_WEIGHTS = torch.tensor([0.2989, 0.587, 0.114])  # ITU-R 601, as torchvision's rgb_to_grayscale
#: Offsets of red, green and blue from green, in sixths of the colour circle; see `hue_shifts`.
HUE_CHANNEL_OFFSETS = torch.tensor([2.0, 0.0, 4.0])
IDENTITY_FACTORS = torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64)  # factors that change nothing
MIN_FACTORS = torch.tensor([0.0, 0.0, 0.0, -0.5], dtype=torch.float64)
HUE_FULL_CIRCLE = torch.tensor([6.0, 0.0, 6.0])


def sample_jitter_factors(augmentation: Augmentation, numbers: Tensor, jittered: Tensor) -> Tensor:
    """The factors (B, 4) of the colour operations, from uniform `numbers` (B, 4), in the ranges of ColorJitter.

    `IDENTITY_FACTORS` where `jittered` (B,) is false.
    """
    strength = torch.tensor(
        [augmentation.brightness, augmentation.contrast, augmentation.saturation, augmentation.hue], dtype=torch.float64
    )
    low = (IDENTITY_FACTORS - strength).maximum(MIN_FACTORS)
    factors = low + numbers * (IDENTITY_FACTORS + strength - low)
    return torch.where(jittered[:, None], factors, IDENTITY_FACTORS).float()


def jitter_coefficients(factors: Tensor) -> Tensor:
    """The coefficients of the operations for factors (n, 4), for all images at once: (n, 4 operations, 4, 1).

    The factor, then one number per channel: for contrast and saturation the weights of the gray to blend in, luma times
    1 - factor; for hue the `hue_shifts`; for brightness unused.
    """
    weights = (1 - factors)[:, :, None] * LUMA_WEIGHTS.to(factors.device)
    weights[:, 3] = hue_shifts(factors[:, 3])
    return torch.cat([factors[:, :, None], weights], 2)[:, :, :, None]


def adjust_brightness_(pixels: Tensor, factor: Tensor, _: Tensor) -> None:
    """Multiplies by the factors and clamps (torchvision `adjust_brightness`)."""
    pixels.mul_(factor).clamp_(0, MAX_PIXEL_VALUE)


def adjust_contrast_(pixels: Tensor, factor: Tensor, weights: Tensor) -> None:
    """Blends with the mean luma of the image and clamps (torchvision `adjust_contrast`)."""
    gray = (pixels.mean(2, keepdim=True) * weights).sum(1, keepdim=True)
    pixels.mul_(factor).add_(gray).clamp_(0, MAX_PIXEL_VALUE)


def adjust_saturation_(pixels: Tensor, factor: Tensor, weights: Tensor) -> None:
    """Blends each pixel with its luma and clamps (torchvision `adjust_saturation`)."""
    gray = (pixels * weights).sum(1, keepdim=True)
    pixels.mul_(factor).add_(gray).clamp_(0, MAX_PIXEL_VALUE)


def adjust_hue_(pixels: Tensor, _: Tensor, shifts: Tensor) -> None:
    """Shifts the hue by a fraction of the colour circle in [-0.5, 0.5] (torchvision `adjust_hue`).

    Equal to a conversion to HSV and back, without divisions and branches. Let V and L be the largest and the smallest
    channel, C = V - L, and D the angle from green in sixths of the circle, positive towards blue. Then
    C |D| = R + B - G - L + C, with the sign of B - R; and a channel at the angle A from the shifted hue is
    clamp(| |C A| - 3 C | - C + L, L, V).
    """
    red, green, blue = torch.split(pixels, 1, 1)
    largest, smallest = pixels.amax(1, keepdim=True), pixels.amin(1, keepdim=True)
    chroma = largest - smallest
    floor = smallest - chroma
    angle = (red + blue).sub_(green).sub_(floor)
    angle.copysign_(blue - red)
    torch.mul(chroma, shifts, out=pixels)
    pixels.add_(angle).abs_().sub_(chroma.mul_(3)).abs_().add_(floor)
    torch.clamp(pixels, smallest, largest, out=pixels)


def hue_shifts(turns: Tensor) -> Tensor:
    """Distances, in sixths of the circle, of red, green and blue from the shifted hue of green: (n,) -> (n, 3).

    Red and blue are taken on the side of the circle from which no angle in `adjust_hue_` is farther than 7 sixths, the
    range in which its formula holds.
    """
    column = turns[:, None]
    return column * 6 + HUE_CHANNEL_OFFSETS.to(turns.device) - (column > 0) * HUE_FULL_CIRCLE.to(turns.device)


JITTER_OPERATIONS = (adjust_brightness_, adjust_contrast_, adjust_saturation_, adjust_hue_)


def colour_jitter_(
    pixels: Tensor, orders: Sequence[Sequence[int]], table: Tensor, skipped: Collection[int] = ()
) -> None:
    """Applies the operations, except those skipped, to each image in its own order; `table`: `jitter_coefficients`.

    Images must be sorted by their orders, so that those with the same next operation are neighbours: it runs once for
    all of them, then they are split by the operation that follows.
    """
    start = 0
    for operation, alike in groupby(order[0] for order in orders):
        stop = start + len(list(alike))
        part, rest = pixels[start:stop], [order[1:] for order in orders[start:stop]]
        if operation not in skipped:
            JITTER_OPERATIONS[operation](part, *torch.split(table[start:stop, operation], [1, 3], 1))
        if rest[0]:
            colour_jitter_(part, rest, table[start:stop], skipped)
        start = stop


def to_grayscale_(pixels: Tensor) -> None:
    """Converts to grayscale (torchvision `rgb_to_grayscale` with three channels)."""
    luma = (pixels * LUMA_WEIGHTS[:, None].to(pixels.device)).sum(1, keepdim=True)
    pixels.copy_(luma.expand_as(pixels))
