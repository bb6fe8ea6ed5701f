"""The second way to apply a draw, on a CPU only: OpenCV (Apache-2.0), an image at a time, in bytes.

Crops are the same bits as `paint`'s. Operations round to bytes, as Pillow's do, where `colour` keeps floats,
and hues turn in 256 steps: on average a view is half a level of 255 away. Its speed is measured by benchmarks/views.py.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from lwcl.data.augment.apply import CHUNK_ELEMENTS, AugmentParams
from lwcl.data.augment.blur import half_kernels, kernel_radii
from lwcl.data.augment.colour import IDENTITY_FACTORS, LUMA_WEIGHTS, MAX_PIXEL_VALUE
from lwcl.system.compute import torch_threads

HUE_LEVELS = 256  # of the colour circle in a byte
LUMA_FLOATS = LUMA_WEIGHTS.tolist()

ImageArray = npt.NDArray[np.uint8]  # (s, s, 3)
ImageOperation = tuple[Callable[[ImageArray, Any], Any], Any]  # an operation and its amount
ImageCropper = Callable[[int], ImageArray]  # cuts, scales and mirrors an image, given its row


@torch_threads(1)
@torch.inference_mode()
def apply_augmentations_opencv(
    crop: ImageCropper,
    draw: AugmentParams,
    views: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    threads: int = 1,
) -> Tensor:
    """Fills `views` (B, 3, s, s), on the CPU, as `paint.painted` does: crops, colours, grays, blurs, normalises.

    An image's view has the same bits in whatever batch it comes, and for any number of threads.
    """
    cv2.setNumThreads(1)  # threads are for images here, not within one
    size = views.shape[-1]
    strokes = operations_per_image(draw, size)
    average = torch.tensor([MAX_PIXEL_VALUE * value for value in mean]).repeat(size)
    scale = torch.tensor([1 / (MAX_PIXEL_VALUE * value) for value in std]).repeat(size)

    def fill(part: Tensor, start: int) -> None:
        pixels = np.empty((len(part), size, size, 3), np.uint8)
        # All crops first: going to and fro between torch and OpenCV for each image takes a tenth more.
        for row, painting in enumerate([crop(row) for row in range(start, start + len(part))]):
            for operation, amount in strokes[start + row]:
                painting = operation(painting, amount)
            pixels[row] = painting
        # Rows of s x 3 numbers, so that what is subtracted is as long as a vector.
        normal = torch.from_numpy(pixels).view(-1, size, 3 * size).float().sub_(average).mul_(scale)
        part.copy_(normal.view(-1, size, size, 3).permute(0, 3, 1, 2))

    parts = torch.split(views, max(1, CHUNK_ELEMENTS // views[0].numel()))
    starts = range(0, len(views), len(parts[0]))
    if threads == 1:
        for part, start in zip(parts, starts, strict=True):
            fill(part, start)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(fill, parts, starts))
    return views


def cropper_of_images(images: Tensor, draw: AugmentParams, size: int) -> ImageCropper:
    """What cuts and scales the boxes of uint8 images (B, 3, H, W), some mirrored: the same bits as `crop_uint8`.

    That is fastest on a part that is whole in memory, its channels last, so each part is first copied so.
    """
    pixels = images.permute(0, 2, 3, 1).numpy()
    boxes, flips = draw.boxes.tolist(), draw.flip.tolist()

    def crop(row: int) -> ImageArray:
        top, left, height, width = boxes[row]
        part = np.ascontiguousarray(pixels[row, top : top + height, left : left + width])
        batch = torch.from_numpy(part)[None].permute(0, 3, 1, 2)
        scaled: Any = F.interpolate(batch, (size, size), mode="bilinear", antialias=True)[0].permute(1, 2, 0).numpy()
        cut: ImageArray = cv2.flip(scaled, 1) if flips[row] else scaled
        return cut

    return crop


def reader_of_crops(crops: Tensor) -> ImageCropper:
    """What gives crops that are cut, scaled and mirrored: uint8 (B, 3, s, s)."""
    pixels: Any = crops.permute(0, 2, 3, 1).numpy()
    return lambda row: np.ascontiguousarray(pixels[row])


def operations_per_image(draw: AugmentParams, size: int) -> list[list[ImageOperation]]:
    """For each of B images what is done to its crop, in order; what would change nothing is left out."""
    amounts = [
        *draw.factors[:, :2].T.tolist(),
        saturation_matrices(draw.factors[:, 2]),
        hue_offsets(draw.factors[:, 3], size),
    ]
    changes = (draw.factors != IDENTITY_FACTORS).tolist()
    kernels = blur_kernels(draw.sigma, size)
    strokes: list[list[ImageOperation]] = []
    for row, (order, gray) in enumerate(zip(draw.order.tolist(), draw.gray.tolist(), strict=True)):
        own: list[ImageOperation] = [
            (OPENCV_JITTER_OPERATIONS[which], amounts[which][row]) for which in order if changes[row][which]
        ]
        own += [(to_grayscale, None)] * gray
        own += [(gaussian_blur, kernel) for kernel in kernels[row]]
        strokes.append(own)
    return strokes


def saturation_matrices(factors: Tensor) -> npt.NDArray[np.float32]:
    """The colour matrices (n, 3, 3) that blend each pixel with its gray: factor x identity + (1 - factor) x luma."""
    gray = (1 - factors)[:, None, None] * LUMA_WEIGHTS
    matrices: npt.NDArray[np.float32] = (gray + factors[:, None, None] * torch.eye(3)).numpy()
    return matrices


def hue_offsets(factors: Tensor, size: int) -> npt.NDArray[np.uint8]:
    """What is added to a row of `size` pixels (hue, saturation, value): (n, 3 size), the hue's share of `HUES`."""
    rows = torch.zeros(len(factors), size, 3, dtype=torch.uint8)
    rows[:, :, 0] = torch.round(factors * HUE_LEVELS).remainder(HUE_LEVELS).to(torch.uint8)[:, None]
    found: npt.NDArray[np.uint8] = rows.flatten(1).numpy()
    return found


