"""kNN against golden values of the papers' code, against one written slowly, and its intervals."""

from types import ModuleType

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lwcl.config.knn_presets import DEFAULT_VOTE, KNN_PRESETS, Vote, resolve_vote
from lwcl.errors import UsageError
from lwcl.kernels import bfloat16
from lwcl.losses import l2_normalise
from lwcl.metrics import bootstrap, knn, nearest
from lwcl.metrics.bootstrap import mean_top1


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
    similarity, index = nearest.nearest_by_cosine(queries, bank, 5)
    shares = knn.class_votes(similarity, bank_labels[index], 3, 0.07)
    assert shares[0].tolist() == pytest.approx([0.529747, 0.118792, 0.351462], abs=1e-6)
    assert shares[1].tolist() == pytest.approx([0, 1, 0], abs=1e-6)
    assert shares.argmax(1).tolist() == [0, 1, 1, 0, 1, 1, 0, 1, 2, 2, 1, 2]
    found = knn.knn_score(queries, query_labels, bank, bank_labels, k=5, temperature=0.07)
    assert mean_top1(found.accuracy) == pytest.approx(0.75)


def test_the_best_majority_vote_equals_the_published_code() -> None:
    queries, query_labels, bank, bank_labels = golden()
    distances, _ = knn.nearest_by_distance(queries, bank, 3)
    assert (-distances[0]).tolist() == pytest.approx([1.434467, 1.46987, 1.862337], abs=1e-6)
    accuracies = [mean_top1(score.accuracy) for score in knn.sweep_k(queries, query_labels, bank, bank_labels)][:5]
    assert accuracies == pytest.approx([0.75, 2 / 3, 11 / 12, 11 / 12, 0.75])
    assert knn.best_knn(queries, query_labels, bank, bank_labels).k == 5


@given(st.integers(0, 2**31), st.integers(1, 20))
def test_one_neighbour_on_its_own_bank_is_always_right(seed: int, classes: int) -> None:
    bank = torch.randn(40, 6, generator=torch.Generator().manual_seed(seed))
    labels = torch.arange(40) % classes
    found = knn.knn_score(bank, labels, bank, labels, k=1)
    assert bool(found.accuracy.top1.all())


def test_a_cold_vote_is_that_of_the_nearest_neighbour() -> None:
    queries, query_labels, bank, bank_labels = golden()
    cold = knn.knn_score(queries, query_labels, bank, bank_labels, k=20, temperature=1e-6)
    first = knn.knn_score(queries, query_labels, bank, bank_labels, k=1)
    assert torch.equal(cold.accuracy.top1, first.accuracy.top1)


