"""The training loop, for every method by name: what moves, what does not, and that where it stops changes nothing."""

import copy
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lwcl import engine
from lwcl.checkpoints.optimizer_state import pack_optimizer, unpack_optimizer
from lwcl.config.recipes import Optimization
from lwcl.engine import NonFiniteError, TrainStep
from lwcl.methods.method import Batch, Method, methods
from lwcl.metrics.health import all_finite
from lwcl.models.encoder import Encoder
from lwcl.models.memory import Queue
from lwcl.models.net import Net
from lwcl.rng import epoch_permutation
from lwcl.system.compute import Compute
from lwcl.system.device import set_matmul_precision

ARCH, SIZE, COUNT, BATCH = "test_efficientnet", 32, 24, 8
CPU = Compute(torch.device("cpu"))
SMALL = {"queue_size": 16, "key_momentum": 0.9, "neighbours": 3, "anchors": 16, "clusters": 3}
SMALL |= {"prototypes": 12, "queue_start": 0.0}
RECIPE = Optimization(epochs=4, batch_size=BATCH, lr=0.01, weight_decay=1e-4, warmup=1.0)
PIXELS = torch.randn(COUNT, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
SAID = torch.randn(COUNT, 12, generator=torch.Generator().manual_seed(1))  # what a teacher says of each image


def every_method(*settings: str) -> list[str]:
    """The methods that train an encoder; those that have all of these settings."""
    return [
        name
        for name, kind in methods().items()
        if kind.command != "probe" and set(settings) <= set(kind.__dataclass_fields__)
    ]


#: MoCo and its kin, whose key encoder copies the student at momentum 0 (SimCLR then has none).
MOCO_LIKE = [name for name in every_method("queue_size", "key_momentum") if name != "simclr"]


def method_of(name: str, **settings: object) -> Method:
    kind = methods()[name]
    known = {key: value for key, value in SMALL.items() if key in kind.__dataclass_fields__}
    return kind(**{**known, **settings})


def batches(start: int, stop: int) -> Iterator[Batch]:
    for step in range(start, stop):
        epoch, place = divmod(step, COUNT // BATCH)
        index = epoch_permutation(COUNT, 0, epoch)[place * BATCH : (place + 1) * BATCH]
        views, taught = (PIXELS[index], PIXELS[index].flip(3)), (SAID[index], SAID[index])
        yield Batch(views, index, torch.full((BATCH,), -1), taught)


class Run:
    """A net and its optimizer, trained step by step."""

    def __init__(self, name: str, recipe: Optimization = RECIPE, **settings: object) -> None:
        torch.manual_seed(0)
        self.method, self.recipe = method_of(name, **settings), recipe
        width = Encoder(ARCH).width
        torch.manual_seed(0)
        taught = SAID.shape[1]
        self.net: Net = self.method.build(Encoder(ARCH, self.method.head(width, taught)), taught)
        self.method.initialise(self.net, SAID, 0)
        self.optimizer = engine.build_optimizer(self.net, recipe, 0.01, 1e-4)

    def go(self, start: int, stop: int) -> list[TrainStep]:
        return list(
            engine.fit(
                self.method,
                self.net,
                batches(start, stop),
                self.recipe,
                self.optimizer,
                CPU,
                steps_per_epoch=COUNT // BATCH,
                start=start,
                seed=0,
            )
        )

    def state(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self.net.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("name", every_method())
def test_a_run_resumed_in_mid_epoch_equals_an_unbroken_one(name: str) -> None:
    unbroken, broken, resumed = Run(name), Run(name), Run(name)
    records = unbroken.go(0, 7)
    broken.go(0, 4)
    packed = pack_optimizer(broken.optimizer)
    resumed.net.load_state_dict(copy.deepcopy(broken.net.state_dict()))
    unpack_optimizer(resumed.optimizer, *packed)
    again = resumed.go(4, 7)
    assert same(unbroken.state(), resumed.state())
    assert [(r.metrics, r.lr, r.grad_norm) for r in records[4:]] == [(r.metrics, r.lr, r.grad_norm) for r in again]


@pytest.mark.parametrize("name", every_method())
def test_the_same_seed_twice_gives_the_same_bits(name: str) -> None:
    first, second = Run(name), Run(name)
    first.go(0, 3)
    second.go(0, 3)
    assert same(first.state(), second.state())


@pytest.mark.parametrize("name", every_method())
def test_every_parameter_of_the_student_moves(name: str) -> None:
    run = Run(name)
    before = {key: value.clone() for key, value in run.net.student.named_parameters()}
    run.go(0, 2)
    still = [key for key, value in run.net.student.named_parameters() if torch.equal(value, before[key])]
    assert still == []


@pytest.mark.parametrize("name", MOCO_LIKE)
def test_nothing_without_a_gradient_is_moved_by_the_optimiser(name: str) -> None:
    run = Run(name, key_momentum=0.0)
    before = [p.clone() for p in run.net.key.parameters()]
    run.go(0, 1)
    leaders = list(run.net.student.parameters())
    assert all(torch.equal(a, b) for a, b in zip(leaders, run.net.key.parameters(), strict=True)), "momentum 0 copies"
    assert not all(torch.equal(a, b) for a, b in zip(before, run.net.key.parameters(), strict=True))
    assert all(p.grad is None and not p.requires_grad for p in run.net.key.parameters())


@pytest.mark.parametrize("name", [*every_method("queue_size"), *every_method("anchors")])
def test_a_batch_never_meets_its_own_keys(name: str) -> None:
    run = Run(name)
    queue = next(part for part in run.net.children() if isinstance(part, Queue))
    before = queue.rows().clone()
    seen: list[Tensor] = []
    original = queue.rows
    queue.rows = lambda: (seen.append(original().clone()), original())[1]  # type: ignore[method-assign]
    run.go(0, 1)
    assert seen
    assert all(torch.equal(rows, before) for rows in seen)
    assert not torch.equal(original(), before)


def test_a_symmetric_loss_pushes_both_batches_of_keys() -> None:
    one, both = Run("moco", symmetric=False), Run("moco", symmetric=True)
    for run, expected in ((one, 8), (both, 0)):
        run.go(0, 1)
        assert int(run.net.queue.pointer) == expected


def test_accumulating_parts_pushes_all_keys_once_and_keeps_the_key_encoder_still() -> None:
    run = Run("moco", Optimization(epochs=4, batch_size=BATCH, lr=0.01, weight_decay=1e-4, warmup=1.0, accumulate=4))
    key = copy.deepcopy(run.net.key)
    queue = run.net.queue.rows().clone()
    run.go(0, 1)
    expected = torch.cat([key(part) for part in next(batches(0, 1)).views[1].split(2)])
    assert torch.allclose(run.net.queue.rows()[:BATCH], expected, atol=1e-6), "keys of the encoder before it followed"
    assert torch.equal(run.net.queue.rows()[BATCH:], queue[BATCH:])


def test_accumulated_gradients_are_those_of_the_whole_batch_without_batch_norm() -> None:
    def gradient(accumulate: int) -> list[Tensor]:
        recipe = Optimization(epochs=4, batch_size=BATCH, lr=1e-8, weight_decay=0.0, warmup=0.0, accumulate=accumulate)
        torch.manual_seed(0)
        method = method_of("moco")
        net = method.build(Encoder("test_vit", method.head(64), image_size=SIZE))
        optimizer = engine.build_optimizer(net, recipe, 1e-8, 0.0)
        list(engine.fit(method, net, batches(0, 1), recipe, optimizer, CPU, steps_per_epoch=3, start=0, seed=0))
        return [p.grad for p in net.student.parameters() if p.grad is not None]

    for whole, parts in zip(gradient(1), gradient(4), strict=True):
        assert torch.allclose(whole, parts, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_step_that_is_not_finite_stops_before_the_update(what: str) -> None:
    run = Run("moco")
    run.go(0, 2)
    before = {key: value.clone() for key, value in run.net.student.named_parameters()}
    if what == "loss":
        poisoned = (b._replace(views=(b.views[0] * float("nan"), b.views[1])) for b in batches(2, 3))
    else:
        poisoned = batches(2, 3)
        next(run.net.student.parameters()).register_hook(lambda gradient: gradient * float("inf"))
    fitted = engine.fit(run.method, run.net, poisoned, RECIPE, run.optimizer, CPU, steps_per_epoch=3, start=2, seed=0)
    with pytest.raises(NonFiniteError, match=f"{what} is .* at step 3"):
        next(iter(fitted))
    assert all(torch.equal(value, before[key]) for key, value in run.net.student.named_parameters())


def test_the_learning_rate_of_a_step_is_that_of_its_place() -> None:
    steps = Run("moco").go(0, 6)
    expected = [engine.learning_rate(n / 3, RECIPE, 4, 0.01, 1.0) for n in range(6)]
    assert [step.lr for step in steps] == expected
    assert [step.epoch for step in steps] == [n / 3 for n in range(1, 7)]


def test_bfloat16_keeps_losses_in_float32_and_trains() -> None:
    run = Run("light-moco")
    half = Compute(torch.device("cpu"), torch.bfloat16, channels_last=True)
    fitted = engine.fit(
        run.method, run.net, batches(0, 2), RECIPE, run.optimizer, half, steps_per_epoch=3, start=0, seed=0
    )
    pairs = [step.pairs for step in fitted]
    assert pairs[0] is not None
    assert pairs[0][0].dtype == torch.float32


def test_features_come_in_order_and_leave_the_mode_as_it_was() -> None:
    encoder = Encoder(ARCH).train()
    parts = [Batch((PIXELS[i : i + 8],), torch.arange(i, i + 8), torch.arange(i, i + 8)) for i in range(0, COUNT, 8)]
    found = engine.extract_features(encoder, parts, CPU, COUNT)
    assert encoder.training
    whole = engine.extract_features(encoder, [Batch((PIXELS,), torch.arange(COUNT), torch.arange(COUNT))], CPU, COUNT)
    assert torch.allclose(found, whole, atol=1e-5)
    assert list(itertools.chain(found.shape)) == [COUNT, encoder.width]


HALF = Compute(torch.device("cpu"), torch.bfloat16, channels_last=True)


@pytest.mark.parametrize("compute", [CPU, HALF])
def test_features_are_to_the_bit_those_of_their_batches_joined(compute: Compute) -> None:
    encoder = Encoder(ARCH).eval()
    parts = [
        Batch((PIXELS[i : i + 10],), torch.arange(i, min(i + 10, COUNT)), SAID[i : i + 10, 0].long())
        for i in (0, 10, 20)
    ]
    found = engine.extract_features(encoder, iter(parts), compute, COUNT)
    with torch.inference_mode(), compute.context():
        rows = [encoder.features(part.views[0]).float() for part in parts]
    assert found.dtype == torch.float32
    assert torch.equal(found, torch.cat(rows))


@pytest.mark.parametrize("promised", [COUNT - 1, COUNT + 1])
def test_features_of_more_or_fewer_images_than_promised_are_no_result(promised: int) -> None:
    with pytest.raises((AssertionError, RuntimeError)):
        engine.extract_features(
            Encoder(ARCH), [Batch((PIXELS,), torch.arange(COUNT), torch.arange(COUNT))], CPU, promised
        )


class Blank:
    """What `extract_features` asks of an encoder, for features that cost nothing."""

    width, training = 1000, False

    def eval(self) -> None: ...

    def train(self, mode: bool) -> None: ...

    def features(self, images: Tensor) -> Tensor:
        return torch.ones(len(images), self.width)


def peak() -> int:
    """Resident memory of this process at its largest, bytes."""
    return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the kernel's peak cannot be reset")
def test_the_features_of_many_images_are_in_memory_once() -> None:
    parts = (Batch((torch.zeros(500, 1),), torch.arange(500), torch.zeros(500)) for _ in range(100))
    Path("/proc/self/clear_refs").write_text("5")
    before = peak()
    found = engine.extract_features(Blank(), parts, CPU, 50_000)  # type: ignore[arg-type]
    assert all_finite(found) and float(found[-1, -1]) == 1
    assert peak() - before < 1.2 * found.nbytes


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_not_finite_is_seen_wherever_it_is(bad: float) -> None:
    rows = torch.randn(50, 7)
    assert all_finite(rows)
    rows[31, 5] = bad
    assert not all_finite(rows)


def test_tf32_is_for_cuda_and_never_where_float32_was_asked_for(monkeypatch):
    asked: list[str] = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", asked.append)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    for device, autocast in (("cpu", torch.bfloat16), ("cuda", torch.bfloat16), ("cuda", None)):
        set_matmul_precision(Compute(torch.device(device), autocast))
    assert asked == ["high", "highest"]
    assert torch.backends.cudnn.allow_tf32 is False
