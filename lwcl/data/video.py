"""Videos decoded by PyAV (BSD-3-Clause; its wheels bundle FFmpeg with GPL codecs): every STRIDE-th frame, upright, RGB.

Frames are taken by their timestamps, at even distances in time: STRIDE over the file's mean frame rate. Where the rate
varies, that is what a viewer sees at these moments. FFmpeg conceals damage; here every error of a decoder, a frame that
it marks as corrupt, and an end before the one that the file announces make a video unreadable.
"""

import contextlib
import itertools
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lwcl.data.frames import Frames
from lwcl.data.native import UnreadableImageError
from lwcl.formatting import plural
from lwcl.models.pixel_format import PixelFormat
from lwcl.system.packages import require_package

MAX_SAMPLE_BYTES = 2**30  # of the decoded frames of one video
#: How much shorter than announced a video may be: headers round, and count frames that are never shown.
MISSING_FRAMES, MISSING_SHARE, MISSING_SECONDS = 2, 0.02, 0.25
TIME_ROUNDING = 0.001  # seconds, of containers
#: What codecs that do not stop at an error say when they show something else (FFV1: another frame's slice).
HIDDEN_DAMAGE = re.compile("mismatch|conceal|corrupt|damaged|error while decoding", re.IGNORECASE)
EXPLODE = {"err_detect": "explode"}  # of FFmpeg: stop at an error instead of showing what is left


class VideoFacts(NamedTuple):
    """What the header of a video says."""

    width: int
    height: int
    rate: Fraction  # frames a second, on average
    frames: int  # 0 where it says nothing
    seconds: float  # of the frames; 0 where it says nothing
    bits: int  # of a colour value


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """A container of PyAV and its first video stream; raises `UnreadableImageError` for whatever goes wrong."""
    av: Any = require_package("av", "video")
    said: list[tuple[int, str, str]] = []
    try:
        with said_by_ffmpeg(av) as said, av.open(str(path)) as container:
            if not container.streams.video:
                raise UnreadableImageError("no video in the file")
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1  # processes decode several videos at a time
            stream.codec_context.options = EXPLODE
            yield container, stream
            if damage := next((text.strip() for _, _, text in said if HIDDEN_DAMAGE.search(text)), ""):
                raise UnreadableImageError(f"damaged: {damage[:80]}")
    except UnreadableImageError:
        raise
    except (av.FFmpegError, OSError, ValueError, RuntimeError, MemoryError, EOFError) as error:
        name = getattr(error, "strerror", None) or str(error) or type(error).__name__
        details = f" ({said[0][1]}: {said[0][2].strip()})" if said else ""
        raise UnreadableImageError(" ".join(f"{name}{details}".split())[:120]) from None


@contextlib.contextmanager
def said_by_ffmpeg(av: Any) -> Iterator[list[tuple[int, str, str]]]:
    """What FFmpeg's codecs say of errors meanwhile: level, source and text."""
    before = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture() as said:
            yield said
    finally:
        av.logging.set_level(before)


def facts_of(container: Any, stream: Any) -> VideoFacts:
    """What the header says; raises `UnreadableImageError` without a size or a frame rate."""
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate
    if not rate or not stream.width or not stream.height:
        raise UnreadableImageError("its header states no frame size or no frame rate")
    components = stream.format.components if stream.format else ()
    bits = max((component.bits for component in components), default=8)
    return VideoFacts(
        stream.width, stream.height, Fraction(rate), stream.frames, announced_seconds(container, stream), bits
    )


