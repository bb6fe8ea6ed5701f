"""The views a network sees: their parameters drawn for a whole batch at once, then applied to a batch of uint8 images.

Semantics of torchvision's RandomResizedCrop, RandomHorizontalFlip, ColorJitter, RandomGrayscale and GaussianBlur, as
MoCo v2 (arXiv 2003.04297) puts them together; randomness by `lwcl.data.draws`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import permutations
from typing import NamedTuple

import torch
from torch import Tensor

from lwcl.augmentation import Augmentation
from lwcl.data.blur import blur_, radii, sides
from lwcl.data.colour import NEUTRAL, WHITE, amounts, draw_factors, gray_, jitter_
from lwcl.data.crops import TRIES, crop_exact, crop_rounded, draw_boxes
from lwcl.data.draws import uniform

ORDERS = tuple(permutations(range(4)))
CHUNK = 1 << 18  # numbers worked on at once, 1 MiB of float32: small enough for the cache, large enough for few calls

Crop = Callable[[list[int], Tensor], None]  # writes the crops of some images, in [0, 255], into (n, 3, size, size)


class ViewDraw(NamedTuple):
    """What happens to each of B images; all tensors lie on the CPU and have B rows."""

    boxes: Tensor  # (B, 4) int64: top, left, height, width of the crop in pixels of the source
    flip: Tensor  # (B,) bool: mirrored
    jitter: Tensor  # (B,) bool: colours are changed
    order: Tensor  # (B, 4) int64: 0 brightness, 1 contrast, 2 saturation, 3 hue, in the order they are applied
    factors: Tensor  # (B, 4) float32: brightness, contrast, saturation, hue; 1, 1, 1, 0 where they change nothing
    gray: Tensor  # (B,) bool
    sigma: Tensor  # (B,) float32: of the blur, in pixels of the view; 0 for none

    def rows(self, index: Tensor | slice) -> "ViewDraw":
        """The draw of some of the images."""
        return ViewDraw(*(column[index] for column in self))


def draw_views(
    augmentation: Augmentation,
    *,
    size: int,
    seed: int,
    epoch: int,
    view: int,
    index: Tensor,
    heights: Tensor,
    widths: Tensor,
) -> ViewDraw:
    """What happens to the images at `index` (B,), of `heights` and `widths` (B,) pixels, in a view of `size` pixels.

    A pure function of the settings, (seed, epoch, view), and each image's index, height and width.
    """
    numbers = uniform(seed, epoch, view, index.cpu(), 2 * TRIES + 12)
    crops, others, factors = torch.split(numbers, [2 * TRIES + 2, 6, 4], 1)
    flip, jitter, order, gray, blur, sigma = others.unbind(1)
    jittered = jitter < augmentation.jitter_p
    blurred = blur < augmentation.blur_p
    sigmas = augmentation.blur_min + sigma * (augmentation.blur_max - augmentation.blur_min)
    return ViewDraw(
        boxes=draw_boxes(augmentation, crops, heights.cpu(), widths.cpu()),
        flip=flip < augmentation.flip_p,
        jitter=jittered,
        order=torch.tensor(ORDERS)[(order * len(ORDERS)).to(torch.int64)],
        factors=draw_factors(augmentation, factors, jittered),
        gray=gray < augmentation.gray_p,
        sigma=torch.where(blurred, sigmas * (size / 224), 0).float(),
    )


def apply_views(
    images: Tensor,
    draw: ViewDraw,
    size: int,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    exact: bool = False,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
) -> Tensor:
    """The views of uint8 `images` (B, 3, H, W), padded below and right if need be: normalised (B, 3, size, size).

    They are made on the images' device. On a CPU crops are rounded to uint8, as Pillow rounds them, and an image's
    view has the same bits in whatever batch it comes; with `exact`, and elsewhere, crops are float32 matrix products,
    and the last bits may depend on the batch. Images with their channels last in memory are cropped faster.
    """

    def crop_each(rows: list[int], into: Tensor) -> None:
        for row, place in zip(rows, torch.split(into, 1), strict=True):
            part = crop_rounded(images[row : row + 1], boxes[row], size)
            place.copy_(part.flip(3) if flips[row] else part)

    def crop_all(rows: list[int], into: Tensor) -> None:
        index = torch.tensor(rows)
        box, flip = draw.boxes[index].to(images.device), draw.flip[index].to(images.device)
        into.copy_(crop_exact(images[index.to(images.device)], box, flip, size))

    boxes, flips = draw.boxes.tolist(), draw.flip.tolist()
    crop = crop_all if exact or images.device.type != "cpu" else crop_each
    return painted(crop, draw, empty_views(images, len(images), size, dtype, channels_last), mean, std)


def colour_and_blur(
    crops: Tensor,
    draw: ViewDraw,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
) -> Tensor:
    """The views (B, 3, s, s), normalised, of crops that are cut, scaled and flipped: uint8, or float in [0, 1]."""

    def crop(rows: list[int], into: Tensor) -> None:
        for place, row in enumerate(rows):
            into[place].copy_(crops[row])
        if crops.is_floating_point():
            into.mul_(WHITE)

    return painted(crop, draw, empty_views(crops, len(crops), crops.shape[-1], dtype, channels_last), mean, std)


def plain_views(
    images: Tensor,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
) -> Tensor:
    """Images (B, 3, s, s) uint8 as they are, normalised."""
    views = empty_views(images, len(images), images.shape[-1], dtype, channels_last)
    average, deviation = (torch.tensor(v, device=images.device)[:, None, None] * WHITE for v in (mean, std))
    return views.copy_((images - average) / deviation)


def empty_views(like: Tensor, count: int, size: int, dtype: torch.dtype, channels_last: bool) -> Tensor:
    """Memory for `count` views on the device of `like`."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty((count, 3, size, size), dtype=dtype, device=like.device, memory_format=layout)


