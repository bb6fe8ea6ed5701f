"""SwAV, mean shift and iterative similarity distillation against their formulas written slowly."""

import math
from typing import Any

import pytest
import torch
from test_formulas import drawn
from torch import Tensor, nn

from lwcl.losses import l2_normalise, sinkhorn
from lwcl.methods.isd import ISD
from lwcl.methods.method import Batch, Loss, Method
from lwcl.methods.msf import MeanShift
from lwcl.methods.swav import SwAV
from lwcl.models.encoder import Encoder
from lwcl.models.memory import FeatureBank
from lwcl.models.prototypes import Prototypes

B, D, K, T, EPSILON = 5, 4, 7, 0.3, 0.4


class Student:
    """Takes embeddings, not yet of unit length, for images."""

    head = nn.Identity()

    def __call__(self, view: Tensor) -> Tensor:
        return l2_normalise(view)

    def features(self, view: Tensor) -> Tensor:
        return view


class Stub:
    """A net of that student; its predictor doubles the first dimension, its key encoder mirrors."""

    student = Student()

    def __init__(self, anchors: Tensor | None = None, prototypes: Tensor | None = None) -> None:
        if anchors is not None:
            self.anchors = FeatureBank(len(anchors), (D,)).double()
            self.anchors.push(anchors)
            self.anchors.after_step(nn.Identity())
        if prototypes is not None:
            self.prototypes = Prototypes(K, D).double()
            self.prototypes.weight.data.copy_(prototypes)

    def predictor(self, features: Tensor) -> Tensor:
        return features * torch.tensor([2.0, 1, 1, 1])

    def key(self, view: Tensor) -> Tensor:
        return l2_normalise(view.flip(1))


def loss_of(method: Method, net: Any, views: list[Tensor], epoch: float = 0.0) -> Loss:
    nobody = torch.full((B,), -1)
    return method.loss(net, Batch(tuple(views), nobody, nobody), epoch)


def slow_sinkhorn(scores: Tensor, iterations: int) -> Tensor:
    """Sinkhorn-Knopp on the matrix itself: prototypes of equal mass, then images of mass 1."""
    matrix = (scores / EPSILON).exp()
    for _ in range(iterations):
        matrix = matrix / matrix.sum(0) / matrix.shape[1]
        matrix = matrix / matrix.sum(1, keepdim=True)
    return matrix


def test_assignments_are_those_of_sinkhorn_knopp() -> None:
    (scores,) = drawn(1, (B, K))
    assert torch.allclose(sinkhorn(scores, EPSILON, 3), slow_sinkhorn(scores, 3), rtol=1e-12)
    balanced = sinkhorn(scores, EPSILON, 200)
    assert torch.allclose(balanced.sum(1), torch.ones(B, dtype=torch.float64))
    assert torch.allclose(balanced.sum(0), torch.full((K,), B / K, dtype=torch.float64), rtol=1e-6)


def test_assignments_stay_finite_where_exponentials_would_not() -> None:
    scores = torch.tensor([[1.0, -1.0, 0.9], [-1.0, 1.0, 0.0]])
    assert sinkhorn(scores, 0.001, 3).isfinite().all()


def test_swav_predicts_the_assignment_of_the_other_view() -> None:
    *views, prototypes = drawn(2, (B, D), (B, D), (B, D), (K, D))
    prototypes = l2_normalise(prototypes)
    method = SwAV(temperature=T, epsilon=EPSILON, prototypes=K, dim=D, local_crops=1, local_weight=0.6)
    scores = [l2_normalise(view) @ prototypes.T for view in views]
    codes = [slow_sinkhorn(score, 3) for score in scores[:2]]

    def swapped(view: int, other: int) -> float:
        return float(-(codes[other] * (scores[view] / T).log_softmax(1)).sum(1).mean())

    expected = 0.4 * (swapped(0, 1) + swapped(1, 0)) / 2 + 0.6 * (swapped(2, 0) + swapped(2, 1)) / 2
    assert loss_of(method, Stub(prototypes=prototypes), views).total.item() == pytest.approx(expected, rel=1e-12)


