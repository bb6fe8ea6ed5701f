"""Regression of a teacher's features: its heads and its losses."""

import pytest
import torch
from test_formulas import drawn

from lwcl.losses import l2_normalise
from lwcl.methods.method import Batch
from lwcl.methods.regression import Regression
from lwcl.models.encoder import mlp


class Stub:
    """A net that gives features out as they are."""

    class student:
        head = torch.nn.Identity()

        @staticmethod
        def features(view: torch.Tensor) -> torch.Tensor:
            return view


def loss_of(method: Regression, output: torch.Tensor, target: torch.Tensor) -> float:
    nobody = torch.full((len(output),), -1)
    return float(method.loss(Stub(), Batch((output,), nobody, nobody, (target,)), 0.0).total)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "widths", "norms"), [("linear", [10], 0), ("narrow", [6, 10], 1), ("simreg", [12, 6, 12, 10], 2)]
)
def test_a_head_has_the_layers_of_its_name(name: str, widths: list[int], norms: int) -> None:
    head = mlp(6, Regression(regression_head=name).head(6, 10))
    assert [layer.out_features for layer in head if isinstance(layer, torch.nn.Linear)] == widths
    for kind in (torch.nn.BatchNorm1d, torch.nn.ReLU):
        assert sum(isinstance(layer, kind) for layer in head) == norms
    assert head(torch.randn(4, 6)).shape == (4, 10)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_log_sum_is_the_log_of_the_summed_fourth_powers(batch_norm: bool) -> None:
    output, target = drawn(11, (8, 5), (8, 5))
    if batch_norm:
        sides = [(x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt() for x in (output, target)]
    else:
        sides = [l2_normalise(output), l2_normalise(target)]
    expected = ((sides[0] - sides[1]) ** 4).sum().add(1e-5).log()
    found = loss_of(Regression(batch_norm=batch_norm, log_sum=True), output, target)
    assert found == pytest.approx(float(expected), rel=1e-9)


def test_log_sum_stays_finite_where_student_and_teacher_agree() -> None:
    (output,) = drawn(12, (8, 5))
    student = output.clone().requires_grad_()
    nobody = torch.full((8,), -1)
    loss = Regression(log_sum=True).loss(Stub(), Batch((student,), nobody, nobody, (output,)), 0.0)  # type: ignore[arg-type]
    loss.total.backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    assert student.grad.isfinite().all()
