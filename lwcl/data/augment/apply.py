"""From crops to views: colour jitter, grayscale, blur and normalisation, in chunks that fit a core's cache."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lwcl.data.augment.bands import drop_bands_, jitter_bands_
from lwcl.data.augment.blur import gaussian_blur_, half_kernels, kernel_radii
from lwcl.data.augment.colour import (
    IDENTITY_FACTORS,
    MAX_PIXEL_VALUE,
    colour_jitter_,
    jitter_coefficients,
    to_grayscale_,
)
from lwcl.system.compute import torch_threads

CHUNK_ELEMENTS = 1 << 18  # elements of a chunk: 1 MiB of float32 fits the cache and needs few calls

CropWriter = Callable[[list[int], Tensor], None]  # writes crops, in [0, 255], into (n, C, size, size)


class AugmentParams(NamedTuple):
    """The sampled augmentation of each of B images; all tensors are on the CPU and have B rows."""

    boxes: Tensor  # (B, 4) int64: top, left, height, width of the crop in pixels of the source
    flip: Tensor  # (B,) bool: flipped horizontally
    jitter: Tensor  # (B,) bool: colours are jittered
    order: Tensor  # (B, 4) int64: 0 brightness, 1 contrast, 2 saturation, 3 hue, in the order of application
    factors: Tensor  # (B, 4) float32: brightness, contrast, saturation, hue; 1, 1, 1, 0 without jitter
    gray: Tensor  # (B,) bool: converted to grayscale
    sigma: Tensor  # (B,) float32: of the blur, in pixels of the view; 0: none
    bands: Tensor  # (B, C, 2) float32: brightness and contrast of each channel; without channels for RGB
    dropped: Tensor  # (B,) int64: the channel that is replaced by its mean; -1: none

    def rows(self, index: Tensor | slice) -> "AugmentParams":
        """The parameters of some of the images."""
        return AugmentParams(*(column[index] for column in self))


def each_frame(pixels: Tensor, params: AugmentParams) -> tuple[Tensor, AugmentParams]:
    """The frames of clips (B, T, C, H, W) as images (B T, C, H, W), those of a clip with equal parameters.

    Images are returned as they are.
    """
    if pixels.ndim == 4:
        return pixels, params
    return pixels.flatten(0, 1), AugmentParams(*(column.repeat_interleave(pixels.shape[1], 0) for column in params))


@torch_threads(1)  # a second thread gains nothing on chunks this small
@torch.inference_mode()
def apply_augmentations(
    crop: CropWriter, params: AugmentParams, views: Tensor, mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """Fills `views` (B, C, s, s), a chunk of images at a time: crops, augments and normalises."""
    average = torch.tensor([MAX_PIXEL_VALUE * value for value in mean], device=views.device)[:, None, None]
    scale = torch.tensor([1 / (MAX_PIXEL_VALUE * value) for value in std], device=views.device)[:, None, None]
    # Jittered images first, sorted by the order of operations; see `colour_jitter_`.
    rows = torch.argsort(torch.where(params.jitter, params.order @ torch.tensor([64, 16, 4, 1]), 256), stable=True)
    augment = batch_augmenter(params.rows(rows), views)
    step = max(1, CHUNK_ELEMENTS // views[0].numel()) if views.device.type == "cpu" else len(views)
    each, start = views.unbind(), 0
    for part in torch.split(rows, step):
        pixels = torch.empty((len(part), *views.shape[1:]), device=views.device)
        crop(part.tolist(), pixels)
        augment(pixels, start)
        pixels.sub_(average).mul_(scale)
        torch._foreach_copy_([each[row] for row in part.tolist()], pixels.unbind())
        start += step
    return views


def batch_augmenter(params: AugmentParams, views: Tensor) -> Callable[[Tensor, int], None]:
    """A function that augments float images (n, C, s, s) in place: the n images from a given one on.

    What depends on an image but not on its pixels is computed here, once for the batch.
    """
    orders = params.order[params.jitter].tolist()
    skipped = (params.factors == IDENTITY_FACTORS).all(0).nonzero()[:, 0].tolist()
    table = jitter_coefficients(params.factors).to(views.device)
    kernels = half_kernels(params.sigma, views.shape[-1] - 1).to(views.device)
    bands = params.bands.to(views.device)
    grays, reaches = params.gray.tolist(), kernel_radii(params.sigma).clamp_max(kernels.shape[1] - 1).tolist()

    def augment(pixels: Tensor, start: int) -> None:
        stop, flat = start + len(pixels), pixels.flatten(2)
        jittered = len(orders[start:stop])
        if bands.shape[1]:
            jitter_bands_(flat[:jittered], bands[start : start + jittered])
            drop_bands_(flat, params.dropped[start:stop])
        elif jittered:
            colour_jitter_(flat[:jittered], orders[start:stop], table[start : start + jittered], skipped)
        gray_rows = [] if bands.shape[1] else [i for i, gray in enumerate(grays[start:stop]) if gray]
        apply_to_rows_(flat, gray_rows, to_grayscale_)
        for reach in sorted(set(reaches[start:stop]) - {0}):
            alike = [i for i, own in enumerate(reaches[start:stop]) if own == reach]
            apply_to_rows_(pixels, alike, gaussian_blur_, kernels[start:stop, : reach + 1])

    return augment


def apply_to_rows_(pixels: Tensor, chosen: list[int], change: Callable[..., None], *columns: Tensor) -> None:
    """Changes the chosen images in place; `change` gets them, contiguous, with their rows of the columns."""
    if len(chosen) == len(pixels):
        change(pixels, *columns)
    elif chosen:
        index = torch.tensor(chosen, device=pixels.device)
        some = pixels[index]
        change(some, *(column[index] for column in columns))
        pixels[index] = some
