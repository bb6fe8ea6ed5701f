"""Several processes compute what one process does: every method, with and without batch norm."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import together
from test_golden import SIZE, SMALL, drawn, every_trajectory, with_drawn_weights
from torch import Tensor, nn

from lwcl import engine
from lwcl.config.auto import RunFacts, resolve_plan
from lwcl.config.plan import ResolvedConfig, plan_run
from lwcl.config.recipes import Optimization
from lwcl.config.train_options import TRAIN_OPTIONS
from lwcl.data.loader import own_share
from lwcl.errors import UsageError
from lwcl.methods.method import Batch, methods
from lwcl.models.backbone import batch_norms
from lwcl.models.encoder import Encoder
from lwcl.models.momentum_encoder import MomentumEncoder
from lwcl.models.net import Net
from lwcl.system import distributed
from lwcl.system.compute import Compute
from lwcl.training.build import build_net, split_batches
from lwcl.training.resolve import check_sync_bn

BATCH = 12
#: Batch norm of so many images doubles a rounding error a step; of four it makes ten of it, and hides what is compared.
EACH = 6
CPU = Compute(torch.device("cpu"))
CASES = {name: case for name, case in every_trajectory().items() if "local-crops" not in name} | {
    "moco local-crops": ("moco", {"symmetric": True, "local_crops": 1})
}


def without_batch_norm(net: nn.Module) -> None:
    """Removes every batch norm of a net."""
    for parent in list(net.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                setattr(parent, name, nn.Identity())


def trained(name: str, settings: dict[str, Any], steps: int, *, parts: int, accumulate: int = 1) -> Net:
    """A net after some float64 steps, in any number of processes; `parts` of the batch norm, 0: without any."""
    kind = methods()[name]
    method = kind(**{key: value for key, value in SMALL.items() if key in kind.__dataclass_fields__} | settings)
    arch = "test_efficientnet" if parts else "test_vit"
    teacher = Encoder("test_resnet", (12,))
    with_drawn_weights(teacher.eval().requires_grad_(False), 1000)
    say: Callable[[Tensor], Tensor] = teacher.features if kind.teacher_space == "features" else teacher
    width = (teacher.width if kind.teacher_space == "features" else 12) if kind.teacher_space else 0
    torch.manual_seed(0)
    size = {} if parts else {"image_size": SIZE}
    student = Encoder(arch, lambda own: method.head(own, width), norm=method.head_norm, **size)
    net = method.build(student, width)
    if not parts:
        without_batch_norm(net)
        assert not list(batch_norms(net))
    with_drawn_weights(net, 0)
    split_batches(net, parts or 1)
    if kind.needs_teacher_features:
        method.initialise(net, drawn((30, width), 5).float(), 0)
        net.double()
    size_of_batch = max(BATCH, EACH * parts * distributed.world_size())
    recipe = Optimization(
        epochs=20, batch_size=size_of_batch, lr=0.01, weight_decay=1e-4, warmup=1.0, accumulate=accumulate
    )
    optimizer = engine.build_optimizer(net, recipe, 0.01, 1e-4)
    own = functools.partial(own_batch, size_of_batch, len(method.view_specs()), say if width else None, accumulate)
    batches = [own(step) for step in range(steps)]
    for _ in engine.fit(method, net, batches, recipe, optimizer, CPU, steps_per_epoch=2, start=0, seed=0):
        pass
    return net


def own_batch(size: int, views: int, teacher: Callable[[Tensor], Tensor] | None, accumulate: int, step: int) -> Batch:
    """This process's share of the batch of a step."""
    index = own_share(torch.arange(size), accumulate)
    images = tuple(drawn((views, size, 3, SIZE, SIZE), 2000 + step)[:, index].unbind(0))
    with torch.no_grad():
        outputs = tuple(teacher(view) for view in images) if teacher else ()
    return Batch(images, index, torch.full((len(index),), -1), outputs)


def summary(net: Net) -> dict[str, list[float]]:
    """The start and the sums of every tensor of a net: what differs if anything does."""
    state = {name: tensor.double().flatten() for name, tensor in net.state_dict().items()}
    return {name: [*one[:8].tolist(), float(one.sum()), float(one.square().sum())] for name, one in state.items()}


