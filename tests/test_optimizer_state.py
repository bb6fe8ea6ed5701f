"""An optimizer's state goes through a checkpoint and training goes on bit for bit."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from saving import identical, silent
from timm.optim import create_optimizer_v2
from torch import nn

from lwcl.checkpoints import training_state
from lwcl.checkpoints.optimizer_state import pack_optimizer, unpack_optimizer
from lwcl.errors import StorageError

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"opt": "momentum", "momentum": 0.9},
    "fused sgd": {"opt": "momentum", "momentum": 0.9, "fused": True},
    "nesterov": {"opt": "sgd", "momentum": 0.9},
    "sgd without momentum": {"opt": "momentum", "momentum": 0.0},
    "adamw": {"opt": "adamw", "betas": (0.9, 0.95)},
    "fused adamw": {"opt": "adamw", "fused": True},
    "lars": {"opt": "lars", "momentum": 0.9},
    "lamb": {"opt": "lamb"},
    "nadam": {"opt": "nadam"},
}


def learner(kind: dict[str, Any], seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A small network in channels-last, with an optimizer that decays only its weights."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 2))
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net, create_optimizer_v2(net, lr=0.1 / 3, weight_decay=1e-4, **kind)


def train(net: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    """Steps `first` to `last` - 1, each with data and a learning rate of its own."""
    for step in range(first, last):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 / (step + 3)
        images = torch.randn(5, 3, 6, 6, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        net(images).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("kind", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_training_goes_on_bit_for_bit(tmp_path: Path, kind: dict[str, Any]) -> None:
    net, optimizer = learner(kind, seed=0)
    train(net, optimizer, 0, 3)
    tensors, facts = pack_optimizer(optimizer)
    training_state.save_checkpoint(tmp_path, 3, {"net": net.state_dict(), "optimizer": tensors}, {"optimizer": facts})
    options = copy.deepcopy([{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups])
    train(net, optimizer, 3, 6)

    fresh, optimizer = learner(kind, seed=1)
    found = training_state.latest_checkpoint(tmp_path, silent)
    assert found is not None
    fresh.load_state_dict(found.tensors["net"])
    unpack_optimizer(optimizer, found.tensors["optimizer"], found.metadata["optimizer"])
    assert [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups] == options
    train(fresh, optimizer, 3, 6)
    assert identical(fresh.state_dict(), net.state_dict())


def test_momentum_keeps_the_order_of_its_parameters_memory() -> None:
    net, optimizer = learner(OPTIMIZERS["sgd"], seed=0)
    train(net, optimizer, 0, 1)
    tensors, facts = pack_optimizer(optimizer)
    unpack_optimizer(optimizer, {name: tensor.contiguous() for name, tensor in tensors.items()}, facts)
    buffer = optimizer.state[net[0].weight]["momentum_buffer"]  # type: ignore[index]
    assert buffer.is_contiguous(memory_format=torch.channels_last)


def test_the_state_of_another_models_optimiser_is_refused() -> None:
    _, optimizer = learner(OPTIMIZERS["sgd"], seed=0)
    other = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    with pytest.raises(StorageError, match="another model"):
        unpack_optimizer(other, *pack_optimizer(optimizer))


def test_a_state_that_json_does_not_hold_is_refused() -> None:
    net, optimizer = learner(OPTIMIZERS["sgd"], seed=0)
    optimizer.state[next(net.parameters())]["hook"] = print
    with pytest.raises(TypeError, match="hook"):
        pack_optimizer(optimizer)
