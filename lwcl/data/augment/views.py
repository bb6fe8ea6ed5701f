"""Random views: parameters are sampled for a whole batch at once, then applied to a batch of uint8 images.

Semantics of torchvision's RandomResizedCrop, RandomHorizontalFlip, ColorJitter, RandomGrayscale and GaussianBlur, as
MoCo v2 (arXiv 2003.04297) combines them; random numbers by `lwcl.rng`.
"""

from collections.abc import Sequence
from itertools import permutations

import torch
from torch import Tensor

from lwcl.config.augmentation import Augmentation
from lwcl.data.augment.apply import AugmentParams, apply_augmentations
from lwcl.data.augment.colour import MAX_PIXEL_VALUE, sample_jitter_factors
from lwcl.data.augment.crops import CROP_ATTEMPTS, crop_float32, crop_uint8, sample_crop_boxes
from lwcl.rng import image_uniforms

JITTER_ORDERS = tuple(permutations(range(4)))


def sample_augment_params(
    augmentation: Augmentation,
    *,
    size: int,
    seed: int,
    epoch: int,
    view: int,
    index: Tensor,
    heights: Tensor,
    widths: Tensor,
) -> AugmentParams:
    """The parameters of a view of `size` pixels of the images at `index` (B,), of `heights` and `widths` (B,) pixels.

    A pure function of the settings, (seed, epoch, view), and each image's index, height and width.
    """
    numbers = image_uniforms(seed, epoch, view, index.cpu(), 2 * CROP_ATTEMPTS + 12)
    crops, others, factors = torch.split(numbers, [2 * CROP_ATTEMPTS + 2, 6, 4], 1)
    flip, jitter, order, gray, blur, sigma = others.unbind(1)
    jittered = jitter < augmentation.jitter_p
    blurred = blur < augmentation.blur_p
    sigmas = augmentation.blur_min + sigma * (augmentation.blur_max - augmentation.blur_min)
    return AugmentParams(
        boxes=sample_crop_boxes(augmentation, crops, heights.cpu(), widths.cpu()),
        flip=flip < augmentation.flip_p,
        jitter=jittered,
        order=torch.tensor(JITTER_ORDERS)[(order * len(JITTER_ORDERS)).to(torch.int64)],
        factors=sample_jitter_factors(augmentation, factors, jittered),
        gray=gray < augmentation.gray_p,
        sigma=torch.where(blurred, sigmas * (size / 224), 0).float(),
    )


def make_views(
    images: Tensor,
    params: AugmentParams,
    size: int,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    float_crops: bool = False,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    backend: str = "tensor",
    threads: int = 1,
) -> Tensor:
    """Normalised views (B, 3, size, size) of uint8 `images` (B, 3, H, W), which may be padded below and to the right.

    Computed on the images' device. On a CPU, crops are rounded to uint8 as by Pillow, and the bits of a view do not
    depend on the batch; with `float_crops`, and on other devices, they are float32 matrix products, whose rounding may.
    Images that are channels_last in memory are cropped faster. With `backend` "opencv" (CPU only), views are made image
    by image in `threads` threads; see `lwcl.data.augment.opencv`.
    """
    views = allocate_views(images, len(images), size, dtype, channels_last)
    if backend == "opencv":
        from lwcl.data.augment import opencv  # may not be installed

        cropper = opencv.cropper_of_images(images, params, size)
        return opencv.apply_augmentations_opencv(cropper, params, views, mean, std, threads)

    def crop_each(rows: list[int], into: Tensor) -> None:
        for row, place in zip(rows, torch.split(into, 1), strict=True):
            part = crop_uint8(images[row : row + 1], boxes[row], size)
            place.copy_(part.flip(3) if flips[row] else part)

    def crop_all(rows: list[int], into: Tensor) -> None:
        index = torch.tensor(rows)
        box, flip = params.boxes[index].to(images.device), params.flip[index].to(images.device)
        into.copy_(crop_float32(images[index.to(images.device)], box, flip, size))

    boxes, flips = params.boxes.tolist(), params.flip.tolist()
    crop = crop_all if float_crops or images.device.type != "cpu" else crop_each
    return apply_augmentations(crop, params, views, mean, std)


def make_views_from_crops(
    crops: Tensor,
    params: AugmentParams,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    channels_last: bool = False,
    backend: str = "tensor",
    threads: int = 1,
) -> Tensor:
    """Normalised views (B, 3, s, s) of crops that are already scaled and flipped: uint8, or float in [0, 1].

    With `backend` "opencv" (CPU only), uint8 crops only.
    """
    views = allocate_views(crops, len(crops), crops.shape[-1], torch.float32, channels_last)
    if backend == "opencv":
        from lwcl.data.augment import opencv  # may not be installed

        return opencv.apply_augmentations_opencv(opencv.reader_of_crops(crops), params, views, mean, std, threads)

    def crop(rows: list[int], into: Tensor) -> None:
        for place, row in enumerate(rows):
            into[place].copy_(crops[row])
        if crops.is_floating_point():
            into.mul_(MAX_PIXEL_VALUE)

    return apply_augmentations(crop, params, views, mean, std)


def normalise_images(
    images: Tensor, *, mean: Sequence[float], std: Sequence[float], channels_last: bool = False
) -> Tensor:
    """Normalised images (B, 3, s, s), from uint8."""
    views = allocate_views(images, len(images), images.shape[-1], torch.float32, channels_last)
    average, deviation = (torch.tensor(v, device=images.device)[:, None, None] * MAX_PIXEL_VALUE for v in (mean, std))
    return views.copy_((images - average) / deviation)


def denormalise_images(views: Tensor, *, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Normalised views (..., 3, s, s) as uint8 pixels on the CPU."""
    average, deviation = (torch.tensor(value)[:, None, None] for value in (mean, std))
    return (views.float().cpu() * deviation + average).clamp(0, 1).mul(255).round().to(torch.uint8)


def allocate_views(like: Tensor, count: int, size: int, dtype: torch.dtype, channels_last: bool) -> Tensor:
    """Memory for `count` views on the device of `like`."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty((count, 3, size, size), dtype=dtype, device=like.device, memory_format=layout)
