"""Which timm model a set of tensors is: every tensor of the model must be there, by name or by order, in its shape."""

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
from lwcl.models.backbone import build_backbone

BATCH_COUNTER = "num_batches_tracked"  # batch norm's, which no feature depends on and files before torch 0.4.1 lack
HEAD_NAMES = ("projection_head", "projector", "head.mlp", "head.fc", "head", "fc", "classifier", "_fc")
MAX_SHOWN_TENSORS = 3  # names of each kind in an error


class ArchMatch(NamedTuple):
    """How tensors fit a model: those that do by timm's names, what the model lacks, what the file has more.

    `side`: pixels of the images of a model with a fixed input size; `width`: of its features; `alien`: the names, among
    `rest`, of layers that the model does not go on to: a deeper model's.
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
    def whole(self) -> bool:
        """Whether the model is this one."""
        return not self.missing and not self.alien


class ModelShapes(NamedTuple):
    """A model without its numbers: its tensors' shapes by name, in its order; the width of its features."""

    shapes: dict[str, tuple[int, ...]]
    width: int


@functools.cache
def model_shapes_of(arch: str, side: int | None) -> ModelShapes:
    """The outline of a model without batch norm's counters; nothing is allocated. Raises `UsageError`."""
    with torch.device("meta"):
        backbone, _ = build_backbone(arch, image_size=side)
    state: dict[str, Tensor] = backbone.state_dict()
    width: Any = backbone.head_hidden_size
    return ModelShapes(
        {name: tuple(tensor.shape) for name, tensor in state.items() if not name.endswith(BATCH_COUNTER)}, width
    )


def match_architecture(path: Path, tensors: Mapping[str, Tensor], arch: str | None, told: str | None) -> ArchMatch:
    """The model that the tensors are: `arch` if given, else the first that fits, what the file tells first.

    Raises `UsageError`, which shows the nearest, where none fits.
    """
    naming = find_naming_scheme(path, tensors)
    fits = []
    for candidate in candidate_archs(naming, told) if arch is None else (arch,):
        fits.append(match_tensors(tensors, candidate, naming))
        if fits[-1].whole:
            return fits[-1]
    if not fits:
        raise UsageError(
            f"{path}: its architecture is not told and cannot be guessed.",
            f"Its tensors have names such as {first_names(tensors)}.",
            "Name it with --arch (`lwcl list archs` shows all).",
        )
    nearest = max(fits, key=lambda one: len(one.tensors) - len(one.missing))
    raise UsageError(
        f"{path}: its tensors are not those of {nearest.arch}{'' if arch else ', the nearest architecture'}.",
        f"{len(nearest.tensors)} matched; {len(nearest.missing)} missing ({first_names(nearest.missing)}); "
        f"{len(nearest.rest)} unexpected ({first_names((*nearest.alien, *nearest.rest))}).",
        "Name its architecture with --arch (`lwcl list archs` shows all)." if arch is None else "Leave --arch out.",
    )


def first_names(names: Iterable[str]) -> str:
    """The first few of names, for an error."""
    names = list(dict.fromkeys(names))
    return ", ".join(names[:MAX_SHOWN_TENSORS]) + (", ..." if len(names) > MAX_SHOWN_TENSORS else "") or "none"


def candidate_archs(naming: NamingScheme | None, told: str | None) -> list[str]:
    """The models to try: the one that the file tells, where its names are timm's, then the family's."""
    told = ARCH_ALIASES.get(told or "", told)
    by_name = naming is None or not naming.by_order
    first = [told] if told and by_name and timm.is_model(told) else []
    return [*first, *(naming.archs if naming else ())]


def match_tensors(tensors: Mapping[str, Tensor], arch: str, naming: NamingScheme | None) -> ArchMatch:
    """How the tensors fit a model. Raises `UsageError` where timm does not have it."""
    side = position_embedding_size(tensors, arch)
    shapes, width = model_shapes_of(arch, side)
    held = {name: tensor for name, tensor in tensors.items() if not name.endswith(BATCH_COUNTER)}
    source = {name: name for name in shapes}
    if naming and naming.by_order and not shapes.keys() <= held.keys():
        names = sort_by_layer(held)
        source = dict(zip(shapes, [*names, *[""] * len(shapes)], strict=False))
    good = {
        name: linear_as_convolution(held[other], shapes[name])
        for name, other in source.items()
        if is_same_parameter(name, other, held)
    }
    fitting = {name: tensor for name, tensor in good.items() if tensor.shape == shapes[name]}
    used = {source[name] for name in fitting}
    rest = tuple(name for name in held if name not in used)
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


def is_same_parameter(name: str, other: str, held: Mapping[str, Tensor]) -> bool:
    """Whether a tensor is there that can be timm's `name`: its last part must be the same."""
    return other in held and name.rpartition(".")[2] == other.rpartition(".")[2]


def linear_as_convolution(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A linear layer's matrix as the 1 x 1 convolution that timm has in its place; any other tensor as it is."""
    return tensor[:, :, None, None] if (*tensor.shape, 1, 1) == shape else tensor


def position_embedding_size(tensors: Mapping[str, Tensor], arch: str) -> int | None:
    """The side of the images that position embeddings are for; None where there are none, or the model has no limit."""
    known = timm.get_pretrained_cfg(arch)
    places, patches = tensors.get("pos_embed"), tensors.get("patch_embed.proj.weight")
    if known is None or not known.fixed_input_size or places is None or patches is None:
        return None
    grid = math.isqrt(places.shape[1]) if places.dim() == 3 else 0  # with or without a class token, the same
    return grid * patches.shape[-1] or None
