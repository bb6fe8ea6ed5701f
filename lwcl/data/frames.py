"""Images that are arrays, with the part of Pillow's interface that lwcl uses; the frames of a video as one of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image


class ArrayImage:
    """Pixels in an array, with the sides that Pillow's images tell."""

    rows_axis = 0  # of the array; columns are the next

    def __init__(self, pixels: npt.NDArray[Any]) -> None:
        self.pixels = pixels

    @property
    def height(self) -> int:
        """In pixels."""
        return int(self.pixels.shape[self.rows_axis])

    @property
    def width(self) -> int:
        """In pixels."""
        return int(self.pixels.shape[self.rows_axis + 1])

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.width, self.height

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.asarray(self.pixels, dtype)

    def tobytes(self) -> bytes:
        """The values in the order of the array."""
        return self.pixels.tobytes()


class Frames(ArrayImage):
    """Frames (N, height, width, 3), uint8; whatever is done to one is done to all."""

    rows_axis = 1

    def __len__(self) -> int:
        return len(self.pixels)

    def clip(self, frames: int, start: int | None = None) -> "Frames":
        """So many consecutive frames from `start` on, by default those in the middle."""
        start = (len(self) - frames) // 2 if start is None else start
        return Frames(self.pixels[start : start + frames])

    def crop(self, box: Sequence[int]) -> "Frames":
        """The part in (left, top, right, bottom), which lies inside."""
        left, top, right, bottom = box
        return Frames(self.pixels[:, top:bottom, left:right])

    def resize(self, size: tuple[int, int], *resample: Any, **how: Any) -> "Frames":
        """As Pillow's, frame by frame."""
        scaled = (Image.fromarray(frame).resize(size, *resample, **how) for frame in self.pixels)
        return Frames(np.stack([np.asarray(frame) for frame in scaled]))

    def transpose(self, method: Image.Transpose) -> "Frames":
        """Turned or mirrored."""
        return Frames(np.stack([np.asarray(Image.fromarray(frame).transpose(method)) for frame in self.pixels]))