@contextmanager
def one_thread() -> Iterator[None]:
    """Computes on one CPU thread: at this size of work a second gains nothing, and waiting for it costs up to tenfold on
    a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@one_thread()
@torch.inference_mode()
def painted(crop: Crop, draw: ViewDraw, views: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Fills `views` (B, 3, s, s): crops, colours, grays, blurs and normalises a chunk of images at a time."""
    average = torch.tensor([WHITE * value for value in mean], device=views.device)[:, None, None]
    scale = torch.tensor([1 / (WHITE * value) for value in std], device=views.device)[:, None, None]
    # Jittered images first, those of the same order of operations together.
    rows = torch.argsort(torch.where(draw.jitter, draw.order @ torch.tensor([64, 16, 4, 1]), 256), stable=True)
    paint = painter(draw.rows(rows), views)
    step = max(1, CHUNK // views[0].numel()) if views.device.type == "cpu" else len(views)
    each, start = views.unbind(), 0
    for part in torch.split(rows, step):
        pixels = torch.empty((len(part), *views.shape[1:]), device=views.device)
        crop(part.tolist(), pixels)
        paint(pixels, start)
        pixels.sub_(average).mul_(scale)
        torch._foreach_copy_([each[row] for row in part.tolist()], pixels.unbind())
        start += step
    return views


def painter(draw: ViewDraw, views: Tensor) -> Callable[[Tensor, int], None]:
    """What jitters, grays and blurs float images (n, 3, s, s) in place: the n images of the draw from a given one.

    All that is computed for an image's sake, not for its pixels', is computed here, once for the batch.
    """
    orders = draw.order[draw.jitter].tolist()
    skipped = (draw.factors == NEUTRAL).all(0).nonzero()[:, 0].tolist()
    table = amounts(draw.factors).to(views.device)
    kernels = sides(draw.sigma, views.shape[-1] - 1).to(views.device)
    grays, reaches = draw.gray.tolist(), radii(draw.sigma).clamp_max(kernels.shape[1] - 1).tolist()

    def paint(pixels: Tensor, start: int) -> None:
        stop, flat = start + len(pixels), pixels.flatten(2)
        jittered = len(orders[start:stop])
        if jittered:
            jitter_(flat[:jittered], orders[start:stop], table[start : start + jittered], skipped)
        change_(flat, [i for i, gray in enumerate(grays[start:stop]) if gray], gray_)
        for reach in sorted(set(reaches[start:stop]) - {0}):
            alike = [i for i, own in enumerate(reaches[start:stop]) if own == reach]
            change_(pixels, alike, blur_, kernels[start:stop, : reach + 1])

    return paint


def change_(pixels: Tensor, chosen: list[int], change: Callable[..., None], *columns: Tensor) -> None:
    """Changes the chosen images in place; `change` gets them, contiguous, and their rows of the columns."""
    if len(chosen) == len(pixels):
        change(pixels, *columns)
    elif chosen:
        index = torch.tensor(chosen, device=pixels.device)
        some = pixels[index]
        change(some, *(column[index] for column in columns))
        pixels[index] = some
