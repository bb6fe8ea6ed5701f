"""Tensors that share memory, such as tied weights: safetensors refuses to write them."""

from collections.abc import Mapping

from torch import Tensor


def untied_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as safetensors writes them: detached, contiguous, on the CPU; tied ones are copied."""
    storages: set[int] = set()
    untied = {}
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        storage = value.untyped_storage().data_ptr()
        untied[name] = value.clone() if storage in storages else value
        storages.add(storage)
    return untied
