"""k-means against scikit-learn's, on clusters that are there, and where rows are few, alike or far from the origin."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans as Reference
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from lwcl.errors import UsageError
from lwcl.losses import l2_normalise
from lwcl.metrics import kmeans as module
from lwcl.metrics.kmeans import assign_clusters, kmeans


def blobs(count: int, k: int, dim: int, noise: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows (count, dim) around k centres, and which centre each is from."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(k, dim, generator=generator)
    labels = torch.arange(count) % k
    return centres[labels] + noise * torch.randn(count, dim, generator=generator), labels


def reference(x: Tensor, k: int) -> float:
    """The inertia of scikit-learn's k-means, best of three."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads
        return float(Reference(k, n_init=3, max_iter=50, random_state=0).fit(x.numpy()).inertia_)


@pytest.mark.parametrize("spherical", [True, False])
@pytest.mark.parametrize("count", [600, 6000])  # every row a candidate, and candidates from k-means||
def test_clusters_that_are_there_are_found(count: int, spherical: bool) -> None:
    x, labels = blobs(count, 30, 16, 0.1)
    found = kmeans(x, 30, seed=1, spherical=spherical)
    assert adjusted_rand_score(labels, found.labels) == 1
    assert found.iterations <= 3


@pytest.mark.parametrize(("count", "k"), [(1000, 8), (1000, 100), (6000, 50)])
def test_the_inertia_is_that_of_scikit_learn(count: int, k: int) -> None:
    x, _ = blobs(count, 40, 12, 0.8)
    found = kmeans(x, k, seed=0, spherical=False, iterations=50, restarts=3)
    assert found.inertia <= 1.02 * reference(x, k)
    assert found.inertia == pytest.approx(float((x - found.centroids[found.labels]).square().sum()), rel=1e-4)


def test_the_spherical_inertia_is_about_that_of_scikit_learn_on_unit_rows() -> None:
    x, _ = blobs(2000, 40, 12, 1.0)
    found = kmeans(7 * x, 40, seed=0, iterations=50, restarts=3)
    means = torch.stack([l2_normalise(x)[found.labels == cluster].mean(0) for cluster in range(40)])
    assert float((l2_normalise(x) - means[found.labels]).square().sum()) <= 1.02 * reference(l2_normalise(x), 40)
    assert found.centroids.norm(dim=1).tolist() == pytest.approx([1.0] * 40, abs=1e-5)


@given(st.integers(0, 2**31), st.integers(1, 25), st.integers(1, 4), st.booleans())
@settings(max_examples=40)
def test_every_cluster_has_rows_however_many_rows_are_copies(seed: int, k: int, kinds: int, spherical: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(kinds, 5, generator=generator)[torch.arange(25) % kinds]
    found = kmeans(x, k, seed=seed, spherical=spherical)
    assert int(found.labels.bincount(minlength=k).min()) >= 1
    assert found.inertia >= 0


def test_as_many_clusters_as_rows_leave_nothing_over() -> None:
    x, _ = blobs(40, 4, 8, 1.0)
    found = kmeans(x, 40, seed=0, spherical=False)
    assert sorted(found.labels.tolist()) == list(range(40))
    assert found.inertia == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("k", [0, 11])
def test_impossible_numbers_of_clusters_are_refused(k: int) -> None:
    with pytest.raises(UsageError, match="clusters"):
        kmeans(torch.eye(10), k, seed=0)


def test_a_seed_decides_and_chunks_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    x, _ = blobs(500, 20, 8, 0.7)
    first, again, other = (kmeans(x, 20, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.centroids, again.centroids)
    assert not torch.equal(first.labels, other.labels)
    monkeypatch.setattr(module, "METRIC_CHUNK_BYTES", 4 * 20 * 7)
    assert adjusted_rand_score(first.labels, kmeans(x, 20, seed=3).labels) > 0.99


def test_more_restarts_are_never_worse() -> None:
    x, _ = blobs(400, 30, 6, 0.3)
    inertias = [kmeans(x, 30, seed=5, restarts=count, iterations=3).inertia for count in (1, 2, 6)]
    assert inertias == sorted(inertias, reverse=True)


def test_clusters_far_from_the_origin_are_found_in_float32() -> None:
    x, labels = blobs(300, 5, 8, 0.05)
    found = kmeans(x + 3000, 5, seed=0, spherical=False)
    assert adjusted_rand_score(labels, found.labels) == 1
    assert float((found.centroids - 3000).abs().max()) < 5


@pytest.mark.parametrize("spherical", [True, False])
def test_rows_are_assigned_to_the_centroids_that_they_made(spherical: bool) -> None:
    x, _ = blobs(300, 10, 8, 0.4)
    found = kmeans(x, 10, seed=0, spherical=spherical)
    labels, distances = assign_clusters(x, found.centroids, spherical=spherical)
    assert torch.equal(labels, found.labels)
    assert float(distances.sum()) == pytest.approx(found.inertia, rel=1e-4)
    rows = l2_normalise(x) if spherical else x
    assert torch.equal(labels, torch.cdist(rows.double(), found.centroids.double()).argmin(1))


def test_no_more_iterations_are_made_than_allowed() -> None:
    x, _ = blobs(1000, 50, 8, 1.0)
    assert kmeans(x, 50, seed=0, iterations=2).iterations == 2
    assert kmeans(x, 50, seed=0, iterations=0).iterations == 0
