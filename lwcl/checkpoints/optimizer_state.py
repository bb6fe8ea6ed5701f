"""An optimizer's state as tensors and JSON, bit for bit and without pickle (torch.save would pickle both)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lwcl.errors import StorageError


def pack_optimizer(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state of an optimizer as (tensors, metadata) for a checkpoint: `state.0.momentum_buffer`, `group.0.lr`.

    Tensors are not copied. Raises `TypeError` for state that is neither tensors nor JSON.
    """
    packed = optimizer.state_dict()
    values = {f"state.{index}.{key}": value for index, state in packed["state"].items() for key, value in state.items()}
    for number, group in enumerate(packed["param_groups"]):
        values |= {f"group.{number}.{key}": value for key, value in group.items() if key != "params"}
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    metadata = {name: json_value(name, value) for name, value in values.items() if name not in tensors}
    return tensors, {"shapes": parameter_shapes(optimizer), "values": metadata}


def unpack_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Restore what `pack_optimizer` returned into a new optimizer of the same kind and parameters.

    Raises `StorageError` if its parameters differ in number, grouping or shape.
    """
    if metadata["shapes"] != parameter_shapes(optimizer):
        what = "The optimizer state in the checkpoint belongs to another model."
        raise StorageError(what, "Its parameters differ in number or shape.", "Give another --out, or --overwrite.")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    group_of = {parameter: group for group in optimizer.param_groups for parameter in group["params"]}
    optimizer.state.clear()
    for name, value in {**metadata["values"], **tensors}.items():
        kind, number, key = name.split(".", 2)
        if kind == "group":
            group = optimizer.param_groups[int(number)]
            group[key] = tuple(value) if isinstance(group.get(key), tuple) else value
        else:
            parameter = parameters[int(number)]
            optimizer.state[parameter][key] = place_like_parameter(value, parameter, group_of[parameter], key)


def parameter_shapes(optimizer: Optimizer) -> list[list[list[int]]]:
    """The shape of every parameter of every group."""
    return [[list(parameter.shape) for parameter in group["params"]] for group in optimizer.param_groups]


def json_value(name: str, value: Any) -> Any:
    """`value` if it survives JSON unchanged (a tuple becomes a list), else raises `TypeError`."""
    items = value if isinstance(value, list | tuple) else [value]
    if all(item is None or isinstance(item, bool | int | float | str) for item in items):
        return value
    raise TypeError(f"{name}: cannot store a {type(value).__name__} in a checkpoint")


def place_like_parameter(value: Any, parameter: Tensor, group: Mapping[str, Any], key: str) -> Any:
    """A state value where the optimizer expects it: on its parameter's device, with its strides; the dtype is kept.

    Step counters stay on the CPU unless a kernel reads them (torch.optim.Optimizer: `fused` and `capturable`).
    """
    if not isinstance(value, Tensor):
        return value
    if value.shape == parameter.shape and key != "step":
        return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
    on_cpu = key == "step" and not (group.get("fused") or group.get("capturable"))
    return value.to("cpu" if on_cpu else parameter.device, copy=True)
