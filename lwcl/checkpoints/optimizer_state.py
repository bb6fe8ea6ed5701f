"""An optimiser's state as tensors and JSON, bit for bit and without pickle (torch's own way is a pickle of both)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lwcl.errors import StorageError


def pack_optimizer(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state of an optimiser as (tensors, facts) for a checkpoint: `state.0.momentum_buffer`, `group.0.lr`.

    Tensors are not copied. Raises `TypeError` for an optimiser that keeps something else than tensors and JSON.
    """
    packed = optimizer.state_dict()
    values = {f"state.{index}.{key}": value for index, kept in packed["state"].items() for key, value in kept.items()}
    for number, group in enumerate(packed["param_groups"]):
        values |= {f"group.{number}.{key}": value for key, value in group.items() if key != "params"}
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    facts = {name: json_value(name, value) for name, value in values.items() if name not in tensors}
    return tensors, {"shapes": parameter_shapes(optimizer), "values": facts}


def unpack_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Put back what `pack_optimizer` took into a fresh optimiser of the same kind over the same parameters.

    Raises `StorageError` when its parameters differ in number, grouping or shape.
    """
    if facts["shapes"] != parameter_shapes(optimizer):
        what = "The optimiser's state in the checkpoint is of another model."
        raise StorageError(what, "Its parameters differ in number or shape.", "Give another --out, or --overwrite.")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    homes = {parameter: group for group in optimizer.param_groups for parameter in group["params"]}
    optimizer.state.clear()
    for name, value in {**facts["values"], **tensors}.items():
        kind, number, key = name.split(".", 2)
        if kind == "group":
            group = optimizer.param_groups[int(number)]
            group[key] = tuple(value) if isinstance(group.get(key), tuple) else value
        else:
            parameter = parameters[int(number)]
            optimizer.state[parameter][key] = place_like_parameter(value, parameter, homes[parameter], key)


def parameter_shapes(optimizer: Optimizer) -> list[list[list[int]]]:
    """The shape of every parameter of every group."""
    return [[list(parameter.shape) for parameter in group["params"]] for group in optimizer.param_groups]


def json_value(name: str, value: Any) -> Any:
    """`value` if JSON gives it back as it is (a tuple as a list). Raises `TypeError` if not."""
    items = value if isinstance(value, list | tuple) else [value]
    if all(item is None or isinstance(item, bool | int | float | str) for item in items):
        return value
    raise TypeError(f"{name}: cannot keep a {type(value).__name__} in a checkpoint")


def place_like_parameter(value: Any, parameter: Tensor, group: Mapping[str, Any], key: str) -> Any:
    """A state value where its parameter's optimiser wants it: same device, same order of strides; its type stays.

    Step counters stay on the CPU unless the kernel reads them (torch.optim.Optimizer: `fused` and `capturable`).
    """
    if not isinstance(value, Tensor):
        return value
    if value.shape == parameter.shape and key != "step":
        return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
    waits = key == "step" and not (group.get("fused") or group.get("capturable"))
    return value.to("cpu" if waits else parameter.device, copy=True)
