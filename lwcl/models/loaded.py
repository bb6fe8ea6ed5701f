"""An encoder with the images that it takes and what is known of its origin."""

import dataclasses
from typing import Any

import timm

from lwcl.models.encoder import Encoder


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """The images an encoder takes: side in pixels, statistics to normalise by (on [0, 1]), share of the centre crop."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_pct: float = 0.875

    @classmethod
    def of(cls, arch: str, size: int | None = None) -> "InputSpec":
        """What timm records for an architecture, with another size if given."""
        known = timm.get_pretrained_cfg(arch)
        if known is None:
            return cls(size or 224, timm.data.IMAGENET_DEFAULT_MEAN, timm.data.IMAGENET_DEFAULT_STD)
        return cls(size or known.input_size[-1], known.mean, known.std)


@dataclasses.dataclass(frozen=True)
class LoadedEncoder:
    """An encoder, the images it takes, and what is told of its origin."""

    name: str
    encoder: Encoder
    images: InputSpec
    facts: dict[str, Any]
