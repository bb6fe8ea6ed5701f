"""SimCLR: NT-Xent against the formula written slowly, and what its variants change."""

import math
from typing import Any

import pytest
import torch
from test_formulas import drawn
from torch import Tensor, nn

from lwcl.losses import l2_normalise
from lwcl.methods.method import Batch
from lwcl.methods.simclr import SimCLR
from lwcl.models.encoder import Encoder
from lwcl.models.memory import Queue

B, T = 5, 0.3


class Stub:
    """A net whose student and key encoder take projections, not yet of unit length, for images."""

    predictor = nn.Sequential()

    def __init__(self, queue: Tensor | None = None) -> None:
        self.queue = Queue(*queue.shape, start=queue) if queue is not None else None

    def student(self, projection: Tensor) -> Tensor:
        return l2_normalise(projection)


def loss_of(method: SimCLR, views: list[Tensor], queue: Tensor | None = None) -> Tensor:
    nobody = torch.full((B,), -1)
    return method.loss(Stub(queue), Batch(tuple(views), nobody, nobody), 0.0).total  # type: ignore[arg-type]


def slow_nt_xent(views: list[Tensor], positive_in_denominator: bool = True, queue: Tensor | None = None) -> float:
    """Mean over the 2 B views of -log of the positive's share among all others but the view itself (eq. 1)."""
    rows = [l2_normalise(view)[i] for view in views[:2] for i in range(B)]
    total = 0.0
    for i, row in enumerate(rows):
        partner = (i + B) % (2 * B)
        others = [j for j in range(2 * B) if j not in (i, partner)]
        terms = [math.exp(float(row @ rows[j]) / T) for j in others]
        terms += [math.exp(float(row @ key) / T) for key in (queue if queue is not None else [])]
        positive = math.exp(float(row @ rows[partner]) / T)
        total -= math.log(positive / (sum(terms) + positive * positive_in_denominator))
    return total / (2 * B)


def test_the_loss_is_nt_xent() -> None:
    views = drawn(1, (B, 4), (B, 4))
    assert float(loss_of(SimCLR(temperature=T), views)) == pytest.approx(slow_nt_xent(views), rel=1e-12)


def test_decoupled_leaves_the_positive_out_of_the_denominator() -> None:
    views = drawn(2, (B, 4), (B, 4))
    found = float(loss_of(SimCLR(temperature=T, decoupled=True), views))
    assert found == pytest.approx(slow_nt_xent(views, positive_in_denominator=False), rel=1e-12)


def test_a_queue_adds_negatives_and_takes_the_keys_of_both_views() -> None:
    *views, queue = drawn(3, (B, 4), (B, 4), (7, 4))
    queue = l2_normalise(queue)
    method, net, nobody = SimCLR(temperature=T, queue_size=7), Stub(queue.clone()), torch.full((B,), -1)
    found = method.loss(net, Batch(tuple(views), nobody, nobody), 0.0)  # type: ignore[arg-type]
    assert float(found.total) == pytest.approx(slow_nt_xent(views, queue=queue), rel=1e-12)
    assert net.queue
    net.queue.after_step(nn.Identity())
    keys = l2_normalise(torch.cat(views))
    assert all(any(torch.equal(row, key) for key in keys) for row in net.queue.rows()[:3])


def test_smoothing_moves_a_share_of_the_target_to_the_nearest_negatives() -> None:
    views = drawn(4, (B, 4), (B, 4))
    plain, smoothed = (float(loss_of(SimCLR(temperature=T, smoothing=s, neighbours=2), views)) for s in (0.0, 0.4))
    rows = l2_normalise(torch.cat(views))
    cosines = rows @ rows.T
    images = torch.arange(2 * B) % B
    nearest = cosines.masked_fill(images == images[:, None], -2).topk(2).values.mean(1)
    positive = cosines[torch.arange(2 * B), torch.arange(2 * B).roll(B)]
    assert smoothed - plain == pytest.approx(float(0.4 * (positive - nearest).mean() / T), rel=1e-9)


def test_local_crops_are_queries_of_both_global_views_with_their_own_weight() -> None:
    views = drawn(5, (B, 4), (B, 4), (B, 4))
    assert [spec.count for spec in SimCLR(local_crops=1).view_groups()] == [2, 1]
    whole, local, half = (
        float(loss_of(SimCLR(temperature=T, local_crops=1, local_weight=w), views)) for w in (0.0, 1.0, 0.5)
    )
    assert whole == pytest.approx(slow_nt_xent(views), rel=1e-12)
    assert half == pytest.approx((whole + local) / 2, rel=1e-12)
    row, keys = l2_normalise(views[2])[0], [l2_normalise(view) for view in views[:2]]
    others = sum(math.exp(float(row @ key[j]) / T) for key in keys for j in range(1, B))
    first = [math.exp(float(row @ key[0]) / T) for key in keys]
    of_first = -sum(math.log(p / (p + others)) for p in first) / 2
    assert local != pytest.approx(whole)
    assert of_first == pytest.approx(_local_loss_of_first(views), rel=1e-12)


def _local_loss_of_first(views: list[Tensor]) -> float:
    """The local loss of the first image alone: what is left when the others' local crops are taken out of the mean."""
    method = SimCLR(temperature=T, local_crops=1)
    keys = [l2_normalise(view) for view in views[:2]]
    cosines = l2_normalise(views[2]) @ torch.cat(keys).T
    negatives = cosines[:1, [j for j in range(2 * B) if j % B]]
    return sum(float(method.contrastive_loss(cosines[:1, v * B], negatives)) for v in range(2)) / 2


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({}, set()),
        ({"key_momentum": 0.9}, {"key"}),
        ({"queue_size": 8}, {"queue"}),
        ({"predictor": "16"}, {"predictor"}),
    ],
)
def test_a_variant_has_the_modules_that_it_needs(settings: dict[str, Any], names: set[str]) -> None:
    method = SimCLR(hidden="16", dim=8, **settings)
    net = method.build(Encoder("test_resnet", method.head, norm=method.head_norm))
    assert {name.split(".")[0] for name in net.state_dict()} == {"student"} | names


@pytest.mark.parametrize("key_gradient", [False, True])
def test_keys_have_a_gradient_only_if_asked_for(key_gradient: bool) -> None:
    method, net = SimCLR(temperature=T, key_gradient=key_gradient), Stub()
    generator = torch.Generator().manual_seed(3)
    views = [torch.randn(B, 4, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2)]
    units = [l2_normalise(view) for view in views]
    total = torch.stack([method.contrast(net, unit, units, i)[0] for i, unit in enumerate(units)]).mean()
    found = torch.autograd.grad(total, views)

    both = torch.cat([l2_normalise(view) for view in views])
    cosines = both @ (both if key_gradient else both.detach()).T / T
    logits = cosines.masked_fill(torch.eye(2 * B, dtype=torch.bool), -torch.inf)
    partners = torch.arange(2 * B).roll(B)
    expected = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, partners), views)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
