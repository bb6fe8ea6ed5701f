"""Methods with a teacher: golden values of the published code, properties of losses and anchors, what is trained."""

import dataclasses
import math
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from test_engine import ARCH, CPU, PIXELS, SAID, Run, batches, every_method
from test_formulas import drawn
from torch import Tensor

from lwcl import engine
from lwcl import losses as formulas
from lwcl.config.augmentation import AUGMENTATIONS, Augmentation
from lwcl.config.distill_recipes import DISTILL_RECIPES
from lwcl.config.recipes import Optimization
from lwcl.engine import learning_rate
from lwcl.errors import UsageError
from lwcl.losses import l2_normalise
from lwcl.methods.cluster_classify import ClusterClassify
from lwcl.methods.compress import OneQueue, TwoQueues
from lwcl.methods.disco import DisCo
from lwcl.methods.method import Batch, methods
from lwcl.methods.regression import Regression
from lwcl.methods.seed import SEED
from lwcl.models.encoder import Encoder
from lwcl.models.memory import ClusterClassifier, FeatureBank, Queue
from lwcl.models.momentum_encoder import DropoutFreeMomentumEncoder
from lwcl.settings import field_names
from lwcl.system.compute import Compute

LEADER = torch.nn.Identity()


def stub(**parts: Any) -> Any:
    """A net whose student takes its embeddings, not yet of unit length, for images."""
    return SimpleNamespace(student=lambda embedding: l2_normalise(embedding), **parts)


def seen(*views: Tensor, taught: tuple[Tensor, ...]) -> Batch:
    nobody = torch.full((len(views[0]),), -1)
    return Batch(views, nobody, nobody, taught)


def queue_of(rows: Tensor) -> Queue:
    return Queue(*rows.shape, start=l2_normalise(rows))


def seed_inputs(duplicates: bool) -> tuple[Tensor, Tensor, Queue]:
    """Student, teacher and queue (given with keys as columns), or a queue whose first keys are nearly the teacher's."""
    student, teacher, columns, noise = drawn(3, (4, 8), (4, 8), (8, 16), (4, 8))
    assert [float(x.sum()) for x in (student, teacher, columns)] == pytest.approx(
        [-1.0258935135270817, -8.780943190118112, -6.695890830545343]
    )
    keys = columns.T.clone()
    if duplicates:
        keys[:4] = l2_normalise(teacher) + 0.03 * noise
    return student, teacher, queue_of(keys)


SEED_LOSSES = [
    (False, 1e-4, 3.5179098904008548),
    (False, 0.01, 3.5179098904007073),
    (False, 0.05, 3.5170688571313993),
    (False, 0.07, 3.5132165477915342),
    (False, 0.2, 3.489143568543749),
    (False, 1.0, 3.7962455974373093),
    (True, 1e-4, 3.596468618166823),
    (True, 0.001, 3.58637252904958),
    (True, 0.01, 3.576990676777265),
    (True, 0.07, 3.5752950072070195),
]


@pytest.mark.parametrize(("duplicates", "temperature", "expected"), SEED_LOSSES)
def test_seed_equals_the_published_code(duplicates: bool, temperature: float, expected: float) -> None:
    student, teacher, queue = seed_inputs(duplicates)
    method = SEED(temperature=0.2, teacher_temperature=temperature)
    loss = method.loss(stub(queue=queue), seen(student, taught=(teacher,)), 0.0)
    assert float(loss.total) == pytest.approx(expected, rel=1e-9)
    queue.after_step(LEADER)
    assert torch.equal(queue.rows()[:4], l2_normalise(teacher)), "the queue holds what the teacher says"


