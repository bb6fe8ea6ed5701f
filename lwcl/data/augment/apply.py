"""Crops to views: jitters, grays, blurs and normalises a batch in pieces that fit a core's cache, as a draw says."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lwcl.data.augment.blur import gaussian_blur_, half_kernels, kernel_radii
from lwcl.data.augment.colour import (
    IDENTITY_FACTORS,
    MAX_PIXEL_VALUE,
    colour_jitter_,
    jitter_coefficients,
    to_grayscale_,
)
from lwcl.system.compute import torch_threads

CHUNK_ELEMENTS = (
    1 << 18
)  # numbers worked on at once, 1 MiB of float32: small enough for the cache, large enough for few calls

CropWriter = Callable[
    [list[int], Tensor], None
]  # writes the crops of some images, in [0, 255], into (n, 3, size, size)


class AugmentParams(NamedTuple):
    """What happens to each of B images; all tensors lie on the CPU and have B rows."""

    boxes: Tensor  # (B, 4) int64: top, left, height, width of the crop in pixels of the source
    flip: Tensor  # (B,) bool: mirrored
    jitter: Tensor  # (B,) bool: colours are changed
    order: Tensor  # (B, 4) int64: 0 brightness, 1 contrast, 2 saturation, 3 hue, in the order they are applied
    factors: Tensor  # (B, 4) float32: brightness, contrast, saturation, hue; 1, 1, 1, 0 where they change nothing
    gray: Tensor  # (B,) bool
    sigma: Tensor  # (B,) float32: of the blur, in pixels of the view; 0 for none

    def rows(self, index: Tensor | slice) -> "AugmentParams":
        """The draw of some of the images."""
        return AugmentParams(*(column[index] for column in self))


@torch_threads(1)  # for pieces this small a second thread gains nothing, and costs up to tenfold under load
@torch.inference_mode()
def apply_augmentations(
    crop: CropWriter, draw: AugmentParams, views: Tensor, mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """Fills `views` (B, 3, s, s): crops, colours, grays, blurs and normalises a chunk of images at a time."""
    average = torch.tensor([MAX_PIXEL_VALUE * value for value in mean], device=views.device)[:, None, None]
    scale = torch.tensor([1 / (MAX_PIXEL_VALUE * value) for value in std], device=views.device)[:, None, None]
    # Jittered images first, those of the same order of operations together.
    rows = torch.argsort(torch.where(draw.jitter, draw.order @ torch.tensor([64, 16, 4, 1]), 256), stable=True)
    paint = batch_augmenter(draw.rows(rows), views)
    step = max(1, CHUNK_ELEMENTS // views[0].numel()) if views.device.type == "cpu" else len(views)
    each, start = views.unbind(), 0
    for part in torch.split(rows, step):
        pixels = torch.empty((len(part), *views.shape[1:]), device=views.device)
        crop(part.tolist(), pixels)
        paint(pixels, start)
        pixels.sub_(average).mul_(scale)
        torch._foreach_copy_([each[row] for row in part.tolist()], pixels.unbind())
        start += step
    return views


def batch_augmenter(draw: AugmentParams, views: Tensor) -> Callable[[Tensor, int], None]:
    """What jitters, grays and blurs float images (n, 3, s, s) in place: the n images of the draw from a given one.

    All that is computed for an image's sake, not for its pixels', is computed here, once for the batch.
    """
    orders = draw.order[draw.jitter].tolist()
    skipped = (draw.factors == IDENTITY_FACTORS).all(0).nonzero()[:, 0].tolist()
    table = jitter_coefficients(draw.factors).to(views.device)
    kernels = half_kernels(draw.sigma, views.shape[-1] - 1).to(views.device)
    grays, reaches = draw.gray.tolist(), kernel_radii(draw.sigma).clamp_max(kernels.shape[1] - 1).tolist()

    def paint(pixels: Tensor, start: int) -> None:
        stop, flat = start + len(pixels), pixels.flatten(2)
        jittered = len(orders[start:stop])
        if jittered:
            colour_jitter_(flat[:jittered], orders[start:stop], table[start : start + jittered], skipped)
        apply_to_rows_(flat, [i for i, gray in enumerate(grays[start:stop]) if gray], to_grayscale_)
        for reach in sorted(set(reaches[start:stop]) - {0}):
            alike = [i for i, own in enumerate(reaches[start:stop]) if own == reach]
            apply_to_rows_(pixels, alike, gaussian_blur_, kernels[start:stop, : reach + 1])

    return paint


def apply_to_rows_(pixels: Tensor, chosen: list[int], change: Callable[..., None], *columns: Tensor) -> None:
    """Changes the chosen images in place; `change` gets them, contiguous, and their rows of the columns."""
    if len(chosen) == len(pixels):
        change(pixels, *columns)
    elif chosen:
        index = torch.tensor(chosen, device=pixels.device)
        some = pixels[index]
        change(some, *(column[index] for column in columns))
        pixels[index] = some
