"""States to save, and what a checkpoint must hold afterwards."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lwcl.checkpoints import training_state


def state(step: int, size: int = 8) -> dict[str, dict[str, Tensor]]:
    """A small state that differs from step to step."""
    generator = torch.Generator().manual_seed(step)
    return {"net": {"w": torch.randn(size, generator=generator)}, "queue": {"pointer": torch.tensor(step)}}


def saved(folder: Path, *steps: int) -> None:
    """Save the state of some steps."""
    for step in steps:
        training_state.save_checkpoint(folder, step, state(step), {"epoch": step / 3})


def must_be(found: training_state.Checkpoint | None, step: int) -> None:
    """Assert that a checkpoint is that of a step, all of it."""
    assert found is not None
    assert (found.step, found.metadata) == (step, {"epoch": step / 3})
    assert identical(found.tensors, state(step))


def identical(one: Any, other: Any) -> bool:
    """Whether nested dicts of tensors are equal bit for bit, types and shapes included."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(identical(one[key], other[key]) for key in one)
    same = one.dtype == other.dtype and one.shape == other.shape
    return bool(
        same and one.contiguous().view(-1).view(torch.uint8).equal(other.contiguous().view(-1).view(torch.uint8))
    )


def silent(text: str) -> None:
    """Where nothing may be told."""
    raise AssertionError(text)
