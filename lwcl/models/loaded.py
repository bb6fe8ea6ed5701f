"""An encoder together with its input specification and its origin."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypedDict

import timm
import torch

from lwcl.errors import UsageError
from lwcl.models.archs import is_video_arch
from lwcl.models.encoder import Encoder
from lwcl.models.pixel_format import RGB, PixelFormat, pixel_format_from
from lwcl.models.video import TEMPORAL, VIDEO_MEAN, VIDEO_SIDE, VIDEO_SIDES, VIDEO_STD


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """The input of an encoder, in timm's terms: side in pixels, mean and std (of values in [0, 1]), crop share."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_pct: float = 0.875
    pixel_format: PixelFormat = RGB

    @classmethod
    def for_arch(cls, arch: str, size: int | None = None) -> "InputSpec":
        """timm's values for an architecture (ImageNet's where it has none), at another `size` if given."""
        if is_video_arch(arch):
            return cls(size or VIDEO_SIDES.get(arch, VIDEO_SIDE), VIDEO_MEAN, VIDEO_STD)
        known = timm.get_pretrained_cfg(arch)
        if known is None:
            return cls(size or 224, timm.data.IMAGENET_DEFAULT_MEAN, timm.data.IMAGENET_DEFAULT_STD)
        return cls(size or known.input_size[-1], known.mean, known.std)

    @property
    def normalisation(self) -> "Normalisation":
        """What its images are normalised with."""
        return {"mean": self.mean, "std": self.std, "white": self.pixel_format.white}

    def as_json(self) -> dict[str, Any]:
        """Its values; those of the pixels only where they are not RGB."""
        values = dataclasses.asdict(self)
        if self.pixel_format == RGB:
            del values["pixel_format"]
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "InputSpec":
        """What `as_json` gave. Raises `LookupError`, `TypeError` or `ValueError`."""
        size, crop_pct = int(values["size"]), float(values["crop_pct"])
        pixels = pixel_format_from(values.get("pixel_format"))
        return cls(size, tuple(values["mean"]), tuple(values["std"]), crop_pct, pixels)


class Normalisation(TypedDict):
    """Mean and std of values in [0, 1], and the pixel value that becomes 1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    white: float


@dataclasses.dataclass(frozen=True)
class LoadedEncoder:
    """An encoder, its input, and JSON metadata: `origin` (untrained, timm, foreign, ...) and how it was trained."""

    name: str
    encoder: Encoder
    input_spec: InputSpec
    metadata: dict[str, Any]

    def for_data(self, pixels: PixelFormat, temporal: str | None = None) -> "LoadedEncoder":
        """The encoder as it is for images or clips of this format; with `temporal`, one for images takes clips too.

        Raises `UsageError` where they do not fit.
        """
        own = self.input_spec.pixel_format
        if own.frames and not pixels.frames:
            raise UsageError(
                f"{self.name} takes clips of videos ({own.clip}), not images.",
                remedy=f"Give --clip {own.clip} and a --data of videos.",
            )
        if own.frames and own.clip != pixels.clip:
            what = f"{self.name} takes clips of {own.clip}, not of {pixels.clip}."
            raise UsageError(what, remedy=f"Give --clip {own.clip}, or leave it out where nothing is trained.")
        if own.frames or not pixels.frames:
            return self
        if temporal != "mean":
            raise UsageError(
                f"{self.name} is a network for images; --clip {pixels.clip} gives it {pixels.frames} frames at once.",
                "It learned nothing about time.",
                "Give --temporal mean: its features averaged over the frames.",
            )
        self.encoder.over_frames(pixels.frames)
        clip = dataclasses.replace(own, frames=pixels.frames, stride=pixels.stride)
        return dataclasses.replace(self, input_spec=dataclasses.replace(self.input_spec, pixel_format=clip))


def random_encoder(
    arch: str, input_spec: InputSpec, seed: int, arguments: dict[str, Any] | None = None
) -> LoadedEncoder:
    """An untrained encoder, the baseline of every evaluation; its weights depend on `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = Encoder(
            arch,
            image_size=input_spec.size,
            output_stride=(arguments or {}).get("output_stride"),
            channels=input_spec.pixel_format.channels,
            frames=input_spec.pixel_format.frames,
            temporal=(arguments or {}).get(TEMPORAL),
        )
    return LoadedEncoder(f"random/{arch}", encoder, input_spec, {"origin": "untrained"})
