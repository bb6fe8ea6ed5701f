"""Clusters against classes: published golden values, counts worked out by hand, and a sweep; spectra and neighbours."""

import math

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import skew
from torch import Tensor

from lwcl import losses
from lwcl.losses import l2_normalise
from lwcl.metrics import clusters, nearest, neighbourhood
from lwcl.metrics.contingency import (
    align_clusters,
    aligned_accuracy,
    classes_per_cluster,
    cluster_purity,
    clusters_per_class,
    contingency_matrix,
    held_out_purity,
)
from lwcl.metrics.kmeans import kmeans
from lwcl.metrics.spectrum import spectrum

GOLDEN = torch.tensor([[5, 1, 0, 0], [4, 4, 0, 1], [0, 2, 6, 0], [1, 3, 4, 9]])
THIEF = torch.tensor([[60, 40], [2, 0]])  # a cluster of two images that is pure


def drawn(seed: int, *shape: int) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def scattered(groups: int, count: int = 600, classes: int = 6, noise: float = 0.05) -> tuple[Tensor, Tensor]:
    """Rows in tight groups, so many of each class at random places, and the classes."""
    labels = torch.arange(count) % classes
    group = labels + classes * torch.randint(groups, (count,), generator=torch.Generator().manual_seed(2))
    return drawn(0, classes * groups, 16)[group] + noise * drawn(1, count, 16), labels


def test_alignment_by_precision_equals_the_published_values() -> None:
    mapping = align_clusters(GOLDEN)
    assert mapping.tolist() == [0, 1, 2, 3]
    assert aligned_accuracy(GOLDEN, mapping) == pytest.approx(0.6)
    precision = GOLDEN / GOLDEN.sum(1, keepdim=True)
    assert float(precision.diagonal().double().sum()) == pytest.approx(2.55718954248366, abs=1e-6)


def test_by_precision_a_tiny_pure_cluster_takes_a_class_and_by_count_it_does_not() -> None:
    by_precision, by_count = align_clusters(THIEF), align_clusters(THIEF, cost="count")
    assert (by_precision.tolist(), by_count.tolist()) == ([1, 0], [0, 1])
    assert aligned_accuracy(THIEF, by_precision) == pytest.approx(0.4117647058823529)
    assert aligned_accuracy(THIEF, by_count) == pytest.approx(0.5882352941176471)


def test_more_clusters_than_classes_leave_some_without_one() -> None:
    counts = torch.tensor([[9, 0], [0, 9], [8, 0]])
    assert align_clusters(counts, cost="count").tolist() == [0, 1, -1]
    assert aligned_accuracy(counts, align_clusters(counts, cost="count")) == pytest.approx(18 / 26)
    assert align_clusters(counts.T, cost="count").tolist() == [0, 1]


def test_images_are_counted_by_cluster_and_class_if_the_class_is_known() -> None:
    counts = contingency_matrix(torch.tensor([0, 0, 2, 2, 1]), torch.tensor([1, 1, 0, -1, 1]), count=3)
    assert counts.tolist() == [[0, 2, 0], [0, 1, 0], [1, 0, 0]]


def test_purity_is_the_share_of_the_commonest_class() -> None:
    assert cluster_purity(GOLDEN) == pytest.approx((5 + 4 + 6 + 9) / 40)
    assert cluster_purity(torch.eye(7, dtype=torch.int64)) == 1, "clusters of one image are pure"


@given(st.lists(st.lists(st.integers(0, 5), min_size=3, max_size=3), min_size=1, max_size=5))
def test_held_out_purity_is_the_vote_of_the_others(rows: list[list[int]]) -> None:
    if not sum(map(sum, rows)):
        return
    right = 0.0
    for row in rows:
        for own, images in enumerate(row):
            votes = [count - (other == own) for other, count in enumerate(row)]
            right += images * (votes[own] == max(votes)) / votes.count(max(votes))
    assert held_out_purity(torch.tensor(rows)) == pytest.approx(right / sum(map(sum, rows)))


def test_small_clusters_gain_no_held_out_purity_by_chance() -> None:
    labels = torch.arange(500) % 5
    many = contingency_matrix(torch.randperm(500, generator=torch.Generator().manual_seed(0)) % 125, labels)
    assert cluster_purity(many) > 0.4
    assert held_out_purity(many) < 0.3
    assert held_out_purity(torch.tensor([[3], [4]])) == 1, "there is one class"


def test_what_holds_nine_tenths_of_a_class_or_cluster_is_counted() -> None:
    counts = torch.tensor([[9, 0], [1, 5], [0, 5]])
    assert clusters_per_class(counts) == pytest.approx((1 + 2) / 2)
    assert classes_per_cluster(counts) == pytest.approx((1 + 2 + 1) / 3)
    assert clusters_per_class(counts, 1.0) == pytest.approx(2)


