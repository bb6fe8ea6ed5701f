"""Architectures that timm has under other tensor names: the same tensors in the same order, renamed by that order.

Each family's features were compared (1e-6) with its own code or, for lukemelas' EfficientNet, with a manual copy.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lwcl.errors import UsageError

RESNETS = ("resnet18", "resnet34", "resnet10t")
DEEP_RESNETS = ("resnet50", "resnet101", "resnet152", "wide_resnet50_2", "wide_resnet101_2", "resnext50_32x4d")
EFFICIENTNETS = tuple(f"efficientnet_b{size}" for size in range(5))
LITES = tuple(f"tf_efficientnet_lite{size}" for size in range(5))


class NamingScheme(NamedTuple):
    """A family of networks: a pattern that identifies it, its timm models, and its batch-norm epsilon if it differs."""

    name: str
    mark: str
    archs: tuple[str, ...]
    bn_eps: float | None = None
    by_order: bool = True


#: The first whose mark, a pattern, matches a tensor's whole name applies.
NAMING_SCHEMES = (
    NamingScheme(
        "lukemelas EfficientNet",  # TensorFlow's "same" padding and epsilon 1e-3, as timm's tf_ models have them
        r"_blocks\.0\._se_reduce\.weight",
        tuple(f"tf_{name}" for name in EFFICIENTNETS),
        1e-3,
    ),
    NamingScheme("lukemelas EfficientNet-Lite", r"_conv_stem\.weight", LITES, 1e-3),
    NamingScheme(
        "torchvision MobileNetV3",
        r"features\.1\.block\.0\.0\.weight",
        ("mobilenetv3_large_100", "mobilenetv3_small_100"),
        1e-3,
    ),
    NamingScheme("torchvision EfficientNet", r"features\.1\.0\.block\.0\.0\.weight", EFFICIENTNETS),
    NamingScheme("torchvision MobileNetV2", r"features\.1\.conv\.0\.0\.weight", ("mobilenetv2_100",)),
    NamingScheme("numbered layers of a deep ResNet", r"4\.0\.conv3\.weight", DEEP_RESNETS),
    NamingScheme("numbered layers of a ResNet", r"4\.0\.conv2\.weight", RESNETS),
    NamingScheme("deep ResNet", r"layer1\.0\.conv3\.weight", DEEP_RESNETS, by_order=False),
    NamingScheme("ResNet", r"layer1\.0\.conv2\.weight", RESNETS, by_order=False),
    NamingScheme(
        "vision transformer",
        r"blocks\.0\.attn\.qkv\.weight",
        (
            *(f"deit_{size}_patch16_224" for size in ("tiny", "small", "base")),
            *(f"vit_{kind}_224" for kind in ("small_patch8", "base_patch8", "large_patch16", "small_patch32")),
        ),
        by_order=False,
    ),
    NamingScheme("MobileNetV3", r"conv_head\.bias", ("mobilenetv3_large_100", "mobilenetv3_small_100"), by_order=False),
    NamingScheme("EfficientNet", r"blocks\.0\.0\.se\.conv_reduce\.weight", EFFICIENTNETS, by_order=False),
    NamingScheme("MobileNetV2 or EfficientNet-Lite", r"conv_stem\.weight", ("mobilenetv2_100", *LITES), by_order=False),
    NamingScheme(
        "ConvNeXt",
        r"stages\.0\.blocks\.0\.conv_dw\.weight",
        tuple(f"convnext_{size}" for size in ("tiny", "nano", "atto", "femto", "pico", "small", "base")),
        by_order=False,
    ),
)

#: Networks that resemble timm's but compute something else: a pattern that identifies them, and the reason.
INCOMPATIBLE = (
    (
        r"features\.\d+\.conv\.\d+\.fc\.\d\.weight",
        "It is d-li14's MobileNetV3, with squeeze-and-excitation before the activation; in timm's it comes after.",
    ),
    (
        r"(transformer\.layers\.0\.0\.|to_patch_embedding\.).*",
        "It is lucidrains' vision transformer, whose layers differ from timm's.",
    ),
)

#: Parts of names in layer order; numbers sort as numbers, unlisted parts come last.
NAME_ORDER = (
    *("_conv_stem", "_expand_conv", "_bn0", "_blocks", "_depthwise_conv", "_conv_head", "_bn1"),
    *("_se_reduce", "_se_expand", "_project_conv", "_bn2"),
    *("features", "block", "conv", "conv1", "bn1", "conv2", "bn2", "fc1", "fc2", "conv3", "bn3", "downsample"),
    *("weight", "bias", "running_mean", "running_var", "classifier"),
)

#: Values of `arch` in checkpoints other than timm's names (light-moco, DisCo, ssl-small, SEED).
ARCH_ALIASES = {
    "mobilenetv3": "mobilenetv3_large_100",
    "mobilenetv3_large": "mobilenetv3_large_100",
    "mobilenetv3_small": "mobilenetv3_small_100",
    "efficientb0": "efficientnet_b0",
    "efficientb1": "efficientnet_b1",
}


def find_naming_scheme(path: Path, names: Iterable[str]) -> NamingScheme | None:
    """The family that tensor names identify, None if unknown. Raises `UsageError` if timm cannot compute it."""
    names = list(names)
    for mark, why in INCOMPATIBLE:
        if any(re.fullmatch(mark, name) for name in names):
            raise UsageError(f"{path}: cannot be converted.", why, "Its features would differ: use its own code.")
    return next((one for one in NAMING_SCHEMES if any(re.fullmatch(one.mark, name) for name in names)), None)


def sort_by_layer(tensors: Mapping[str, Any]) -> list[str]:
    """Tensor names in the order of the layers, whatever their order in the file."""

    places = {word: place for place, word in enumerate(NAME_ORDER, 1)}

    def place(name: str) -> list[tuple[int, int | str]]:
        parts = name.split(".")
        return [(0, int(part)) if part.isdecimal() else (places.get(part, len(NAME_ORDER) + 1), part) for part in parts]

    return sorted(tensors, key=place)
