"""The plan of a probe: every setting of its protocol at the scale of the images, and where each came from."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lwcl.config.augmentation import AUGMENTATIONS, Augmentation
from lwcl.config.auto import floor_power_of_two
from lwcl.config.plan import data_layers
from lwcl.config.probe_protocols import Protocol, protocol_named
from lwcl.config.recipes import SMALL_DATA_IMAGES, Optimization
from lwcl.errors import UsageError
from lwcl.formatting import plural
from lwcl.methods.probe import LinearProbe
from lwcl.settings import (
    FLAG,
    Layer,
    Origin,
    OriginKind,
    SettingValue,
    auto_value,
    build_settings,
    flag_name,
    merge_layers,
)

PROBE_FLAGS = ("epochs", "batch_size", "lr")  # settings of a protocol that a flag may override
MIN_STEPS_PER_EPOCH = 20  # the batch shrinks to leave this many,
MIN_BATCH_SIZE = 16  # but not below this
FAST_STEPS = 500  # of `fast`: on 4,000 images 300 and 900 gave the same best top-1 within a point


@dataclass(frozen=True)
class ProbePlan:
    """How to probe: every setting with its value and origin."""

    protocol: Protocol
    values: Mapping[str, SettingValue]

    @cached_property
    def optimization(self) -> Optimization:
        """How to optimise."""
        return build_settings(Optimization, self.values)

    @cached_property
    def method(self) -> LinearProbe:
        """What is trained."""
        return build_settings(LinearProbe, self.values)

    @cached_property
    def augmentation(self) -> Augmentation:
        """What a training view may do to an image."""
        return build_settings(Augmentation, self.values)


def plan_probe(name: str, chosen: Mapping[str, Any], images: int, classes: int, data: tuple[str, ...]) -> ProbePlan:
    """The plan of a protocol for a number of labelled images, with the flags of `PROBE_FLAGS` that are not None.

    The augmentation that the data set `data` needs, if any, replaces the protocol's.
    Raises `UsageError` for an unknown protocol, or one that has no such setting.
    """
    protocol = protocol_named(name)
    own = {key: cited.value for key, cited in protocol.settings.items()}
    flags = {key: chosen[key] for key in PROBE_FLAGS if chosen.get(key) is not None}
    if flags and protocol.way == "logistic":
        raise UsageError(
            f"{flag_name(next(iter(flags)))} is not a setting of the protocol logistic.",
            "It finds the optimum: there are neither epochs nor a learning rate.",
            "Remove it, or choose --protocol fast.",
        )
    layers: list[Layer] = [(FLAG, {**flags, "classes": classes}), (Origin(OriginKind.PROTOCOL, name), own)]
    values = merge_layers(Optimization, layers) | merge_layers(LinearProbe, layers)
    needed = [layer["augmentation"] for _, layer in data_layers(data)]
    named = next(iter(needed), own.get("augmentation", "plain"))
    views = [*([] if needed else layers), (Origin(OriginKind.AUGMENTATION, named), AUGMENTATIONS[named])]
    return ProbePlan(protocol, scale_probe(values, images, protocol.way) | merge_layers(Augmentation, views))


def scale_probe(values: Mapping[str, SettingValue], images: int, way: str) -> dict[str, SettingValue]:
    """The settings of a recipe scaled to a number of images, unless set by a flag.

    The batch shrinks so that an epoch keeps 20 steps, and the learning rate with it (Goyal et al., arXiv 1706.02677);
    epochs stay as published. LARS moves weights by a share of their length, so with few steps its rate stays too.
    """
    new = dict(values)
    batch, chosen = values["batch_size"].value or 256, values["batch_size"].origin is FLAG
    if not chosen and images < MIN_STEPS_PER_EPOCH * batch:
        least = floor_power_of_two(images, 2, MIN_BATCH_SIZE)
        fits = min(floor_power_of_two(images / MIN_STEPS_PER_EPOCH, min(MIN_BATCH_SIZE, least), batch), images)
        reason = f"{batch}, reduced to keep {MIN_STEPS_PER_EPOCH} steps per epoch of {plural(images, 'image')}"
        new["batch_size"] = auto_value(fits, reason)
    elif not chosen:
        new["batch_size"] = SettingValue(batch, values["batch_size"].origin)
    size = new["batch_size"].value
    if way == "fast" and values["epochs"].value is None:
        epochs = min(100, max(10, math.ceil(FAST_STEPS / math.ceil(images / size))))
        new["epochs"] = auto_value(epochs, f"{FAST_STEPS} steps of {size} images, within 10 and 100 epochs")
    if way == "images" and values["lr"].value is None:
        few = values["optimizer"].value == "lars" and images < SMALL_DATA_IMAGES
        scale, base = (batch if few else size) / 256, values["base_lr"].value
        reason = f"few steps: as published for a batch of {batch}" if few else f"{base:g} x batch {size} / 256"
        new["lr"] = auto_value(float(f"{base * scale:.6g}"), reason)
    return new