@pytest.mark.parametrize("groups", [1, 5])
def test_a_sweep_tells_how_many_clusters_a_class_lies_in(groups: int) -> None:
    x, labels = scattered(groups)
    rows = clusters.cluster_sweep(x, labels, [6, 30], seed=0, runs=2)
    few, many = rows[0], rows[1]
    assert many.held_out_purity == pytest.approx(1.0 if groups > 1 else 0.98, abs=0.03)
    assert (few.alignment or 0) == pytest.approx(1.0 if groups == 1 else 0.4, abs=0.15)
    assert (few.clusters_per_class or 0) == pytest.approx(1 if groups == 1 else 4, abs=1)
    assert few.stability > 0.99 if groups == 1 else many.stability > 0.8
    assert (few.nmi or 0) > 0.99 if groups == 1 else (few.nmi or 0) < 0.7
    assert few.inertia >= many.inertia


def test_without_classes_a_sweep_says_nothing_of_them() -> None:
    x, labels = scattered(1, count=60)
    for told in (None, torch.full_like(labels, -1)):
        (row,) = clusters.cluster_sweep(x, told, [6], seed=0)
        assert row.stability > 0.9
        assert {row.alignment, row.nmi, row.purity, row.clusters_per_class} == {None}


def test_a_sweep_goes_from_a_third_of_the_classes_to_sixteen_times_them_if_there_are_images_enough() -> None:
    assert clusters.cluster_counts(10_000, 10) == [3, 10, 20, 40, 80, 160]
    assert clusters.cluster_counts(200, 10) == [3, 10, 20, 40, 50]
    assert clusters.cluster_counts(100, None) == [4, 8, 16, 25]


def test_clusters_of_a_bank_name_the_classes_of_held_out_images() -> None:
    x, labels = scattered(1)
    told = {"seed": 0, "cost": "count"}
    assert clusters.cluster_alignment(x[:300], labels[:300], x[300:], labels[300:], **told) == 1
    wrong = clusters.cluster_alignment(x[:300], labels[:300], x[300:], (labels[300:] + 1) % 6, **told)
    assert wrong == 0


def test_the_silhouette_is_that_of_its_definition() -> None:
    x = l2_normalise(drawn(0, 50, 4))
    found = kmeans(x, 5, seed=0)
    scores = []
    for row, label in zip(x, found.labels.tolist(), strict=True):
        own, *others = sorted((float((row - c).norm()), i != label) for i, c in enumerate(found.centroids))
        scores.append((others[0][0] - own[0]) / others[0][0])
    assert clusters.simplified_silhouette(x, found) == pytest.approx(sum(scores) / 50, abs=1e-4)
    assert math.isnan(clusters.simplified_silhouette(x, kmeans(x, 1, seed=0)))


def stability(x: Tensor, k: int) -> float:
    """Agreement of clusterings from three seeds."""
    return clusters.mean_pairwise_ari(clusters.kmeans_runs(x, k, 0, 3))


def test_clusters_in_noise_are_not_stable() -> None:
    assert stability(drawn(0, 400, 32), 8) < 0.3
    assert stability(scattered(1)[0], 6) == pytest.approx(1)
    assert clusters.ari(torch.tensor([1, 1, 0]), torch.tensor([0, 0, 1])) == 1


def test_a_streamed_spectrum_is_that_of_all_rows_at_once() -> None:
    x = drawn(0, 400, 24) @ drawn(1, 24, 24) + 3
    (found, shares), centred = spectrum(x), (x - x.mean(0)).double()
    assert found.effective_rank == pytest.approx(float(losses.effective_rank(x.double())), rel=1e-5)
    assert found.centred_rank == pytest.approx(float(losses.effective_rank(centred)), rel=1e-5)
    values = torch.linalg.svdvals(centred)
    assert shares.tolist() == pytest.approx((values / values.sum()).tolist(), rel=1e-4)
    assert found.participation == pytest.approx(float(values.square().sum() ** 2 / values.pow(4).sum()))
    assert found.std == pytest.approx(float(losses.embedding_std(l2_normalise(x))), rel=1e-4)
    cosines = (l2_normalise(x) @ l2_normalise(x).T).fill_diagonal_(0)
    assert found.mean_cosine == pytest.approx(float(cosines.sum() / (400 * 399)), abs=1e-5)
    assert found.norm_variation == pytest.approx(float(x.norm(dim=1).std() / x.norm(dim=1).mean()), rel=1e-4)
    assert found.dead == 0


