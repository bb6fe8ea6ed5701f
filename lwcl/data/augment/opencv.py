"""Augmentation by OpenCV (Apache-2.0): on a CPU only, image by image, in uint8.

Crops have the same bits as those of `apply`. Operations round to uint8, as Pillow's do, where `colour` keeps floats,
and hues have 256 levels: on average a pixel differs by half a level of 255. Speed: benchmarks/views.py.
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

HUE_LEVELS = 256  # of hue in uint8
LUMA_FLOATS = LUMA_WEIGHTS.tolist()

ImageArray = npt.NDArray[np.uint8]  # (s, s, 3)
ImageOperation = tuple[Callable[[ImageArray, Any], Any], Any]  # a function and its second argument
ImageCropper = Callable[[int], ImageArray]  # the scaled, perhaps flipped, crop of an image, given its row


@torch_threads(1)
@torch.inference_mode()
def apply_augmentations_opencv(
    crop: ImageCropper,
    params: AugmentParams,
    views: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    threads: int = 1,
) -> Tensor:
    """Fills `views` (B, 3, s, s), on the CPU, as `apply_augmentations` does: crops, augments and normalises.

    The bits of a view depend neither on the batch nor on the number of threads.
    """
    cv2.setNumThreads(1)  # threads are used for images, not within one
    size = views.shape[-1]
    operations = operations_per_image(params, size)
    average = torch.tensor([MAX_PIXEL_VALUE * value for value in mean]).repeat(size)
    scale = torch.tensor([1 / (MAX_PIXEL_VALUE * value) for value in std]).repeat(size)

    def fill(part: Tensor, start: int) -> None:
        pixels = np.empty((len(part), size, size, 3), np.uint8)
        # All crops first: switching between torch and OpenCV for each image takes a tenth longer.
        for row, image in enumerate([crop(row) for row in range(start, start + len(part))]):
            for operation, amount in operations[start + row]:
                image = operation(image, amount)
            pixels[row] = image
        # Rows of s x 3 numbers: long enough for vector instructions.
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


def cropper_of_images(images: Tensor, params: AugmentParams, size: int) -> ImageCropper:
    """Crops and scales uint8 images (B, 3, H, W), and flips some: the same bits as `crop_uint8`.

    Scaling is fastest on contiguous channels_last memory, so each box is first copied.
    """
    pixels = images.permute(0, 2, 3, 1).numpy()
    boxes, flips = params.boxes.tolist(), params.flip.tolist()

    def crop(row: int) -> ImageArray:
        top, left, height, width = boxes[row]
        part = np.ascontiguousarray(pixels[row, top : top + height, left : left + width])
        batch = torch.from_numpy(part)[None].permute(0, 3, 1, 2)
        scaled: Any = F.interpolate(batch, (size, size), mode="bilinear", antialias=True)[0].permute(1, 2, 0).numpy()
        flipped: ImageArray = cv2.flip(scaled, 1) if flips[row] else scaled
        return flipped

    return crop


def reader_of_crops(crops: Tensor) -> ImageCropper:
    """Reads crops that are already scaled and flipped: uint8 (B, 3, s, s)."""
    pixels: Any = crops.permute(0, 2, 3, 1).numpy()
    return lambda row: np.ascontiguousarray(pixels[row])


def operations_per_image(params: AugmentParams, size: int) -> list[list[ImageOperation]]:
    """The operations on the crop of each of B images, in order, without those that change nothing."""
    amounts = [
        *params.factors[:, :2].T.tolist(),
        saturation_matrices(params.factors[:, 2]),
        hue_offsets(params.factors[:, 3], size),
    ]
    changes = (params.factors != IDENTITY_FACTORS).tolist()
    kernels = blur_kernels(params.sigma, size)
    operations: list[list[ImageOperation]] = []
    for row, (order, gray) in enumerate(zip(params.order.tolist(), params.gray.tolist(), strict=True)):
        own: list[ImageOperation] = [
            (OPENCV_JITTER_OPERATIONS[which], amounts[which][row]) for which in order if changes[row][which]
        ]
        own += [(to_grayscale, None)] * gray
        own += [(gaussian_blur, kernel) for kernel in kernels[row]]
        operations.append(own)
    return operations


def saturation_matrices(factors: Tensor) -> npt.NDArray[np.float32]:
    """Colour matrices (n, 3, 3) that blend each pixel with its luma: factor x identity + (1 - factor) x luma."""
    gray = (1 - factors)[:, None, None] * LUMA_WEIGHTS
    matrices: npt.NDArray[np.float32] = (gray + factors[:, None, None] * torch.eye(3)).numpy()
    return matrices


def hue_offsets(factors: Tensor, size: int) -> npt.NDArray[np.uint8]:
    """Offsets (n, 3 size) to add to a row of `size` pixels (hue, saturation, value), in levels of hue."""
    rows = torch.zeros(len(factors), size, 3, dtype=torch.uint8)
    rows[:, :, 0] = torch.round(factors * HUE_LEVELS).remainder(HUE_LEVELS).to(torch.uint8)[:, None]
    offsets: npt.NDArray[np.uint8] = rows.flatten(1).numpy()
    return offsets


def blur_kernels(sigmas: Tensor, size: int) -> list[list[npt.NDArray[np.float32]]]:
    """The blur kernel of each image, both halves of `half_kernels`; an empty list for none."""
    halves = half_kernels(sigmas, size - 1)
    reaches = kernel_radii(sigmas).clamp_max(size - 1).tolist()
    both = torch.cat([halves.flip(1), halves[:, 1:]], 1).numpy()
    middle = halves.shape[1] - 1
    return [
        [kernel[middle - reach : middle + reach + 1]] * bool(reach) for kernel, reach in zip(both, reaches, strict=True)
    ]


def adjust_brightness(pixels: ImageArray, factor: float) -> Any:
    """Multiplies and clamps (torchvision `adjust_brightness`)."""
    return cv2.convertScaleAbs(pixels, alpha=factor)


def adjust_contrast(pixels: ImageArray, factor: float) -> Any:
    """Blends with the mean luma of the image and clamps (torchvision `adjust_contrast`)."""
    gray = sum(luma * mean for luma, mean in zip(LUMA_FLOATS, cv2.mean(pixels), strict=False))
    return cv2.addWeighted(pixels, factor, pixels, 0, (1 - factor) * gray)


def adjust_saturation(pixels: ImageArray, matrix: npt.NDArray[np.float32]) -> Any:
    """Blends each pixel with its luma and clamps (torchvision `adjust_saturation`)."""
    return cv2.transform(pixels, matrix)


def adjust_hue(pixels: ImageArray, row: npt.NDArray[np.uint8]) -> Any:
    """Shifts the hue, in HSV of uint8 (torchvision `adjust_hue` on Pillow images)."""
    hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV_FULL)
    rows = hsv.reshape(len(hsv), -1)
    np.add(rows, row, out=rows)  # uint8 wraps around, and so does hue
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def to_grayscale(pixels: ImageArray, _: None) -> Any:
    """Converts to grayscale (torchvision `rgb_to_grayscale` with three channels)."""
    return cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def gaussian_blur(pixels: ImageArray, kernel: npt.NDArray[np.float32]) -> Any:
    """Blurs, reflecting borders."""
    return cv2.sepFilter2D(pixels, -1, kernel, kernel, borderType=cv2.BORDER_REFLECT_101)


OPENCV_JITTER_OPERATIONS = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
