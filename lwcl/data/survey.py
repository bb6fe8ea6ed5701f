"""The pixel format of a data set: what its images hold, by a sample, and what the user says.

Nothing is dropped in silence: what the sample shows is said before anything starts, and each file of other channels,
bits or pages than the format's is refused like a broken one.
"""

import contextlib
import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from lwcl.config.clips import parse_clip
from lwcl.data.band_image import Array
from lwcl.data.decode import in_channels, load_pages
from lwcl.data.native import NativeImage
from lwcl.errors import DataError, UsageError
from lwcl.formatting import plural
from lwcl.models.pixel_format import PixelFormat

#: Suffixes of files that may hold more than 8-bit RGB; others are not looked into.
DEEP_SUFFIXES = (".png", ".tif", ".tiff", ".npy", ".npz")
SURVEYED_IMAGES = 32
BIT_DEPTHS = (8, 10, 12, 14, 16)  # of sensors, and of files
EIGHT_BIT, SIXTEEN_BIT = "uint8", "uint16"
LARGEST_STORED = 2**16 - 1


class Reading(NamedTuple):
    """What the user says of the images' pixels; as the settings of these names."""

    channels: str = "auto"
    bit_depth: int | None = None
    value_range: str = ""
    pages: str = "refuse"
    bands: str = ""
    clip: str = ""


def settle_pixel_format(images: Sequence[NativeImage], reading: Reading) -> tuple[PixelFormat, tuple[str, ...]]:
    """The format for images like these, and a sentence on it. Raises `DataError` where only the user can choose."""
    require_choice_of_pages(images, reading)
    wanted, bands = parse_channels(reading.channels)
    wanted = wanted or settled_channels(images, reading)
    for image in images:
        count = channels_of(image, reading)
        if not (count >= max(bands) or count == 1 if bands else fits(image, count, wanted)):
            taken = ",".join(map(str, range(1, min(count, wanted) + 1)))
            raise DataError(
                f"An image has {plural(count, 'channel')}, which --channels {reading.channels} does not fit.",
                "lwcl cannot know which ones you want.",
                f"Give --channels {count}, or the numbers of the bands to take, such as --channels {taken}.",
            )
    settled = settle_values(images, reading, PixelFormat(wanted, bands=bands, pages=reading.pages))
    return settled, () if settled == PixelFormat() else (f"Images are read as {settled.describe()}.",)


def clip_format(reading: Reading) -> PixelFormat:
    """The format of the clips, RGB for images. Raises `UsageError` for flags of images beside `--clip`."""
    frames, stride = parse_clip(reading.clip)
    usual = Reading(clip=reading.clip)
    if frames and reading != usual:
        name = next(name for name in Reading._fields if getattr(reading, name) != getattr(usual, name))
        flag = f"--{name.replace('_', '-')}"
        raise UsageError(f"{flag} is for images: videos are read as RGB.", remedy=f"Leave {flag} out.")
    return PixelFormat(frames=frames, stride=stride)


def require_choice_of_pages(images: Sequence[NativeImage], reading: Reading) -> None:
    """Raises `DataError` for images of several pages, unless the user says what they are."""
    several = [image for image in images if image.pages > 1]
    if several and reading.pages == "refuse":
        raise DataError(
            f"{share_of(several, images)} with several pages, such as one with {several[0].pages}.",
            "One page alone would drop the others.",
            "--pages first takes the first page of each, --pages channels takes each page as a channel.",
        )


def parse_channels(text: str) -> tuple[int, tuple[int, ...]]:
    """The value of `--channels`: a number of channels, or the bands to take; 0 for auto. Raises `UsageError`."""
    if text == "auto":
        return 0, ()
    numbers = [int(part) if part.strip().isdecimal() else 0 for part in text.split(",")]
    if min(numbers) < 1:
        raise UsageError(
            f"--channels: got {text!r}.",
            remedy="Give a number of channels (4), or the numbers of the bands to take, from 1 (4,3,2).",
        )
    return (numbers[0], ()) if len(numbers) == 1 else (len(numbers), tuple(numbers))


def share_of(some: Sequence[NativeImage], images: Sequence[NativeImage]) -> str:
    """How many images of the sample."""
    return f"{len(some)} of {plural(len(images), 'image')} looked at"


