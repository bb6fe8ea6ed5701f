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
from lwcl.data.augment.bands import FACTORS, sample_band_factors, sample_dropped_bands
from lwcl.data.augment.colour import MAX_PIXEL_VALUE, sample_jitter_factors
from lwcl.data.augment.crops import CROP_ATTEMPTS, crop_deep, crop_float32, crop_uint8, sample_crop_boxes
from lwcl.models.loaded import InputSpec
from lwcl.models.pixel_format import shown_channels
from lwcl.rng import image_uniforms

LEVELS_OF_A_DEVIATION = 50  # of 255, in pictures of channels that are no colours
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
    channels: int = 3,
) -> AugmentParams:
    """The parameters of a view of `size` pixels of the images at `index` (B,), of `heights` and `widths` (B,) pixels.

    A pure function of the settings, (seed, epoch, view), and each image's index, height and width: crop, flip and blur
    are the same for any number of channels.
    """
    bands = 0 if channels == 3 else channels
    numbers = image_uniforms(seed, epoch, view, index.cpu(), 2 * CROP_ATTEMPTS + 13 + FACTORS * bands)
    crops, others, factors, per_band = torch.split(numbers, [2 * CROP_ATTEMPTS + 2, 6, 4, 1 + FACTORS * bands], 1)
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
        bands=sample_band_factors(augmentation, per_band[:, 1:], jittered),
        dropped=sample_dropped_bands(per_band[:, 0], gray < augmentation.gray_p, bands),
    )


def make_views(
    images: Tensor,
    params: AugmentParams,
    size: int,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    white: float = MAX_PIXEL_VALUE,
    float_crops: bool = False,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    backend: str = "tensor",
    threads: int = 1,
) -> Tensor:
    """Normalised views (B, C, size, size) of `images` (B, C, H, W), which may be padded below and to the right.

    `white` is the value of a pixel that becomes 1. Computed on the images' device. On a CPU, crops of uint8 are rounded
    to uint8 as by Pillow, those of uint16 stay float32, and the bits of a view do not depend on the batch; with
    `float_crops`, and on other devices, they are float32 matrix products, whose rounding may.
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
            part = crop(images[row : row + 1], boxes[row], size)
            place.copy_(part.flip(3) if flips[row] else part)
        scale_to_255(into, white)

    def crop_all(rows: list[int], into: Tensor) -> None:
        index = torch.tensor(rows)
        box, flip = params.boxes[index].to(images.device), params.flip[index].to(images.device)
        into.copy_(crop_float32(images[index.to(images.device)], box, flip, size))
        scale_to_255(into, white)

    boxes, flips = params.boxes.tolist(), params.flip.tolist()
    crop = crop_uint8 if images.dtype == torch.uint8 else crop_deep
    write = crop_all if float_crops or images.device.type != "cpu" else crop_each
    return apply_augmentations(write, params, views, mean, std)


def make_views_from_crops(
    crops: Tensor,
    params: AugmentParams,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    white: float = MAX_PIXEL_VALUE,
    channels_last: bool = False,
    backend: str = "tensor",
    threads: int = 1,
) -> Tensor:
    """Normalised views (B, C, s, s) of crops that are already scaled and flipped: integers, or float in [0, 1].

    With `backend` "opencv" (CPU only), uint8 crops only.
    """
    views = allocate_views(crops, len(crops), crops.shape[-1], torch.float32, channels_last)
    if backend == "opencv":
        from lwcl.data.augment import opencv  # may not be installed

        return opencv.apply_augmentations_opencv(opencv.reader_of_crops(crops), params, views, mean, std, threads)

    def crop(rows: list[int], into: Tensor) -> None:
        for place, row in enumerate(rows):
            into[place].copy_(crops[row])
        scale_to_255(into, 1.0 if crops.is_floating_point() else white)

    return apply_augmentations(crop, params, views, mean, std)


def normalise_images(
    images: Tensor,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    white: float = MAX_PIXEL_VALUE,
    channels_last: bool = False,
) -> Tensor:
    """Normalised images (B, C, s, s) or clips (B, T, C, s, s), from uint8 or uint16, whose value `white` becomes 1."""
    if images.ndim == 5:
        flat = normalise_images(images.flatten(0, 1), mean=mean, std=std, white=white, channels_last=channels_last)
        return torch.unflatten(flat, 0, images.shape[:2])
    views = allocate_views(images, len(images), images.shape[-1], torch.float32, channels_last)
    average, deviation = (torch.tensor(v, device=images.device)[:, None, None] * white for v in (mean, std))
    return views.copy_((images.float() - average) / deviation)


def denormalise_images(views: Tensor, *, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Normalised views (..., C, s, s) as uint8 pixels on the CPU."""
    average, deviation = (torch.tensor(value)[:, None, None] for value in (mean, std))
    return (views.float().cpu() * deviation + average).clamp(0, 1).mul(255).round().to(torch.uint8)


def shown_views(views: Tensor, input_spec: InputSpec) -> Tensor:
    """Normalised views (..., C, s, s) as pictures, uint8 RGB (..., 3, s, s) on the CPU; of clips the middle frame.

    Channels that are no colours are shown as such, by their deviation from the data's mean; see `shown_channels`.
    """
    if input_spec.pixel_format.frames:
        views = views[..., views.shape[-4] // 2, :, :, :]
    if input_spec.pixel_format.is_rgb:
        return denormalise_images(views, mean=input_spec.mean, std=input_spec.std)
    pixels = views.float().cpu() * LEVELS_OF_A_DEVIATION + MAX_PIXEL_VALUE / 2
    chosen = list(shown_channels(views.shape[-3]))
    return pixels[..., chosen, :, :].clamp(0, MAX_PIXEL_VALUE).round().to(torch.uint8)


def scale_to_255(pixels: Tensor, white: float) -> None:
    """Scales values in place, so that `white` becomes 255, the scale of augmentations."""
    if white != MAX_PIXEL_VALUE:
        pixels.mul_(MAX_PIXEL_VALUE / white)


def allocate_views(like: Tensor, count: int, size: int, dtype: torch.dtype, channels_last: bool) -> Tensor:
    """Memory for `count` views on the device of `like`, and with its channels."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty((count, like.shape[1], size, size), dtype=dtype, device=like.device, memory_format=layout)