def announced_seconds(container: Any, stream: Any) -> float:
    """How long the video lasts by its header; that of the whole file only if nothing else is in it."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if tag := stream.metadata.get("DURATION"):
        with contextlib.suppress(ValueError):
            hours, minutes, seconds = tag.strip("\0").split(":")
            return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    return container.duration / 1e6 if container.duration and len(container.streams) == 1 else 0.0


def read_facts(path: Path) -> VideoFacts:
    """What the header of a video says; raises `UnreadableImageError`."""
    with opened(path) as (container, stream):
        return facts_of(container, stream)


def survey_video(path: Path) -> tuple[VideoFacts, bool]:
    """What the header says, and whether frames are unevenly spaced in time, by their packets (nothing is decoded)."""
    with opened(path) as (container, stream):
        facts = facts_of(container, stream)
        times = sorted(packet.pts for packet in container.demux(stream) if packet.pts is not None)
        steps = [float((later - earlier) * stream.time_base) for earlier, later in itertools.pairwise(times)]
    return facts, len(steps) > 0 and max(steps) - min(steps) > 2 * TIME_ROUNDING + 0.1 * min(steps)


def decode_video(path: Path, pixel_format: PixelFormat, min_side: int | None = None) -> Frames:
    """Every `stride`-th frame of a video, shrunk to a short side of `min_side` (None: as it is), at least `frames`.

    Of a shorter video the last frame is repeated. Raises `UnreadableImageError` also for damage that a player hides.
    """
    with opened(path) as (container, stream):
        facts = facts_of(container, stream)
        kept: list[npt.NDArray[np.uint8]] = []
        for frame in evenly_spaced(container, stream, facts, pixel_format.stride):
            kept.append(kept[-1] if frame is None else rgb_pixels(frame, min_side))
            if len(kept) * kept[0].nbytes > MAX_SAMPLE_BYTES:
                raise UnreadableImageError(
                    f"more than {len(kept):,} frames of {kept[0].shape[1]} x {kept[0].shape[0]} pixels: "
                    "give a larger stride to --clip, or cut the video"
                )
    kept += kept[-1:] * (pixel_format.frames - len(kept))
    return Frames(np.stack(kept))


def evenly_spaced(container: Any, stream: Any, facts: VideoFacts, stride: int) -> Iterator[Any]:
    """The frame shown at each multiple of `stride` mean frame distances; None: the one before it once more.

    Raises `UnreadableImageError` for damaged and missing frames.
    """
    step, half = stride / float(facts.rate), 0.5 / float(facts.rate)
    start = time = shown = None
    count = taken = 0
    for frame in container.decode(stream):
        if frame.is_corrupt:
            raise UnreadableImageError(f"damaged at frame {count + 1:,}")
        now = float(frame.pts * stream.time_base) if frame.pts is not None else (time or 0.0) + 2 * half
        start = now if start is None else start
        # What was shown until now is what is seen at the moments before.
        while shown is not None and start + taken * step + half <= now:
            yield shown if shown is not STILL else None
            shown, taken = STILL, taken + 1
        shown, time, count = frame, now, count + 1
    check_complete(count, (time or 0.0) - (start or 0.0) + 2 * half, facts)
    while shown is not None and start is not None and time is not None and start + taken * step < time + half:
        yield shown if shown is not STILL else None
        shown, taken = STILL, taken + 1


STILL = object()  # in the place of a frame that was taken already


def check_complete(count: int, seconds: float, facts: VideoFacts) -> None:
    """Raises `UnreadableImageError` for a video without frames, or with fewer than its header says."""
    if not count:
        raise UnreadableImageError("no frames in the video")
    missing = facts.frames - count
    if missing > max(MISSING_FRAMES, MISSING_SHARE * facts.frames):
        raise UnreadableImageError(f"damaged: {count:,} of {plural(facts.frames, 'frame')} are there")
    if not facts.frames and facts.seconds - seconds > max(MISSING_SECONDS, MISSING_SHARE * facts.seconds):
        raise UnreadableImageError(f"damaged: {seconds:.2f} of {facts.seconds:.2f} seconds are there")


def rgb_pixels(frame: Any, min_side: int | None) -> npt.NDArray[np.uint8]:
    """A frame upright, as RGB (height, width, 3), its short side at most `min_side`; area averages."""
    width, height = frame.width, frame.height
    if min_side and min(width, height) > min_side:
        scale = min_side / min(width, height)
        width, height = round(width * scale), round(height * scale)
    scaled = frame.reformat(width=width, height=height, format="rgb24", interpolation="AREA")
    pixels: npt.NDArray[np.uint8] = scaled.to_ndarray()
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))
