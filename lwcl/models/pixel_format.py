"""What the pixels of an encoder's images are: how many channels, and which values are black and white."""

import dataclasses
from typing import Any

from lwcl.formatting import plural


@dataclasses.dataclass(frozen=True)
class PixelFormat:
    """Channels and values of decoded images, and how files with others are read.

    The value `low` of a file becomes 0 and `high` becomes 1 before normalisation. Unsigned integers are kept as they
    are; with `scaled`, values are mapped to the whole range of the stored type.
    """

    channels: int = 3
    dtype: str = "uint8"  # of stored values: uint8 or uint16
    low: float = 0.0
    high: float = 255.0
    scaled: bool = False
    bands: tuple[int, ...] = ()  # those of a file's bands to take, from 1; empty: all, and no more than `channels`
    pages: str = "refuse"  # files with several: refuse, first, or channels (each is one)
    view: str = ""  # what is done to the image then; see `--student-view`
    frames: int = dataclasses.field(default=0, repr=False)  # of a clip of a video; 0: images
    stride: int = dataclasses.field(default=0, repr=False)  # frames of the video from one of a clip to the next

    @property
    def is_rgb(self) -> bool:
        """Whether images are 8-bit RGB, as Pillow holds them."""
        return self.channels == 3 and self.dtype == "uint8"

    @property
    def clip(self) -> str:
        """FRAMESxSTRIDE as `--clip` takes it; empty for images."""
        return f"{self.frames}x{self.stride}" if self.frames else ""

    @property
    def bytes(self) -> int:
        """Bytes of a pixel, over all channels."""
        return self.channels * (1 if self.dtype == "uint8" else 2)

    @property
    def white(self) -> float:
        """The stored value that becomes 1."""
        return {"uint8": 255.0, "uint16": 65535.0}[self.dtype] if self.scaled else self.high

    def reads_as(self, other: "PixelFormat") -> bool:
        """Whether a network for `other` can take these pixels: they may come from other bands or pages of files."""
        if self.clip != other.clip:
            return False
        if self.dtype == other.dtype == "uint8":
            return (self.channels, self.view) == (other.channels, other.view)
        mine, theirs = (dataclasses.replace(one, bands=(), pages="") for one in (self, other))
        return mine == theirs

    def picked(self, positions: tuple[int, ...]) -> "PixelFormat":
        """The format of the channels at these positions, from 0."""
        bands = self.bands or tuple(range(1, self.channels + 1))
        return dataclasses.replace(self, channels=len(positions), bands=tuple(bands[place] for place in positions))

    @property
    def false_colours(self) -> str:
        """What pictures show of an image, in words; "" of gray and of colour."""
        if self.channels == 1 or (self.is_rgb and not self.bands):
            return ""
        bands = self.bands or range(1, self.channels + 1)
        red, green, blue = (bands[place] for place in shown_channels(self.channels))
        return f"false colours: channels {red}, {green} and {blue} as red, green and blue"

    def describe(self) -> str:
        """In words: `4 channels of 16 bits, for values of 0 to 4095`."""
        if self.frames:
            return f"clips of {plural(self.frames, 'frame')}, {plural(self.stride, 'frame')} of the video apart"
        bits = 8 if self.dtype == "uint8" else 16
        values = (
            "" if (self.low, self.high) == (0, 2**bits - 1) else f", for values of {self.low:.6g} to {self.high:.6g}"
        )
        values += " (others are clipped)" if self.scaled else ""
        chosen = f" (bands {', '.join(map(str, self.bands))})" if self.bands else ""
        chosen += f", after {self.view}" if self.view else ""
        return f"{self.channels} channel{'s' * (self.channels != 1)} of {bits} bits{values}{chosen}"


RGB = PixelFormat()


def shown_channels(channels: int) -> tuple[int, int, int]:
    """The channels, from 0, that pictures show as red, green and blue: the first three, of two the last one twice."""
    return 0, min(1, channels - 1), min(2, channels - 1)


def pixel_format_from(values: dict[str, Any] | None) -> PixelFormat:
    """The format that a file describes (`dataclasses.asdict`), RGB if it says nothing. Raises `TypeError`."""
    known = dict(values or {})
    return PixelFormat(**(known | {"bands": tuple(known.get("bands", ()))}))
