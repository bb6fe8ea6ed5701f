"""An encoder together with its input specification and its origin."""

import dataclasses
from typing import Any

import timm
import torch

from lwcl.models.encoder import Encoder


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """The input of an encoder, in timm's terms: side in pixels, mean and std (of values in [0, 1]), crop share."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_pct: float = 0.875

    @classmethod
    def for_arch(cls, arch: str, size: int | None = None) -> "InputSpec":
        """timm's values for an architecture (ImageNet's where it has none), at another `size` if given."""
        known = timm.get_pretrained_cfg(arch)
        if known is None:
            return cls(size or 224, timm.data.IMAGENET_DEFAULT_MEAN, timm.data.IMAGENET_DEFAULT_STD)
        return cls(size or known.input_size[-1], known.mean, known.std)


@dataclasses.dataclass(frozen=True)
class LoadedEncoder:
    """An encoder, its input, and JSON metadata: `origin` (untrained, timm, foreign, ...) and how it was trained."""

    name: str
    encoder: Encoder
    input_spec: InputSpec
    metadata: dict[str, Any]


def random_encoder(
    arch: str, input_spec: InputSpec, seed: int, arguments: dict[str, Any] | None = None
) -> LoadedEncoder:
    """An untrained encoder, the baseline of every evaluation; its weights depend on `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = Encoder(arch, image_size=input_spec.size, output_stride=(arguments or {}).get("output_stride"))
    return LoadedEncoder(f"random/{arch}", encoder, input_spec, {"origin": "untrained"})