def run_of(cases: dict[str, tuple[str, dict[str, Any]]], steps: int, parts: int) -> dict[str, Any]:
    """The summary of every case after training, without and with batch norm."""
    return {
        f"{name}, {'batch norm' if with_parts else 'no batch norm'}": summary(
            trained(*case, steps, parts=with_parts // distributed.world_size())
        )
        for name, case in cases.items()
        for with_parts in (0, parts)
    }


def largest_difference(one: dict[str, list[float]], other: dict[str, list[float]]) -> float:
    """The largest difference of two summaries, relative to numbers above 1."""
    assert one.keys() == other.keys()
    pairs = [pair for name in one for pair in zip(one[name], other[name], strict=True)]
    return max(abs(a - b) / max(1.0, abs(a)) for a, b in pairs)


@pytest.mark.timeout(2500)  # 20 steps of everything, on a machine that may be busy
@pytest.mark.parametrize(
    ("processes", "steps"),
    [(2, 5), pytest.param(2, 20, marks=pytest.mark.slow), pytest.param(3, 20, marks=pytest.mark.slow)],
)
def test_several_processes_train_as_one_does_with_every_method(processes: int, steps: int, tmp_path: Path) -> None:
    cases = CASES if steps == 20 else {name: case for name, case in CASES.items() if name in methods()}
    alone = together(1, lambda: run_of(cases, steps, processes), tmp_path / "1")[0]
    several = together(processes, lambda: run_of(cases, steps, processes), tmp_path / "n")
    differences = {name: largest_difference(alone[name], several[0][name]) for name in alone}
    print(f"{processes} processes, {steps} steps:", {name: f"{value:.1e}" for name, value in differences.items()})
    assert max(differences.values()) < 1e-6, differences
    assert all(one == several[0] for one in several), "every process has the same weights, statistics and memories"


def config(name: str, **chosen: Any) -> ResolvedConfig:
    """The configuration of a run by a method."""
    kind = methods()[name]
    asked = {"data": ["photos"], "arch": "test_efficientnet", "image_size": 32, "device": "cpu", "method": name}
    asked |= chosen
    asked |= {} if kind.command == "pretrain" else {"teacher": "random/test_resnet"}
    return resolve_plan(plan_run(kind.command, asked), RunFacts(10_000, 32, 2, accelerated=True))


@pytest.mark.parametrize("name", [name for name, kind in methods().items() if kind.command in TRAIN_OPTIONS])
def test_batch_norm_over_all_processes_is_the_same_net(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    width = 64 if methods()[name].teacher_space else 0
    plain, synced = (build_net(config(name, sync_bn=sync), width) for sync in (False, True))
    assert [type(one).__name__ for one in batch_norms(plain)].count("SyncBatchNorm") == 0
    assert len(list(batch_norms(synced))) == len(list(batch_norms(plain)))
    assert all(isinstance(one, nn.SyncBatchNorm) for one in batch_norms(synced))
    before, after = plain.state_dict(), synced.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert [key for key, _ in plain.named_parameters()] == [key for key, _ in synced.named_parameters()]
    images = drawn((3, 3, 32, 32), 1).float()
    assert torch.equal(plain.student.eval()(images), synced.student.eval()(images))
    assert engine.running_statistics(synced.train()) == [], "equal in all processes, so not averaged"
    monkeypatch.setattr(distributed, "is_distributed", lambda: True)
    for module in synced.children():
        if isinstance(module, MomentumEncoder):
            module.encoder.eval()  # trains on accelerators only
            assert len(module(images)) == 3, "nothing to shuffle, so nothing is exchanged"


def test_batch_norm_over_all_processes_is_refused_where_torch_has_none() -> None:
    with pytest.raises(UsageError, match=r"needs accelerators[\s\S]*fewer --devices or a larger --batch-size"):
        check_sync_bn(config("moco", sync_bn=True))
    with pytest.raises(UsageError, match=r"--bn-splits[\s\S]*Remove one of them"):
        check_sync_bn(config("moco", sync_bn=True, bn_splits=2))
    check_sync_bn(config("moco"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["moco", "simclr", "msf", "disco"])
def test_micro_batches_are_the_same_in_several_processes(name: str, tmp_path: Path) -> None:
    def run() -> list[dict[str, Any]]:
        return [
            summary(trained(name, {}, 3, parts=parts // distributed.world_size(), accumulate=2)) for parts in (0, 2)
        ]

    alone, (first, second) = together(1, run, tmp_path / "1")[0], together(2, run, tmp_path / "2")
    assert first == second
    for one, other in zip(alone, first, strict=True):
        assert largest_difference(one, other) < 1e-6