def test_seed_with_a_cold_teacher_is_info_nce_with_its_keys() -> None:
    student, teacher, queue = seed_inputs(duplicates=False)
    cold = SEED(teacher_temperature=1e-6).loss(stub(queue=queue), seen(student, taught=(teacher,)), 0.0)
    similar = formulas.positive_negative_cosines(l2_normalise(student), l2_normalise(teacher), queue.rows())
    assert float(cold.total) == pytest.approx(float(formulas.info_nce(*similar, 0.2)), rel=1e-12)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [((1.0, 4.0), 17.907804298124958), ((0.0, 4.0), 13.419596283397507), ((1.0, 0.0), 4.4882080147274515)],
)
def test_disco_weighted_by_the_images_of_a_device_equals_the_published_code(
    weights: tuple[float, float], expected: float
) -> None:
    own, taught, own_key, taught_key, key, columns = drawn(4, *[(4, 8)] * 5, (8, 16))
    net = stub(key=lambda view: l2_normalise(key), queue=queue_of(columns.T))
    method = DisCo(contrast_weight=weights[0], distance_weight=weights[1])
    loss = method.loss(net, seen(own, own_key, taught=(taught, taught_key)), 0.0)
    assert float(loss.total) == pytest.approx(expected, rel=1e-12)
    assert float(loss.metrics["contrast"]) == pytest.approx(4.4882080147274515, rel=1e-12)
    assert 4 * float(formulas.alignment(l2_normalise(own), l2_normalise(taught))) == pytest.approx(
        7.98759251179293, rel=1e-12
    )


@given(st.integers(0, 2**31), st.integers(1, 20))
def test_a_sum_of_squared_distances_is_twice_the_missing_cosines(seed: int, count: int) -> None:
    first, second = map(l2_normalise, drawn(seed, (count, 5), (count, 5)))
    summed = float((first - second).square().sum())
    assert count * float(formulas.alignment(first, second)) == pytest.approx(summed, rel=1e-9, abs=1e-12)


def uniform(stream: numpy.random.RandomState, rows: int, width: int) -> Tensor:
    bound = (3 / width) ** 0.5
    return torch.from_numpy(stream.uniform(0, 1, (rows, width))) * 2 * bound - bound


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [
        (0.04, [9.302926244476254, 14.254307982928811, 27.69597072531103]),
        (0.1, [3.7468664302225587, 4.972953585982672, 10.092013297485195]),
    ],
)
def test_two_queues_equal_the_published_code(temperature: float, expected: list[float]) -> None:
    stream = numpy.random.RandomState(5)
    anchors = FeatureBank(10, (6, 5), wait=False).double()
    anchors.memory[:, 6:] = uniform(stream, 10, 5)
    anchors.memory[:, :6] = uniform(stream, 10, 6)
    method, found = TwoQueues(temperature=temperature, anchors=10, key_momentum=0.999), []
    for _ in range(3):
        teacher, student, key = (torch.from_numpy(stream.standard_normal((4, width))) for width in (6, 5, 5))
        net = stub(anchors=anchors, key=lambda view, key=key: l2_normalise(key))
        found.append(float(method.loss(net, seen(student, taught=(teacher,)), 0.0).total))
        anchors.after_step(LEADER)
    assert found == pytest.approx(expected, rel=1e-9)
    assert int(anchors.pointer) == 2
    sums = [float(part.sum()) for part in anchors.memory.split([6, 5], 1)]
    assert sums == pytest.approx([-0.836817640702223, 3.9063105437117724], rel=1e-9)


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [
        (0.04, [13.113770096004, 6.745772269664989, 10.826718454618158]),
        (0.1, [4.52836164739785, 2.668409698207074, 4.643331326296154]),
    ],
)
def test_one_queue_equals_the_published_code(temperature: float, expected: list[float]) -> None:
    stream = numpy.random.RandomState(6)
    anchors = FeatureBank(10, (6,), wait=False).double()
    anchors.memory.copy_(uniform(stream, 10, 6))
    method, net, found = OneQueue(temperature=temperature, anchors=10), stub(anchors=anchors), []
    for _ in range(3):
        teacher, student = (torch.from_numpy(stream.standard_normal((4, 6))) for _ in range(2))
        found.append(float(method.loss(net, seen(student, taught=(teacher,)), 0.0).total))
        anchors.after_step(LEADER)
    assert found == pytest.approx(expected, rel=1e-9)
    assert float(anchors.memory.sum()) == pytest.approx(1.6789027472029219, rel=1e-9)


