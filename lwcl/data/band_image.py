"""An image of any number of channels, with the part of Pillow's interface that lwcl uses of RGB images."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from lwcl.data.frames import ArrayImage, Frames
from lwcl.models.pixel_format import shown_channels

Array = npt.NDArray[Any]
CLIPPED = (2, 98)  # percentiles that are black and white in a thumbnail
TURNS: dict[Image.Transpose, Callable[[Array], Array]] = {
    Image.Transpose.FLIP_LEFT_RIGHT: lambda pixels: pixels[:, ::-1],
    Image.Transpose.FLIP_TOP_BOTTOM: lambda pixels: pixels[::-1],
    Image.Transpose.ROTATE_90: lambda pixels: np.rot90(pixels),
    Image.Transpose.ROTATE_180: lambda pixels: pixels[::-1, ::-1],
    Image.Transpose.ROTATE_270: lambda pixels: np.rot90(pixels, -1),
    Image.Transpose.TRANSPOSE: lambda pixels: pixels.swapaxes(0, 1),
    Image.Transpose.TRANSVERSE: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
}


class BandImage(ArrayImage):
    """Pixels (height, width, channels), uint8 or uint16. Resized channel by channel by Pillow, in float32."""

    def crop(self, box: Sequence[int]) -> "BandImage":
        """The part in (left, top, right, bottom), which lies inside."""
        left, top, right, bottom = box
        return BandImage(self.pixels[top:bottom, left:right])

    def resize(
        self,
        size: tuple[int, int],
        resample: Image.Resampling = Image.Resampling.BICUBIC,
        box: tuple[float, float, float, float] | None = None,
        reducing_gap: float | None = None,
    ) -> "BandImage":
        """As Pillow's, with values rounded and clipped to the type."""
        limits = np.iinfo(self.pixels.dtype)
        channels = [
            Image.fromarray(np.ascontiguousarray(channel, dtype=np.float32)).resize(size, resample, box, reducing_gap)
            for channel in np.moveaxis(self.pixels, 2, 0)
        ]
        values = np.rint(np.stack([np.asarray(channel) for channel in channels], axis=2))
        return BandImage(values.clip(limits.min, limits.max).astype(self.pixels.dtype))

    def transpose(self, method: Image.Transpose) -> "BandImage":
        """Turned or mirrored."""
        return BandImage(TURNS[method](self.pixels))


def as_photo(pixels: Array) -> Array:
    """Pixels (H, W, C) of a `BandImage` as RGB, uint8 (H, W, 3): each channel stretched, see `CLIPPED`."""
    low, high = np.percentile(pixels, CLIPPED, axis=(0, 1))
    values = (pixels - low) / np.maximum(high - low, 1)
    photo: Array = np.rint(255 * values.clip(0, 1)).astype(np.uint8)[:, :, list(shown_channels(pixels.shape[2]))]
    return photo


Picture = Image.Image | BandImage | Frames  # 8-bit RGB as Pillow's, anything else as bands; videos