def channels_of(image: NativeImage, reading: Reading) -> int:
    """The channels of an image, of all its pages if these are channels."""
    return image.channels * (image.pages if reading.pages == "channels" else 1)


def fits(image: NativeImage, count: int, wanted: int) -> bool:
    """Whether an image of `count` channels becomes one of `wanted` without a choice: gray, colour, transparency."""
    transparent = image.pillow is not None and image.dtype == EIGHT_BIT and count in (2, 4)
    return count == wanted or (count, wanted) in ((1, 3), (3, 1)) or (wanted == 3 and transparent)


def settled_channels(images: Sequence[NativeImage], reading: Reading) -> int:
    """The channels of the images, 3 for the usual gray and colour. Raises `DataError` if they differ otherwise."""
    counts = [channels_of(image, reading) for image in images]
    measured = [image.dtype != EIGHT_BIT or image.pillow is None for image in images]
    if all(fits(image, count, 3) for image, count in zip(images, counts, strict=True)):
        return 1 if counts and set(counts) == {1} and all(measured) else 3
    if len(set(counts)) > 1:
        groups = sorted(Counter(counts).items())
        parts = ", ".join(f"{number} with {plural(count, 'channel')}" for count, number in groups)
        raise DataError(
            f"Images of different channels: {parts}, of {plural(len(images), 'image')} looked at.",
            "A network takes images of one kind.",
            "Keep them apart, or take the bands that all have, such as --channels 1,2,3.",
        )
    return counts[0]


def settle_values(images: Sequence[NativeImage], reading: Reading, chosen: PixelFormat) -> PixelFormat:
    """The format with a type and a range of values. Raises `DataError` for 8-bit and deeper images together."""
    deep = [image for image in images if image.dtype != EIGHT_BIT]
    if not deep:
        if reading.value_range or (reading.bit_depth or 8) != 8:
            flag = "--value-range" if reading.value_range else f"--bit-depth {reading.bit_depth}"
            raise DataError(f"{flag} is for deeper images: these have 8 bits.", remedy=f"Leave {flag} out.")
        return chosen
    if reading.bit_depth != 8 and len(deep) < len(images):
        raise DataError(
            f"{share_of(deep, images)} with values of {deep[0].dtype}, the others of 8 bits.",
            "A network needs values of one range.",
            "--bit-depth 8 scales the deeper ones to 8 bits; or keep them apart.",
        )
    fractions = any(image.dtype.startswith("float") for image in deep)
    low, high = parse_range(reading.value_range) or found_range(deep, chosen, fractions=fractions)
    if low == 0 and not fractions and not reading.value_range:
        known = next((bits for bits in BIT_DEPTHS if high < 2**bits), 32)
        high = 2.0 ** (known if reading.bit_depth in (None, 8) else reading.bit_depth) - 1
    to_8_bits = reading.bit_depth == 8
    exact = low == 0 and high <= LARGEST_STORED and not fractions and not to_8_bits
    return dataclasses.replace(
        chosen, dtype=EIGHT_BIT if to_8_bits else SIXTEEN_BIT, low=low, high=high, scaled=not exact
    )


def parse_range(text: str) -> tuple[float, float] | None:
    """The value of `--value-range`, LOW,HIGH; None if it is empty. Raises `UsageError`."""
    if not text:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
        if not -math.inf < low < high < math.inf:
            raise ValueError
    except ValueError:
        remedy = "Give the values that are black and white, such as --value-range 0,4095."
        raise UsageError(f"--value-range: got {text!r}.", remedy=remedy) from None
    return low, high


def found_range(images: Sequence[NativeImage], chosen: PixelFormat, *, fractions: bool) -> tuple[float, float]:
    """The least and the largest value of the images, of the bands that are taken; whole numbers begin at 0."""
    ends = [(float(pixels.min()), float(pixels.max())) for pixels in loaded(images, chosen)]
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    low = low if fractions else min(low, 0.0)
    if not low < high or not math.isfinite(high - low):
        raise DataError(f"All values of the images looked at are {low:g}, or some are not finite.")
    return low, high


def loaded(images: Sequence[NativeImage], chosen: PixelFormat) -> Iterator[Array]:
    """The values of images, of the bands that are taken."""
    for image in images:
        with contextlib.suppress(Exception):  # damaged files are found, and counted, when they are decoded
            yield in_channels(load_pages(image, chosen), chosen)
