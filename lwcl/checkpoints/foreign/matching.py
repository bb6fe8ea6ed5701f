"""Finds the timm model that a set of tensors belongs to: all its tensors must be there, by name or order, and shape."""

import functools
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor

from lwcl.checkpoints.foreign.naming import ARCH_ALIASES, NamingScheme, find_naming_scheme, sort_by_layer
from lwcl.errors import UsageError
from lwcl.formatting import first_names
from lwcl.models.backbone import build_backbone

BATCH_COUNTER = "num_batches_tracked"  # of batch norm; no feature depends on it, and files before torch 0.4.1 lack it
HEAD_NAMES = ("projection_head", "projector", "head.mlp", "head.fc", "head", "fc", "classifier", "_fc")
MAX_SHOWN_TENSORS = 3  # names of each kind in an error


class ArchMatch(NamedTuple):
    """How tensors match a model: the matching ones by timm's names, the missing ones, and the rest of the file.

    `side`: input size in pixels of a model with a fixed one; `width`: of its features; `alien`: names in `rest` of
    layers that the model does not have: the file holds a deeper one.
    """

    arch: str
    side: int | None
    width: int
    tensors: dict[str, Tensor]
    missing: tuple[str, ...]
    rest: tuple[str, ...]
    alien: tuple[str, ...]
    naming: NamingScheme | None

    @property
    def complete(self) -> bool:
        """Whether everything matches."""
        return not self.missing and not self.alien


class ModelShapes(NamedTuple):
    """The shapes of a model's tensors by name, in its order, and the width of its features."""

    shapes: dict[str, tuple[int, ...]]
    width: int


@functools.cache
def model_shapes_of(arch: str, side: int | None) -> ModelShapes:
    """The shapes of a model, without batch counters; allocates no memory. Raises `UsageError`."""
    with torch.device("meta"):
        backbone, _ = build_backbone(arch, image_size=side)
    state: dict[str, Tensor] = backbone.state_dict()
    width: Any = backbone.head_hidden_size
    return ModelShapes(
        {name: tuple(tensor.shape) for name, tensor in state.items() if not name.endswith(BATCH_COUNTER)}, width
    )


def match_architecture(path: Path, tensors: Mapping[str, Tensor], arch: str | None, stored: str | None) -> ArchMatch:
    """The model that the tensors belong to: `arch` if given, else the first match, starting with the file's own `arch`.

    Raises `UsageError` with the closest model if none matches.
    """
    naming = find_naming_scheme(path, tensors)
    attempts = []
    for candidate in candidate_archs(naming, stored) if arch is None else (arch,):
        attempts.append(match_tensors(tensors, candidate, naming))
        if attempts[-1].complete:
            return attempts[-1]
    if not attempts:
        raise UsageError(
            f"{path}: its architecture is not stored in the file and cannot be detected.",
            f"Its tensors have names such as {name_list(tensors)}.",
            "Give --arch (`lwcl list archs` shows all).",
        )
    nearest = max(attempts, key=lambda one: len(one.tensors) - len(one.missing))
    raise UsageError(
        f"{path}: its tensors do not match {nearest.arch}{'' if arch else ', the closest architecture'}.",
        f"{len(nearest.tensors)} matched; {len(nearest.missing)} missing ({name_list(nearest.missing)}); "
        f"{len(nearest.rest)} unexpected ({name_list((*nearest.alien, *nearest.rest))}).",
        "Give its --arch (`lwcl list archs` shows all)." if arch is None else "Leave --arch out.",
    )


def name_list(names: Iterable[str]) -> str:
    """The first few different names, for an error."""
    return first_names(dict.fromkeys(names), MAX_SHOWN_TENSORS) or "none"


def candidate_archs(naming: NamingScheme | None, stored_arch: str | None) -> list[str]:
    """The models to try: the file's own `arch`, if its names are timm's, then those of the family."""
    stored_arch = ARCH_ALIASES.get(stored_arch or "", stored_arch)
    by_name = naming is None or not naming.by_order
    first = [stored_arch] if stored_arch and by_name and timm.is_model(stored_arch) else []
    return [*first, *(naming.archs if naming else ())]


def match_tensors(tensors: Mapping[str, Tensor], arch: str, naming: NamingScheme | None) -> ArchMatch:
    """How the tensors match a model. Raises `UsageError` if timm does not have it."""
    side = position_embedding_size(tensors, arch)
    shapes, width = model_shapes_of(arch, side)
    present = {name: tensor for name, tensor in tensors.items() if not name.endswith(BATCH_COUNTER)}
    source = {name: name for name in shapes}
    if naming and naming.by_order and not shapes.keys() <= present.keys():
        names = sort_by_layer(present)
        source = dict(zip(shapes, [*names, *[""] * len(shapes)], strict=False))
    good = {
        name: linear_as_convolution(present[other], shapes[name])
        for name, other in source.items()
        if is_same_parameter(name, other, present)
    }
    fitting = {name: tensor for name, tensor in good.items() if tensor.shape == shapes[name]}
    used = {source[name] for name in fitting}
    rest = tuple(name for name in present if name not in used)
    roots = {name.partition(".")[0] for name in source.values()}
    return ArchMatch(
        arch=arch,
        side=side,
        width=width,
        tensors=fitting,
        missing=tuple(
            f"{name} {tuple(good[name].shape)} for {shapes[name]}" if name in good else name
            for name in shapes
            if name not in fitting
        ),
        rest=rest,
        alien=tuple(name for name in rest if name.partition(".")[0] in roots and not name.startswith(HEAD_NAMES)),
        naming=naming,
    )


def is_same_parameter(name: str, other: str, present: Mapping[str, Tensor]) -> bool:
    """Whether the file's tensor `other` exists and can be timm's `name`: their last parts must be equal."""
    return other in present and name.rpartition(".")[2] == other.rpartition(".")[2]


def linear_as_convolution(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A linear layer's matrix as timm's 1 x 1 convolution, if that is the shape; any other tensor unchanged."""
    return tensor[:, :, None, None] if (*tensor.shape, 1, 1) == shape else tensor


def position_embedding_size(tensors: Mapping[str, Tensor], arch: str) -> int | None:
    """The input size that the position embeddings are for; None if there are none, or the model accepts any size."""
    known = timm.get_pretrained_cfg(arch)
    places, patches = tensors.get("pos_embed"), tensors.get("patch_embed.proj.weight")
    if known is None or not known.fixed_input_size or places is None or patches is None:
        return None
    grid = math.isqrt(places.shape[1]) if places.dim() == 3 else 0  # the same with and without a class token
    return grid * patches.shape[-1] or None