def test_dead_dimensions_and_lost_directions_are_seen() -> None:
    x = drawn(0, 200, 3) @ drawn(1, 3, 20)
    x[:, 15:] = 0.25
    found, _ = spectrum(x)
    assert found.dead == 0.25
    assert found.centred_rank <= 3
    assert spectrum(torch.ones(10, 4))[0].centred_rank == pytest.approx(1)


def test_neighbours_are_others_nearest_first_in_any_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    x = drawn(0, 60, 8)
    whole = neighbourhood.nearest_neighbours(x, 5)
    cosines = (l2_normalise(x) @ l2_normalise(x).T).fill_diagonal_(-2)
    assert torch.equal(whole.indices, cosines.argsort(1, descending=True)[:, :5])
    monkeypatch.setattr(nearest, "METRIC_CHUNK_BYTES", 4 * 60 * 7)
    assert torch.equal(neighbourhood.nearest_neighbours(x, 5).indices, whole.indices)
    assert neighbourhood.nearest_neighbours(x, 100).indices.shape == (60, 59)


@pytest.mark.parametrize("kinds", [1, 3])
def test_no_row_is_a_neighbour_of_its_own_among_copies(kinds: int) -> None:
    found = neighbourhood.nearest_neighbours(drawn(0, kinds, 6)[torch.arange(60) % kinds], 4)
    assert not bool((found.indices == torch.arange(60)[:, None]).any())
    assert all(len(set(row)) == 4 for row in found.indices.tolist())
    assert bool((found.indices % kinds == torch.arange(60)[:, None] % kinds).all())


def test_a_graph_of_neighbours_knows_hubs_copies_and_classes() -> None:
    x, labels = scattered(1, count=120)
    x[7] = x[1]
    found = neighbourhood.nearest_neighbours(x, 4)
    told = neighbourhood.neighbourhood_metrics(found, labels, duplicate=1 - 1e-6)
    occurrence = numpy.bincount(found.indices.flatten().numpy(), minlength=120)
    assert told.hubness == pytest.approx(skew(occurrence), abs=1e-6)
    assert told.orphans == pytest.approx((occurrence == 0).mean())
    assert told.duplicates == pytest.approx(2 / 120)
    assert (told.same_class or 0) > 0.98
    assert told.chance == pytest.approx(19 / 119)


def test_neighbours_of_unknown_class_are_left_out() -> None:
    x, labels = scattered(1, count=120)
    labels[:60] = -1
    told = neighbourhood.neighbourhood_metrics(neighbourhood.nearest_neighbours(x, 4), labels)
    assert told.same_class == 1
    assert told.chance == pytest.approx(9 / 59)


def test_precision_by_similarity_is_that_of_its_definition() -> None:
    x, labels = l2_normalise(drawn(3, 80, 4).double()), torch.arange(80) % 4
    found = neighbourhood.precision_by_similarity(x, labels)
    cosines = (x @ x.T).numpy()
    shares = []
    for low in numpy.arange(-1, 0.999, 0.05):
        within = (cosines >= low) & (cosines < min(low + 0.05, 0.999)) & ~numpy.eye(80, dtype=bool)
        same = labels[:, None].numpy() == labels.numpy()
        each = [(same & within)[c::4].sum() / within[c::4].sum() for c in range(4) if within[c::4].any()]
        shares.append(sum(each) / len(each) if each else math.nan)
    assert found.precision.tolist() == pytest.approx(shares, abs=0.02, nan_ok=True)
    assert int(found.pairs.sum()) == 80 * 79


def test_pairs_are_counted_by_similarity_in_any_order_and_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    x, labels = l2_normalise(drawn(3, 90, 4)), torch.randint(-1, 4, (90,), generator=torch.Generator().manual_seed(0))
    x[5], labels[3], labels[5] = x[3], 1, 1  # copies
    rows, own = x[labels >= 0], labels[labels >= 0]
    similarity = (rows @ rows.T).fill_diagonal_(1)
    cell = ((similarity + 1) / 0.05).long().clamp(0, 39)
    within = [(cell == place) & (similarity < 0.999) for place in range(40)]
    alike = own == own[:, None]
    each = [[(alike & pairs)[own == c].sum() / pairs[own == c].sum() for c in range(4)] for pairs in within]
    monkeypatch.setattr(neighbourhood, "METRIC_CHUNK_BYTES", 4 * 90 * 7)
    monkeypatch.setattr(neighbourhood, "BIN_CHUNK", 90 * 3)
    found = neighbourhood.precision_by_similarity(x, labels)
    assert found.pairs.tolist() == [int(pairs.sum()) for pairs in within]
    assert int(found.pairs.sum()) < len(own) * (len(own) - 1), "less the copies"
    assert torch.allclose(found.precision, torch.tensor(each).nanmean(1), equal_nan=True)