def test_a_student_that_says_what_the_teacher_says_has_nothing_to_learn_from_one_queue() -> None:
    anchors = FeatureBank(50, (6,), wait=False).double()
    teacher = drawn(8, (4, 6))[0]
    student = teacher.clone().requires_grad_()
    loss = OneQueue(anchors=50).loss(stub(anchors=anchors), seen(student, taught=(teacher,)), 0.0)
    loss.total.backward()
    assert student.grad is not None
    assert [float(loss.metrics["loss"]), float(student.grad.abs().max())] == pytest.approx([0, 0], abs=1e-12)
    assert float(loss.metrics["overlap"]) == pytest.approx(1)


@given(st.integers(0, 2**31), st.integers(1, 30), st.floats(0.02, 2))
def test_divergence_is_soft_cross_entropy_less_the_targets_entropy(seed: int, anchors: int, temperature: float) -> None:
    z, said = (x / temperature for x in drawn(seed, (3, anchors), (3, anchors)))
    p = said.softmax(1)
    slowly = float(F.cross_entropy(z, p)) - float(torch.special.entr(p).sum(1).mean())
    found = formulas.kl_divergence(z.log_softmax(1), said.log_softmax(1))
    assert float(found) == pytest.approx(slowly, rel=1e-6, abs=1e-9)
    assert float(found) >= -1e-12


def test_gradients_do_not_change_the_length_of_embeddings() -> None:
    (own, other, taught, key), anchors = drawn(9, *[(4, 6)] * 4), FeatureBank(16, (6, 6), wait=False).double()
    net = stub(key=lambda view: l2_normalise(key), queue=queue_of(drawn(10, (16, 6))[0]), anchors=anchors)
    for method in (SEED(), DisCo(), TwoQueues(anchors=16, key_momentum=0.9), OneQueue(anchors=16)):
        own = own.detach().requires_grad_()
        rows = (taught, taught)[: len(method.view_specs())]
        method.loss(net, seen(*(own, other)[: len(method.view_specs())], taught=rows), 0.0).total.backward()
        assert own.grad is not None
        assert float(own.grad.norm()) > 1e-3, method.name
        assert float((own.grad * own.detach()).sum(1).abs().max()) < 1e-9, method.name


@given(st.integers(1, 20), st.lists(st.integers(1, 30), max_size=8), st.booleans())
def test_anchors_hold_the_latest_rows_of_all_networks_in_the_same_places(
    size: int, counts: list[int], wait: bool
) -> None:
    anchors, plain = FeatureBank(size, (1, 2), wait=wait), []
    for number, count in enumerate(counts):
        rows = torch.full((count, 1), number + 2.0) + torch.arange(count)[:, None] / 100
        anchors.push(torch.cat([rows, -rows, rows], 1))
        anchors.after_step(LEADER)
        plain += rows[:, 0].tolist()
    held = anchors.rows()
    assert len(held) == (min(size, len(plain)) if wait else size)
    written = held[held[:, 0] >= 2]
    assert sorted(written[:, 0].tolist()) == sorted(plain[-size:])
    assert torch.equal(written[:, 1:], torch.cat([-written[:, :1], written[:, :1]], 1))
    assert int(anchors.pointer) == len(plain) % size


def test_new_anchors_have_length_one_on_average_and_are_unrelated() -> None:
    first, second = FeatureBank(2000, (64, 64), wait=False).memory.split(64, 1)
    assert float(first.norm(dim=1).mean()) == pytest.approx(1, abs=0.01)
    assert float(first.abs().max()) <= (3 / 64) ** 0.5
    assert float((first * second).sum(1).mean()) == pytest.approx(0, abs=0.01)


