"""A worse camera: what is done to an RGB image so that a student sees less than its teacher."""

from collections.abc import Callable
from io import BytesIO

import numpy as np
from PIL import Image, ImageFilter

from lwcl.data.band_image import BandImage, Picture
from lwcl.errors import UsageError

ONE_CHANNEL = ("gray", "edges")
LIMITS = {"gray": (0, 0), "edges": (0, 0), "jpeg": (1, 95), "size": (4, 16_384)}  # of the number of a step


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    """The image as it comes back from a JPEG file of this quality, 1 to 95."""
    file = BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def as_small(image: Image.Image, side: int) -> Image.Image:
    """The image of a sensor with `side` pixels across its short side, enlarged again."""
    scale = side / min(image.size)
    if scale >= 1:
        return image
    small = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BOX)
    return small.resize(image.size, Image.Resampling.BILINEAR)


def as_edges(image: Image.Image, _: int) -> Image.Image:
    """The largest difference of a pixel's brightness to its neighbours', by Pillow's FIND_EDGES."""
    return image.convert("L").filter(ImageFilter.FIND_EDGES)


STEPS: dict[str, Callable[[Image.Image, int], Image.Image]] = {
    "jpeg": as_jpeg,
    "size": as_small,
    "gray": lambda image, _: image.convert("L"),
    "edges": as_edges,
}


def parse_student_view(text: str) -> tuple[tuple[str, int], ...]:
    """The steps of a `--student-view`, such as `size:32+jpeg:10`: names and numbers. Raises `UsageError`."""
    steps: list[tuple[str, int]] = []
    for part in text.split("+"):
        name, _, number = part.strip().partition(":")
        least, most = LIMITS.get(name, (1, 0))
        value = int(number) if number.isdecimal() else 0
        last = any(known in ONE_CHANNEL for known, _ in steps)
        if last or not least <= value <= most or (number == "") != (most == 0):
            remedy = "Give gray, edges, jpeg:QUALITY (1 to 95), size:PIXELS, or several by +, gray or edges last."
            raise UsageError(f"--student-view: got {text!r}.", remedy=remedy)
        steps.append((name, value))
    return tuple(steps)


def degrade(image: Image.Image, steps: str) -> Picture:
    """An RGB image after the steps of a `--student-view`: RGB, or one channel after `gray` or `edges`."""
    for name, number in parse_student_view(steps):
        image = STEPS[name](image, number)
    return image if image.mode == "RGB" else BandImage(np.asarray(image)[:, :, None])