def test_swav_balances_assignments_over_its_queue_once_that_is_used() -> None:
    *views, prototypes, rows = drawn(3, (B, D), (B, D), (K, D), (6, 2 * D))
    method = SwAV(temperature=T, epsilon=EPSILON, prototypes=K, dim=D, queue_size=6, queue_start=2.0)
    net = Stub(prototypes=l2_normalise(prototypes))
    net.queue = FeatureBank(6, (D, D)).double()  # type: ignore[attr-defined]
    net.queue.push(rows)  # type: ignore[attr-defined]
    net.queue.after_step(nn.Identity())  # type: ignore[attr-defined]
    scores = [net.prototypes(l2_normalise(view)) for view in views]
    alone, together = (method.assign(net, scores[1], 1, epoch) for epoch in (1.9, 2.0))  # type: ignore[arg-type]
    assert torch.equal(alone, sinkhorn(scores[1], EPSILON, 3))
    everyone = torch.cat([scores[1], rows[:, D:] @ net.prototypes.weight.T])
    assert torch.allclose(together, slow_sinkhorn(everyone, 3)[:B], rtol=1e-12)


def test_swav_leaves_its_prototypes_alone_at_first_and_keeps_them_at_unit_length() -> None:
    *views, prototypes = drawn(4, (B, D), (B, D), (K, D))
    net = Stub(prototypes=l2_normalise(prototypes))
    method = SwAV(prototypes=K, dim=D, prototype_freeze=1.0)
    gradients = []
    for epoch in (0.9, 1.0):
        net.prototypes.zero_grad()
        loss_of(method, net, [view.requires_grad_() for view in views], epoch).total.backward()
        assert net.prototypes.weight.grad is not None
        gradients.append(float(net.prototypes.weight.grad.norm()))
    assert gradients[0] == 0 < gradients[1]
    net.prototypes.weight.data *= 3
    net.prototypes.after_step(nn.Identity())
    assert torch.allclose(net.prototypes.weight, l2_normalise(prototypes))


def test_the_loss_of_a_collapsed_swav_is_the_one_that_it_names() -> None:
    (prototypes,) = drawn(5, (K, D))
    same = torch.ones(B, D, dtype=torch.float64)
    method = SwAV(prototypes=K, dim=D, temperature=10.0)
    loss = loss_of(method, Stub(prototypes=l2_normalise(prototypes)), [same, same]).total
    assert loss.item() == pytest.approx(method.stalled[0], rel=1e-2)
    assert method.stalled[0] == math.log(K)
    assert "--epsilon" in method.stalled[1]


@pytest.mark.parametrize("neighbours", [1, 3, 100])
def test_mean_shift_predicts_the_neighbours_of_the_target_in_batch_and_memory(neighbours: int) -> None:
    *views, anchors = drawn(6, (B, D), (B, D), (K, D))
    anchors, net = l2_normalise(anchors), Stub(anchors=l2_normalise(anchors))
    predictions = l2_normalise(net.predictor(views[0]))
    targets = net.key(views[1])
    rows = [*targets, *anchors]
    total = 0.0
    for prediction, target in zip(predictions, targets, strict=True):
        nearest = sorted(rows, key=lambda row: float((row - target).square().sum()))[:neighbours]
        total += sum(float((row - prediction).square().sum()) for row in nearest) / len(nearest)
    found = loss_of(MeanShift(neighbours=neighbours), net, views)
    assert float(found.total) == pytest.approx(total / B, rel=1e-9)
    assert torch.equal(net.anchors.staged[0], targets), "they enter the memory after the step"


def test_isd_matches_the_similarities_of_its_momentum_encoder() -> None:
    *views, anchors = drawn(7, (B, D), (B, D), (K, D))
    net = Stub(anchors=l2_normalise(anchors))
    rows = net.anchors.rows()
    p, q = ((x @ rows.T / T).softmax(1) for x in (net.key(views[1]), l2_normalise(net.predictor(views[0]))))
    expected = float((p * (p / q).log()).sum(1).mean())
    assert float(loss_of(ISD(temperature=T), net, views).total) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("weak", [True, False])
def test_weak_targets_are_cropped_and_flipped_only(weak: bool) -> None:
    student, target = MeanShift(weak_targets=weak).view_groups()
    assert not student.augmentation
    assert dict(target.augmentation) == ({"jitter_p": 0.0, "gray_p": 0.0, "blur_p": 0.0} if weak else {})


def test_isd_has_no_projection_head_and_mean_shift_has_one() -> None:
    widths = []
    for method in (ISD(anchors=8, key_momentum=0.9), MeanShift(anchors=8, key_momentum=0.9, dim=6, hidden="16")):
        net: Any = method.build(Encoder("test_resnet", method.head))
        widths.append([net.student.head_widths, net.anchors.widths, net.predictor[-1].out_features])
    assert widths == [[(), (96,), 96], [(16, 6), (6,), 6]]