def test_nothing_is_compared_with_before_it_is_written() -> None:
    anchors = FeatureBank(10, (6, 5))
    (teacher, student), method = (x.float() for x in drawn(11, (4, 6), (4, 5))), TwoQueues(anchors=10, key_momentum=0.0)
    student.requires_grad_()
    loss = method.loss(stub(anchors=anchors), seen(student, taught=(teacher,)), 0.0)
    loss.total.backward()
    assert student.grad is not None
    assert [float(loss.metrics["loss"]), float(student.grad.abs().max())] == [0, 0]
    assert anchors.similarities(l2_normalise(teacher), 0).shape == (4, 0), "staged rows wait for the step's end"
    anchors.after_step(LEADER)
    assert torch.allclose(anchors.similarities(l2_normalise(teacher), 0).diagonal(), torch.ones(4))
    assert float(method.loss(stub(anchors=anchors), seen(student, taught=(teacher,)), 0.0).metrics["loss"]) > 0


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_anchors_of_any_precision_are_compared_with_in_float32(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formulas, "MEMORY_CHUNK_ROWS", 7)
    anchors, weights = FeatureBank(20, (6, 5), precision, wait=False), torch.randn(4, 20)
    rows = l2_normalise(torch.randn(4, 5)).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = anchors.similarities(rows, 1)
    (found * weights).sum().backward()
    wide = anchors.memory[:, 6:].float()
    assert found.dtype == torch.float32
    assert torch.allclose(found, rows @ wide.T, atol=1e-6)
    assert rows.grad is not None
    assert torch.allclose(rows.grad, weights @ wide, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_anchors_are_state(precision: str) -> None:
    anchors, other = FeatureBank(6, (3,), precision), FeatureBank(6, (3,), precision)
    for bank in (anchors, other):
        bank.push(torch.randn(4, 3))
        bank.after_step(LEADER)
    other.load_state_dict(anchors.state_dict())
    for bank in (anchors, other):
        bank.push(torch.ones(4, 3))
        bank.after_step(LEADER)
    assert {name: tensor.tolist() for name, tensor in anchors.state_dict().items()} == {
        name: tensor.tolist() for name, tensor in other.state_dict().items()
    }
    assert (int(other.pointer), int(other.written)) == (2, 6)


def test_a_key_student_drops_nothing_and_uses_the_statistics_of_the_batch() -> None:
    leader = Encoder(ARCH)
    leader.backbone.drop_rate = 0.5
    follower = DropoutFreeMomentumEncoder(leader.train(), 0.9).train()
    assert torch.equal(follower(PIXELS[:4]), follower(PIXELS[:4])), "without dropout"
    assert not torch.allclose(follower(PIXELS[:4])[:2], follower(PIXELS[:2]), atol=1e-4), "with the batch's statistics"
    assert torch.allclose(follower.eval()(PIXELS[:4])[:2], follower(PIXELS[:2]), atol=1e-4)


def test_without_momentum_the_student_writes_its_anchors_itself() -> None:
    run = Run("2q", key_momentum=0.0)
    assert "key" not in dict(run.net.named_children())
    batch = next(batches(0, 1))
    expected = torch.cat([l2_normalise(batch.teacher_output[0]), Run("2q").net.train().student(batch.views[0])], 1)
    run.go(0, 1)
    assert torch.allclose(run.net.anchors.rows(), expected, atol=1e-6)


def test_accumulated_parts_write_every_anchor_once_after_the_step() -> None:
    recipe = Optimization(epochs=4, batch_size=8, lr=0.01, weight_decay=1e-4, warmup=1.0, accumulate=4)
    run = Run("1q", recipe)
    run.go(0, 1)
    assert torch.allclose(run.net.anchors.rows(), l2_normalise(next(batches(0, 1)).teacher_output[0]))


@pytest.mark.parametrize("kind", [SEED, DisCo])
def test_an_embedding_is_as_wide_as_the_teachers(kind: type[SEED] | type[DisCo]) -> None:
    assert kind(hidden="2x").head(24, 12) == (48, 12)
    assert kind(hidden="0", dim=12).head(24, 12) == (12,)
    with pytest.raises(UsageError, match="--dim 12"):
        kind(dim=128).head(24, 12)


def test_disco_without_a_teachers_weight_is_moco_on_the_same_keys() -> None:
    disco, moco = Run("disco", distance_weight=0.0, hidden="1x"), Run("moco", dim=12)
    batch = next(batches(0, 1))
    losses = [run.method.loss(run.net.train(), batch, 0.0).metrics for run in (disco, moco)]
    assert float(losses[0]["loss"]) == pytest.approx(float(losses[1]["loss"]), rel=1e-5)
    assert losses[0]["top1"] == losses[1]["top1"]


def test_a_symmetric_disco_pushes_the_keys_of_both_views() -> None:
    run = Run("disco", symmetric=True)
    run.go(0, 1)
    assert int(run.net.queue.pointer) == 0, "twice 8 keys in a queue of 16"
    assert DisCo(teacher_bn="train").teacher_uses_batch_stats
    assert not DisCo().teacher_uses_batch_stats


def test_reg_bn_is_blind_to_scale_and_shift_of_each_dimension_and_reg_to_length() -> None:
    student, teacher, scale, shift = drawn(12, (16, 5), (16, 5), (1, 5), (1, 5))
    moved = teacher * (scale.abs() + 0.5) + shift
    plain = formulas.standardised_mse(student, teacher)
    assert float(formulas.standardised_mse(student, moved)) == pytest.approx(float(plain), rel=1e-3)
    assert float(formulas.standardised_mse(moved, teacher)) == pytest.approx(0, abs=1e-3)
    correlation = numpy.mean([numpy.corrcoef(student[:, i], teacher[:, i])[0, 1] for i in range(5)])
    assert float(plain) == pytest.approx(2 - 2 * correlation, rel=1e-3)
    net = Run("regression").net
    batch = next(batches(0, 1))
    losses = [
        Regression().loss(net, batch._replace(teacher_output=(k * batch.teacher_output[0],)), 0.0).metrics
        for k in (1, 7)
    ]
    assert float(losses[0]["loss"]) == pytest.approx(float(losses[1]["loss"]), rel=1e-6)


def test_clusters_are_those_of_the_teachers_features_and_are_state() -> None:
    centres = torch.eye(3, 12)
    features = (centres.repeat(8, 1) + 0.01 * torch.randn(24, 12)) * (1 + torch.rand(24, 1))
    run = Run("cluster-classify")
    run.method.initialise(run.net, features, 0)
    clusters = run.net.clusters
    labels = clusters.nearest(features)
    assert sorted(labels[:3].tolist()) == [0, 1, 2]
    assert torch.equal(labels, labels[:3].repeat(8)), "whatever the length of a feature"
    assert torch.allclose(clusters.centroids[labels[:3]], centres, atol=0.02)
    other = ClusterClassifier(3, run.net.student.width, 12)
    other.load_state_dict(clusters.state_dict())
    assert torch.equal(other.nearest(features), labels)
    with pytest.raises(UsageError, match="clusters"):
        ClusterClassify(clusters=3).initialise(run.net, features[:2], 0)


TAUGHT = [name for name in every_method() if methods()[name].teacher_space]


@pytest.mark.parametrize("name", TAUGHT)
def test_every_trained_parameter_hears_the_teacher(name: str) -> None:
    fill = {"fill": "random"} if name in ("1q", "2q") else {}
    run = Run(name, **fill)
    batch = next(batches(0, 1))
    gradients = []
    for said in (SAID[batch.index], SAID[batch.index].flip(0)):
        run.net.train().zero_grad()
        run.method.loss(run.net, batch._replace(teacher_output=(said, said)), 0.0).total.backward()
        gradients.append({key: p.grad for key, p in run.net.named_parameters() if p.requires_grad})
    for key, first in gradients[0].items():
        second = gradients[1][key]
        assert first is not None and second is not None, key
        assert float(first.norm()) > 0, key
        assert not torch.equal(first, second), key


@pytest.mark.parametrize("name", TAUGHT)
def test_losses_stay_in_float32_under_bfloat16_and_their_measures_are_finite(name: str) -> None:
    run = Run(name)
    half = Compute(CPU.device, torch.bfloat16)
    steps = list(
        engine.fit(
            run.method, run.net, batches(0, 3), run.recipe, run.optimizer, half, steps_per_epoch=3, start=0, seed=0
        )
    )
    assert all(math.isfinite(value) for step in steps for value in step.metrics.values())
    assert steps[-1].metrics["loss"] > 0
    first, second = steps[-1].pairs or ()
    assert first.shape == second.shape
    assert (first.dtype, second.dtype, second.requires_grad) == (torch.float32, torch.float32, False)
    assert torch.allclose(torch.cat([first, second]).norm(dim=1), torch.ones(16), atol=1e-4)


@pytest.mark.parametrize("name", TAUGHT)
def test_a_method_learns_what_a_teacher_says(name: str) -> None:
    """The loss on a few images that are seen again and again falls; with anchors, once these are written."""
    run = Run(name, Optimization(epochs=20, batch_size=8, lr=0.01, weight_decay=0.0, warmup=0.0, schedule="constant"))
    losses = [step.metrics["loss"] for step in run.go(0, 15)]
    assert sum(losses[-3:]) < 0.98 * sum(losses[3:6])


def rates(name: str, epochs: int, *asked: int) -> list[float]:
    """Learning rates of a recipe at batch 256, at epochs counted from 0, as the published code holds them."""
    layer = DISTILL_RECIPES[name].layer(name, "resnet18")[1]
    recipe = Optimization(**{key: layer[key] for key in layer if key in field_names(Optimization)}, per_epoch=True)
    assert recipe.warmup is not None
    return [learning_rate(epoch, recipe, epochs, recipe.base_lr, recipe.warmup) for epoch in asked]


@pytest.mark.parametrize("name", ["compress-2q", "compress-1q"])
def test_compress_lowers_its_rate_after_its_epochs_90_and_120(name: str) -> None:
    found = rates(name, 130, *(number - 1 for number in (1, 90, 91, 120, 121, 130)))
    assert found == pytest.approx([0.01, 0.01, 0.002, 0.002, 0.0004, 0.0004])


def test_seeds_rate_at_batch_256_is_the_published_one_without_its_flat_ramp() -> None:
    assert rates("seed", 200, 0, 5, 100) == pytest.approx([0.03, 0.02995376000599692, 0.015])
    assert rates("seed", 200, 4) == pytest.approx([0.03], rel=2e-3), "the published ramp is flat for 5 epochs"


@pytest.mark.parametrize("name", DISTILL_RECIPES)
def test_every_number_of_a_teaching_recipe_is_a_setting_with_a_source(name: str) -> None:
    published = DISTILL_RECIPES[name]
    known = {
        "augmentation",
        *field_names(Optimization),
        *field_names(Augmentation),
        *field_names(methods()[published.method]),
    }
    assert set(published.settings) <= known
    assert all(len(cited.source.split()) >= 2 for cited in published.settings.values())
    assert published.settings["augmentation"].value in AUGMENTATIONS


def test_settings_of_taught_methods_mean_one_thing_each() -> None:
    """A name that a view's or an optimizer's setting has too would be one flag for both."""
    shared = {name for kind in (Optimization, Augmentation) for name in field_names(kind)}
    assert not {field.name for name in TAUGHT for field in dataclasses.fields(methods()[name])} & shared
