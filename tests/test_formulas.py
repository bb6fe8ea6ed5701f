"""Formulas against golden values computed from the papers' own code, and against the same formula written slowly."""

import math

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lwcl import losses as formulas
from lwcl.config.recipes import Optimization
from lwcl.engine import learning_rate
from lwcl.losses import SmoothedTarget, l2_normalise, smoothed_target
from lwcl.methods.light_moco import LightMoCo


def drawn(seed: int, *shapes: tuple[int, int]) -> list[Tensor]:
    """Standard normal float64 tensors from numpy's frozen legacy stream, in order."""
    stream = numpy.random.RandomState(seed)
    return [torch.from_numpy(stream.standard_normal(shape)) for shape in shapes]


def contrast(q: Tensor, k: Tensor, queue: Tensor) -> tuple[Tensor, Tensor]:
    """Positive and negative similarities; the queue is given with its keys as columns."""
    return formulas.positive_negative_cosines(l2_normalise(q), l2_normalise(k), l2_normalise(queue.T))


INFO_NCE = {0.05: 18.130691133396613, 0.07: 12.998952599384976, 0.1: 9.213789263863875, 0.2: 5.165366957478405}


@pytest.mark.parametrize(("temperature", "expected"), INFO_NCE.items())
def test_info_nce_equals_the_published_code(temperature: float, expected: float) -> None:
    q, k, queue = drawn(0, (4, 8), (4, 8), (8, 16))
    assert [float(x.sum()) for x in (q, k, queue)] == pytest.approx(
        [13.818803363194329, -12.790208123611146, 8.914090771413756]
    )
    assert float(formulas.info_nce(*contrast(q, k, queue), temperature)) == pytest.approx(expected, rel=1e-12)


def test_the_gradient_of_info_nce_equals_the_published_codes() -> None:
    q, k, queue = drawn(0, (4, 8), (4, 8), (8, 16))
    q.requires_grad_()
    formulas.info_nce(*contrast(q, k, queue), 0.2).backward()
    assert q.grad is not None
    assert float(q.grad.norm()) == pytest.approx(1.050198871571169, rel=1e-12)
    assert q.grad[0, :3].tolist() == pytest.approx(
        [0.0011766404677223126, 0.2531639647610788, 0.06057368595368695], rel=1e-9
    )
    assert (q.grad * q.detach()).sum(1).abs().max() < 1e-12, "orthogonal to the un-normalised query"


SMOOTHED = [
    ("top", 0.2, 1, 7.889832924261756),
    ("top", 0.2, 5, 8.179660013642728),
    ("top", 0.2, 10, 8.344549561660891),
    ("top", 0.2, 20, 8.598938227472345),
    ("top", 0.5, 10, 6.423450053278813),
    ("groups", 0.2, 5, 8.070974855124863),
    ("groups", 0.2, 10, 8.120765332757042),
    ("groups", 0.2, 20, 8.299089462300593),
    ("groups", 0.2, 30, 8.432880879258686),
    ("halving", 0.2, 10, 6.473186900981189),
    ("nearest", 0.2, 10, 5.286658459780973),
    ("uniform", 0.2, 10, 9.37527440925129),
    ("wide-groups", 0.2, 10, 8.39664508140488),
]


@pytest.mark.parametrize(("target", "mass", "neighbours", "expected"), SMOOTHED)
def test_smoothed_info_nce_equals_the_published_code(
    target: str, mass: float, neighbours: int, expected: float
) -> None:
    q, k, queue = drawn(1, (4, 8), (4, 8), (8, 64))
    assert float(queue.sum()) == pytest.approx(32.85080722378973)
    positive, negative = contrast(q, k, queue)
    assert negative[0].topk(5).indices.tolist() == [4, 39, 30, 3, 35]
    loss = formulas.smoothed_info_nce(positive, negative, 0.1, smoothed_target(target, mass, neighbours, 64))
    assert float(loss) == pytest.approx(expected, rel=1e-12)


def test_no_smoothing_is_info_nce() -> None:
    q, k, queue = drawn(1, (4, 8), (4, 8), (8, 64))
    assert float(formulas.info_nce(*contrast(q, k, queue), 0.1)) == pytest.approx(9.625282567248941, rel=1e-12)


@pytest.mark.parametrize(("mass", "expected"), [(0.0, 17.31208853013237), (0.2, 15.143812446967647)])
def test_the_symmetric_loss_is_the_sum_of_both_ways(mass: float, expected: float) -> None:
    q1, q2, k1, k2, queue = drawn(2, (4, 8), (4, 8), (4, 8), (4, 8), (8, 64))
    light = LightMoCo(temperature=0.1, smoothing=mass, neighbours=10)
    total = light.contrastive_loss(*contrast(q1, k2, queue), epoch=0) + light.contrastive_loss(
        *contrast(q2, k1, queue), epoch=0
    )
    assert float(total) == pytest.approx(expected, rel=1e-12)


def dense(target: SmoothedTarget, negative: Tensor) -> Tensor:
    """The target as a full row of probabilities for each query, written slowly."""
    rows = torch.zeros(len(negative), 1 + negative.shape[1], dtype=negative.dtype)
    rows[:, 0] = target.positive
    rows[:, 1:] = target.uniform
    for row, similarity in zip(rows, negative, strict=True):
        ranked = sorted(range(len(similarity)), key=lambda j: -float(similarity[j]))
        for mass, j in zip(target.ranks, ranked, strict=False):
            row[1 + j] += mass
    return rows