@pytest.mark.parametrize("module", [nearest, knn])
def test_chunks_change_nothing(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    queries, _, bank, _ = golden()
    search = nearest.nearest_by_cosine if module is nearest else knn.nearest_by_distance
    whole = search(queries, bank, 7)
    monkeypatch.setattr(module, "METRIC_CHUNK_BYTES", 4 * len(bank) * 5)
    chunked = search(queries, bank, 7)
    assert torch.equal(whole[1], chunked[1])
    assert torch.allclose(whole[0], chunked[0], rtol=1e-12)


def test_more_neighbours_than_the_bank_holds_are_all_of_it() -> None:
    bank, labels = torch.eye(3), torch.tensor([0, 1, 1])
    assert knn.knn_score(bank, labels, bank, labels, k=200, temperature=0.1).k == 3


def test_a_preset_gives_what_is_not_chosen() -> None:
    monitor = KNN_PRESETS["monitor"]
    assert resolve_vote("weighted", None, None, 30) == DEFAULT_VOTE
    assert monitor and resolve_vote("monitor", 5, None, 30) == monitor._replace(k=5)
    assert resolve_vote("1nn", None, 0.2, 30) == Vote(1, 0.2)
    assert resolve_vote("monitor", None, None, 30) == monitor, "of fewer images, all vote"
    assert resolve_vote("best", None, None, 30) is None


@pytest.mark.parametrize(
    ("preset", "k", "temperature", "flag"),
    [("weighted", 31, None, "--k"), ("best", 5, None, "--k"), ("best", None, 0.1, "--temperature")],
)
def test_votes_that_cannot_be_are_refused(preset: str, k: int | None, temperature: float | None, flag: str) -> None:
    with pytest.raises(UsageError, match=flag):
        resolve_vote(preset, k, temperature, 30)


def test_the_first_five_guesses_hold_the_first() -> None:
    generator = torch.Generator().manual_seed(1)
    bank, labels = torch.randn(100, 4, generator=generator), torch.arange(100) % 10
    found = knn.knn_score(
        torch.randn(50, 4, generator=generator), torch.arange(50) % 10, bank, labels, k=20, temperature=0.1
    )
    assert bool((found.accuracy.top5 | ~found.accuracy.top1).all())
    assert int(found.accuracy.top5.sum()) > int(found.accuracy.top1.sum())


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for trial in range(200):
        low, high = bootstrap.bootstrap_interval(torch.rand(300, generator=generator) < 0.4, seed=trial, draws=1000)
        covered += low <= 0.4 <= high
    assert 180 <= covered <= 198


def test_a_paired_gain_is_tighter_than_two_intervals_and_has_a_sign() -> None:
    right = torch.arange(1000) < 600
    other = torch.arange(1000) < 550
    value, low, high = bootstrap.paired_gain(right, other)
    assert value == pytest.approx(0.05)
    assert 0 < low < value < high < 0.08
    assert bootstrap.paired_gain(other, right)[0] == pytest.approx(-0.05)


def slowly(queries: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest by cosine, all in float64, ties to the earlier row."""
    cosines = l2_normalise(queries.double()) @ l2_normalise(bank.double()).T
    found = cosines.sort(dim=1, descending=True, stable=True)
    return found.values[:, :k], found.indices[:, :k]


def with_ties(gap: float, count: int, bank: Tensor, query: Tensor) -> Tensor:
    """The bank with `count` of its rows put `gap` of a cosine apart, around 0.6 with the query, in a mixed order."""
    wanted = 0.6 + gap * torch.randperm(count, generator=torch.Generator().manual_seed(1)).double()
    away = l2_normalise(
        bank[:count].double()
        - (bank[:count].double() @ l2_normalise(query.double()))[:, None] * l2_normalise(query.double())
    )
    rows = wanted[:, None] * l2_normalise(query.double()) + (1 - wanted**2).sqrt()[:, None] * away
    return torch.cat([rows.to(bank.dtype), bank[count:]])


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("gap", [2e-3, 2e-4, 2e-5])
def test_near_ties_are_told_apart(gap: float, half: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bfloat16, "bf16_is_native", lambda: half)
    generator = torch.Generator().manual_seed(0)
    queries, bank = torch.randn(8, 256, generator=generator), torch.randn(3000, 256, generator=generator)
    bank = with_ties(gap, 150, bank, queries[3])
    cosines, index = nearest.nearest_by_cosine(queries, bank, 20)
    right, places = slowly(queries, bank, 20)
    assert torch.equal(index, places)
    assert torch.allclose(cosines.double(), right, rtol=0, atol=1e-6)


@given(st.integers(0, 2**31), st.floats(0, 3), st.sampled_from([torch.float32, torch.float64]))
def test_the_bound_on_half_precision_holds(seed: int, shift: float, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    queries, bank = (torch.randn(n, 48, generator=generator, dtype=dtype).exp() + shift for n in (5, 400))
    centre = l2_normalise(bank).mean(0)
    found = nearest.bfloat16_candidates(l2_normalise(queries), bank, centre, 3)
    exact = l2_normalise(queries.double()) @ (l2_normalise(bank.double()) - centre.double()).T
    apart = (exact.gather(1, found.indices) - found.values.double()).abs()
    assert bool((apart <= found.bound).all())
    assert float(found.bound.max()) < 0.03
    for row in found.proven(3).nonzero()[:, 0].tolist():
        best = set(exact[row].topk(3).indices.tolist())
        assert best <= set(found.indices[row, : found.possible(3)[row]].tolist())


@given(st.integers(0, 2**31), st.integers(1, 40), st.sampled_from([48, 50, 640, 1600]))
def test_the_largest_are_found_by_blocks(seed: int, count: int, width: int) -> None:
    scores = torch.randn(6, width, generator=torch.Generator().manual_seed(seed)).bfloat16()
    values, places = nearest.block_topk(scores, count)
    assert torch.equal(values.sort(descending=True).values, scores.topk(count).values)
    assert torch.equal(scores.gather(1, places), values)
    assert all(len(set(row)) == count for row in places.tolist())


def test_equal_rows_all_are_neighbours_once() -> None:
    bank = torch.eye(4).repeat(30, 1)
    cosines, index = nearest.nearest_by_cosine(torch.eye(4), bank, 30)
    assert bool((cosines == 1).all())
    assert all(sorted(row) == list(range(place, 120, 4)) for place, row in enumerate(index.tolist()))


def test_a_class_that_no_neighbour_voted_for_is_no_hit_among_five() -> None:
    bank, bank_labels = torch.eye(4, dtype=torch.float64), torch.tensor([0, 1, 2, 3])
    queries = torch.tensor([[1.0, 0.9, 0, 0]], dtype=torch.float64).expand(4, 4)
    for temperature in (None, 0.07):
        accuracy = knn.knn_score(queries, torch.arange(4), bank, bank_labels, k=2, temperature=temperature).accuracy
        assert accuracy.top5.tolist() == [True, True, False, False], "two neighbours vote for two classes"


@given(st.integers(0, 2**32 - 1), st.integers(1, 9))
def test_the_best_five_are_those_that_a_slow_count_finds(seed: int, k: int) -> None:
    stream = torch.Generator().manual_seed(seed)
    bank, queries = (torch.randn(rows, 3, generator=stream, dtype=torch.float64) for rows in (20, 6))
    bank_labels, labels = (torch.randint(0, 8, (rows,), generator=stream) for rows in (20, 6))
    accuracy = knn.knn_score(queries, labels, bank, bank_labels, k=k).accuracy
    for row, query in enumerate(queries):
        near = torch.nn.functional.cosine_similarity(query[None], bank).argsort(descending=True)[:k]
        counts = {label: sum(int(bank_labels[i]) == label for i in near) for label in range(8)}
        ranked = sorted((label for label in counts if counts[label]), key=lambda label: (-counts[label], label))
        assert accuracy.top1[row] == (ranked[0] == labels[row])
        assert accuracy.top5[row] == (int(labels[row]) in ranked[:5])