def blur_kernels(sigmas: Tensor, size: int) -> list[list[npt.NDArray[np.float32]]]:
    """For each image its blur's kernel, the one of `blur.sides`, both sides of it; or none."""
    halves = half_kernels(sigmas, size - 1)
    reaches = kernel_radii(sigmas).clamp_max(size - 1).tolist()
    both = torch.cat([halves.flip(1), halves[:, 1:]], 1).numpy()
    middle = halves.shape[1] - 1
    return [
        [kernel[middle - reach : middle + reach + 1]] * bool(reach) for kernel, reach in zip(both, reaches, strict=True)
    ]


def adjust_brightness(pixels: ImageArray, factor: float) -> Any:
    """Multiplied and clamped (torchvision `adjust_brightness`)."""
    return cv2.convertScaleAbs(pixels, alpha=factor)


def adjust_contrast(pixels: ImageArray, factor: float) -> Any:
    """Blended with the image's mean gray and clamped (torchvision `adjust_contrast`)."""
    gray = sum(luma * mean for luma, mean in zip(LUMA_FLOATS, cv2.mean(pixels), strict=False))
    return cv2.addWeighted(pixels, factor, pixels, 0, (1 - factor) * gray)


def adjust_saturation(pixels: ImageArray, matrix: npt.NDArray[np.float32]) -> Any:
    """Each pixel blended with its gray and clamped (torchvision `adjust_saturation`)."""
    return cv2.transform(pixels, matrix)


def adjust_hue(pixels: ImageArray, row: npt.NDArray[np.uint8]) -> Any:
    """The hue turned, by way of HSV in bytes (torchvision `adjust_hue` on Pillow images)."""
    circle = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV_FULL)
    rows = circle.reshape(len(circle), -1)
    np.add(rows, row, out=rows)  # a byte wraps, and so does a hue
    return cv2.cvtColor(circle, cv2.COLOR_HSV2RGB_FULL)


def to_grayscale(pixels: ImageArray, _: None) -> Any:
    """Gray (torchvision `rgb_to_grayscale` with three channels)."""
    return cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def gaussian_blur(pixels: ImageArray, kernel: npt.NDArray[np.float32]) -> Any:
    """Blurred, borders reflected."""
    return cv2.sepFilter2D(pixels, -1, kernel, kernel, borderType=cv2.BORDER_REFLECT_101)


OPENCV_JITTER_OPERATIONS = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
