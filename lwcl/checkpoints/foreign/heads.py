"""The projection head of a third-party checkpoint, in the layer words of `lwcl.models.encoder`."""

import collections
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from lwcl.checkpoints.foreign.matching import BATCH_COUNTER, HEAD_NAMES

PROJECTION_HEAD_NAMES = ("projection_head", "projector", "head.mlp")  # classifiers never have these names
GELU_HEAD = "head.mlp"  # DINO's; all others have ReLU
RUNNING_STATISTICS = {"running_mean", "running_var"}


class ImportedHead(NamedTuple):
    """A head's layers in words, its tensors as `nn.Sequential` names them, and their original names."""

    layers: tuple[str, ...]
    tensors: dict[str, Tensor]
    names: frozenset[str]


def find_head(tensors: Mapping[str, Tensor], width: int, projects: bool) -> ImportedHead:
    """The head on features of `width` among the tensors left by the backbone; an empty one if there is none.

    `projects`: a single linear layer with a classifier's name is a projection; several layers always are.
    """
    for root in HEAD_NAMES:
        names = {name.removeprefix(f"{root}."): name for name in tensors if name.startswith(f"{root}.")}
        if names.keys() <= {"weight", "bias"}:  # a single layer has no number
            names = {f"0.{name}": full for name, full in names.items()}
        if root == "projector" and names and "bn.running_mean" in tensors:  # Barlow Twins normalises its output
            last = 1 + max((int(name.partition(".")[0]) for name in names if name[0].isdecimal()), default=0)
            names |= {
                f"{last}.{name}": f"bn.{name}"
                for name in (*RUNNING_STATISTICS, BATCH_COUNTER)
                if f"bn.{name}" in tensors
            }
        layers = layers_by_number({name: tensors[full] for name, full in names.items()})
        words, renamed = describe_layers(layers, width, "gelu" if root == GELU_HEAD else "relu")
        linear = sum(word.startswith("linear") for word in words)
        if linear > 1 or (linear and (projects or root in PROJECTION_HEAD_NAMES)):
            return ImportedHead(words, renamed, frozenset(names.values()))
    return ImportedHead((), {}, frozenset())


def layers_by_number(tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """Tensors by layer number; empty if some name is not a number and a tensor's name."""
    layers: dict[int, dict[str, Tensor]] = collections.defaultdict(dict)
    for name, tensor in tensors.items():
        number, _, kind = name.partition(".")
        if not number.isdecimal() or "." in kind:
            return {}
        layers[int(number)][kind] = tensor
    return layers


def describe_layers(
    layers: Mapping[int, Mapping[str, Tensor]], width: int, activation: str
) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    """The layers in words and their tensors, renumbered; empty for a head of other layers, or on another width.

    An activation has no tensors: it is where a number is missing.
    """
    words: list[str] = []
    tensors: dict[str, Tensor] = {}
    for number, layer in sorted(layers.items()):
        if words and number - 1 not in layers:
            words.append(activation)
        width, word = describe_layer({name: tensor for name, tensor in layer.items() if name != BATCH_COUNTER}, width)
        if not word:
            return (), {}
        tensors |= {f"{len(words)}.{name}": tensor for name, tensor in layer.items()}
        if word.startswith("norm"):
            tensors.setdefault(f"{len(words)}.{BATCH_COUNTER}", torch.tensor(0))
        words.append(word)
    return tuple(words), tensors


def describe_layer(layer: Mapping[str, Tensor], width: int) -> tuple[int, str]:
    """The output width of a layer on `width`, and the layer in words: "" if it is neither linear nor batch norm."""
    weight, vectors = layer.get("weight"), {name: tensor for name, tensor in layer.items() if tensor.dim() == 1}
    if weight is not None and weight.dim() == 2 and weight.shape[1] == width and layer.keys() <= {"weight", "bias"}:
        width = weight.shape[0]
        word = f"linear {width}" if vectors else f"linear {width} unbiased"
    elif layer.keys() == RUNNING_STATISTICS:
        word = "norm plain"
    else:
        word = "norm" if layer.keys() == RUNNING_STATISTICS | {"weight", "bias"} else ""
    return width, word if all(tensor.shape == (width,) for tensor in vectors.values()) else ""
