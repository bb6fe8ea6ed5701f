"""The frames of a video as one picture, with the part of Pillow's interface that lwcl uses of images."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image


class Frames:
    """Frames (N, height, width, 3), uint8; whatever is done to one is done to all."""

    def __init__(self, pixels: npt.NDArray[np.uint8]) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def height(self) -> int:
        """Of a frame, in pixels."""
        return int(self.pixels.shape[1])

    @property
    def width(self) -> int:
        """Of a frame, in pixels."""
        return int(self.pixels.shape[2])

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of a frame."""
        return self.width, self.height

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.asarray(self.pixels, dtype)

    def tobytes(self) -> bytes:
        """The values, frame by frame, row by row."""
        return self.pixels.tobytes()

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
