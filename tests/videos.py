"""Videos made for tests."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import picture

from lwcl.data.frames import Frames
from lwcl.models.pixel_format import PixelFormat

av: Any = pytest.importorskip("av")
CODECS = {"mp4": "libx264", "avi": "mpeg4", "webm": "libvpx-vp9", "mkv": "ffv1"}
CLIP = PixelFormat(frames=4, stride=2)


def level(number: int, height: int = 32, width: int = 48) -> Any:
    """A frame that can be told by its brightness."""
    return np.full((height, width, 3), 10 + 8 * number, np.uint8)


def write_video(path: Path, frames: Sequence[Any], times: Sequence[int] = (), codec: str = "", rate: int = 25) -> Path:
    """A video file; `times` are the moments of the frames in units of 1 / rate seconds, else they are even."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        codec = codec or CODECS[path.suffix[1:]]
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "bgr0" if codec == "ffv1" else "yuv420p"
        stream.codec_context.time_base = Fraction(1, rate)
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = times[number] if times else number, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def numbers(frames: Frames) -> list[int]:
    """The numbers of frames made by `level`."""
    return [round((float(pixels.mean()) - 10) / 8) for pixels in np.asarray(frames)]


def texture(number: int, side: int = 96) -> Any:
    return np.asarray(picture(number, side))


def moving_textures(folder: Path) -> Path:
    """Eighteen short videos of textures that move to the right or down, in class folders with splits."""
    for number in range(18):
        name, split = ("right", "down")[number % 2], "train" if number < 12 else "val"
        whole = texture(number)
        starts = [(2 * time, 0) if name == "down" else (0, 2 * time) for time in range(16)]
        frames = [whole[top : top + 32, left : left + 48] for top, left in starts]
        write_video(folder / split / name / f"{number:02}.avi", frames)
    return folder