targets = st.one_of(
    st.tuples(st.just("top"), st.integers(1, 64)),
    st.tuples(st.just("groups"), st.sampled_from([5, 10, 20, 30])),
    st.tuples(st.sampled_from(["halving", "nearest", "uniform", "wide-groups"]), st.just(10)),
)


@given(targets, st.floats(0.01, 0.99), st.integers(0, 2**31))
def test_targets_are_probabilities_and_the_loss_is_their_cross_entropy(
    kind: tuple[str, int], mass: float, seed: int
) -> None:
    q, k, queue = drawn(seed, (3, 6), (3, 6), (6, 64))
    positive, negative = contrast(q, k, queue)
    target = smoothed_target(kind[0], mass, kind[1], 64)
    rows = dense(target, negative)
    assert rows.sum(1).tolist() == pytest.approx([1.0] * 3)
    slowly = torch.nn.functional.cross_entropy(torch.cat([positive[:, None], negative], 1) / 0.1, rows)
    assert float(formulas.smoothed_info_nce(positive, negative, 0.1, target)) == pytest.approx(float(slowly), rel=1e-9)


def test_smoothing_over_the_whole_queue_is_uniform_smoothing() -> None:
    q, k, queue = drawn(1, (4, 8), (4, 8), (8, 64))
    losses = [
        formulas.smoothed_info_nce(*contrast(q, k, queue), 0.1, smoothed_target(name, 0.3, 64, 64))
        for name in ("top", "uniform")
    ]
    assert float(losses[0]) == pytest.approx(float(losses[1]), rel=1e-12)


def test_groups_of_an_unpublished_size_are_refused() -> None:
    with pytest.raises(ValueError, match="5, 10, 20, 30"):
        smoothed_target("groups", 0.2, 7, 64)


@given(st.integers(0, 2**31), st.integers(3, 40), st.integers(2, 16))
def test_uniformity_is_at_most_zero_and_blind_to_rotation(seed: int, count: int, dim: int) -> None:
    x, turn = drawn(seed, (count, dim), (dim, dim))
    x, rotation = l2_normalise(x), torch.linalg.qr(turn).Q
    assert float(formulas.uniformity(x)) <= 1e-12
    assert float(formulas.uniformity(x @ rotation)) == pytest.approx(float(formulas.uniformity(x)), abs=1e-9)


def test_one_point_has_no_spread_rank_one_and_no_uniformity() -> None:
    point = l2_normalise(torch.ones(32, 8))
    assert float(formulas.embedding_std(point)) == pytest.approx(0, abs=1e-6)
    assert float(formulas.effective_rank(point)) == pytest.approx(1, abs=1e-3)
    assert float(formulas.uniformity(point)) == pytest.approx(0, abs=1e-6)
    assert float(formulas.alignment(point, point)) == pytest.approx(0, abs=1e-6)


def test_random_directions_fill_the_sphere() -> None:
    (x,) = drawn(3, (4000, 16))
    assert float(formulas.embedding_std(l2_normalise(x))) == pytest.approx(1, abs=0.01)
    assert float(formulas.effective_rank(l2_normalise(x))) == pytest.approx(16, abs=0.05)


MOCO = Optimization(schedule="cosine", per_epoch=True)


@pytest.mark.parametrize(
    ("epoch", "expected"), [(0, 0.06), (1, 0.05999976868144411), (400, 0.03), (799, 2.3131855588331972e-07)]
)
def test_mocos_cosine(epoch: int, expected: float) -> None:
    assert learning_rate(epoch, MOCO, 800, 0.06, 0) == pytest.approx(expected, rel=1e-9)


LIGHT = [0.029929251317499208, 0.05993708478713135, 0.08997640060704817, 0.12, 0.1199685341427309]


@pytest.mark.parametrize(
    ("epoch", "expected"), [*enumerate(LIGHT), (50, 0.0629137333268669), (99, 3.1465857269104e-05)]
)
def test_light_mocos_warm_up(epoch: int, expected: float) -> None:
    assert learning_rate(epoch + 0.7, MOCO, 100, 0.12, 3) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("epoch", "expected"), [(0, 0.0), (50, 0.1), (99, 0.19995065603657317)])
def test_light_mocos_rise_of_smoothing(epoch: int, expected: float) -> None:
    assert LightMoCo(smoothing=0.2, smoothing_rise=100).smoothing_at(epoch) == pytest.approx(
        expected, rel=1e-9, abs=1e-15
    )


def test_smoothing_waits_for_its_warm_up() -> None:
    light = LightMoCo(smoothing=0.2, smoothing_warmup=3)
    assert [light.smoothing_at(epoch) for epoch in (0, 2.9, 3, 10)] == [0, 0, 0.2, 0.2]


def test_the_step_schedule_falls_at_its_milestones() -> None:
    recipe = Optimization(schedule="step", milestones=(0.6, 0.8), step_factor=0.1)
    rates = [learning_rate(epoch, recipe, 100, 30.0, 0) for epoch in (0, 59.9, 60, 79.9, 80, 99)]
    assert rates == pytest.approx([30, 30, 3, 3, 0.3, 0.3])


@given(st.floats(0, 99.9), st.floats(0, 20))
def test_a_learning_rate_is_never_negative_nor_above_its_peak(epoch: float, warmup: float) -> None:
    rate = learning_rate(epoch, Optimization(schedule="cosine"), 100, 0.1, warmup)
    assert 0 <= rate <= 0.1
    assert math.isfinite(rate)
