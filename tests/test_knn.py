"""kNN against golden values of the papers' code, against one written slowly, and its intervals."""

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lwcl.formulas import unit
from lwcl.measures import knn
from lwcl.measures.knn import Vote


def golden() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The queries, their labels, the bank and its labels that the golden values were computed on (float64)."""
    stream = numpy.random.RandomState(8)
    centres = 0.6 * stream.standard_normal((3, 5))
    bank_labels, query_labels = numpy.arange(30) % 3, numpy.arange(12) % 3
    bank = 1 + centres[bank_labels] + stream.standard_normal((30, 5))
    queries = 1 + centres[query_labels] + stream.standard_normal((12, 5))
    assert [bank.sum(), queries.sum()] == pytest.approx([158.526235, 67.878677], abs=1e-5)
    return tuple(torch.from_numpy(x) for x in (queries, query_labels, bank, bank_labels))


def test_the_weighted_vote_equals_the_published_code() -> None:
    queries, query_labels, bank, bank_labels = golden()
    similarity, index = knn.nearest(unit(queries), unit(bank), 5)
    shares = knn.votes(similarity, bank_labels[index], 3, 0.07)
    assert shares[0].tolist() == pytest.approx([0.529747, 0.118792, 0.351462], abs=1e-6)
    assert shares[1].tolist() == pytest.approx([0, 1, 0], abs=1e-6)
    assert shares.argmax(1).tolist() == [0, 1, 1, 0, 1, 1, 0, 1, 2, 2, 1, 2]
    found = knn.score(queries, query_labels, bank, bank_labels, Vote(5, 0.07))
    assert float(found.top1.double().mean()) == pytest.approx(0.75)


def test_the_best_majority_vote_equals_the_published_code() -> None:
    queries, query_labels, bank, bank_labels = golden()
    distances, _ = knn.nearest(queries, bank, 3, euclidean=True)
    assert (-distances[0]).tolist() == pytest.approx([1.434467, 1.46987, 1.862337], abs=1e-6)
    accuracies = [float(s.top1.double().mean()) for s in knn.sweep(queries, query_labels, bank, bank_labels)][:5]
    assert accuracies == pytest.approx([0.75, 2 / 3, 11 / 12, 11 / 12, 0.75])
    assert knn.best(queries, query_labels, bank, bank_labels).k == 5


@given(st.integers(0, 2**31), st.integers(1, 20))
def test_one_neighbour_on_its_own_bank_is_always_right(seed: int, classes: int) -> None:
    bank = torch.randn(40, 6, generator=torch.Generator().manual_seed(seed))
    labels = torch.arange(40) % classes
    found = knn.score(bank, labels, bank, labels, Vote(1, None))
    assert bool(found.top1.all())


def test_a_cold_vote_is_that_of_the_nearest_neighbour() -> None:
    queries, query_labels, bank, bank_labels = golden()
    cold = knn.score(queries, query_labels, bank, bank_labels, Vote(20, 1e-6))
    first = knn.score(queries, query_labels, bank, bank_labels, Vote(1, None))
    assert torch.equal(cold.top1, first.top1)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, _, bank, _ = golden()
    whole = knn.nearest(queries, bank, 7)
    monkeypatch.setattr(knn, "CHUNK_BYTES", 4 * len(bank) * 5)
    parts = knn.nearest(queries, bank, 7)
    assert torch.equal(whole[1], parts[1])
    assert torch.allclose(whole[0], parts[0], rtol=1e-12)


def test_more_neighbours_than_the_bank_holds_are_all_of_it() -> None:
    bank, labels = torch.eye(3), torch.tensor([0, 1, 1])
    assert knn.score(bank, labels, bank, labels, Vote(200, 0.1)).k == 3


def test_the_first_five_guesses_hold_the_first() -> None:
    generator = torch.Generator().manual_seed(1)
    bank, labels = torch.randn(100, 4, generator=generator), torch.arange(100) % 10
    found = knn.score(torch.randn(50, 4, generator=generator), torch.arange(50) % 10, bank, labels, Vote(20, 0.1))
    assert bool((found.top5 | ~found.top1).all())
    assert int(found.top5.sum()) > int(found.top1.sum())


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for trial in range(200):
        low, high = knn.interval(torch.rand(300, generator=generator) < 0.4, seed=trial, draws=1000)
        covered += low <= 0.4 <= high
    assert 180 <= covered <= 198


def test_a_paired_gain_is_tighter_than_two_intervals_and_has_a_sign() -> None:
    right = torch.arange(1000) < 600
    other = torch.arange(1000) < 550
    value, low, high = knn.gain(right, other)
    assert value == pytest.approx(0.05)
    assert 0 < low < value < high < 0.08
    assert knn.gain(other, right)[0] == pytest.approx(-0.05)
