"""k-means in torch, spherical or Euclidean: k-means++ or k-means|| seeding, Lloyd in chunks, empty clusters refilled.

Sources: k-means++ (Arthur & Vassilvitskii, SODA 2007) in the greedy form of scikit-learn, k-means|| (Bahmani et al.,
arXiv 1203.6402) where rows are many, spherical k-means (Dhillon & Modha, 2001). Memory besides `x`: a copy of it in
float32, `METRIC_CHUNK_BYTES` of similarities and, while seeding, as much again and at most 4 k rows. N rows of width D.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lwcl.errors import UsageError
from lwcl.formatting import plural
from lwcl.losses import l2_normalise
from lwcl.metrics.nearest import METRIC_CHUNK_BYTES

NORM_CHUNK_ROWS = 4096  # rows whose norms are computed at a time
MAX_SEED_ROWS = 4096  # of so many rows each is a candidate seed; their Gram matrix fills a chunk
SEEDING_ROUNDS = 5  # of k-means||; its authors saw no gain from more
INERTIA_TOLERANCE = 1e-4  # stop when the inertia falls by less than this share in an iteration


class KMeansRows(NamedTuple):
    """Rows with their squared norms, which take as long to compute as the products with 100 centroids."""

    rows: Tensor  # (N, D) float32
    squares: Tensor  # (N,)

    @classmethod
    def of(cls, rows: Tensor) -> "KMeansRows":
        """The rows (N, D) with their squared norms."""
        return cls(rows, torch.cat([chunk.square().sum(1) for chunk in torch.split(rows, NORM_CHUNK_ROWS)]))


class KMeans(NamedTuple):
    """k clusters of N rows, none of them empty."""

    centroids: Tensor  # (k, D) float32, of length 1 if spherical
    labels: Tensor  # (N,) int64
    inertia: float  # sum of squared distances to the own centroid
    iterations: int


def kmeans(x: Tensor, k: int, *, seed: int, spherical: bool = True, iterations: int = 20, restarts: int = 1) -> KMeans:
    """The best of `restarts` clusterings of the rows of x (N, D), L2-normalised first if `spherical`.

    Deterministic for a seed on a CPU. Raises `UsageError` unless 1 <= k <= N.
    """
    if not 1 <= k <= len(x):
        raise UsageError(
            f"Cannot form {plural(k, 'cluster')} from {plural(len(x), 'image')}.", remedy=f"Give 1 to {len(x)}."
        )
    mean = x.new_zeros(x.shape[1]).float() if spherical else x.double().mean(0).float()
    # Centring changes no distance and keeps digits.
    data = KMeansRows.of(l2_normalise(x).float() if spherical else x.float() - mean)
    generator = torch.Generator(x.device).manual_seed(seed)
    runs = (lloyd(data, initial_centroids(data, k, generator), iterations, spherical) for _ in range(restarts))
    best = min(runs, key=lambda run: run.inertia)
    return best._replace(centroids=best.centroids + mean)


def assign_clusters(x: Tensor, centroids: Tensor, *, spherical: bool = True) -> tuple[Tensor, Tensor]:
    """The nearest centroid (k, D) of each row (N, D), L2-normalised if `spherical`: labels, squared distances."""
    mean = centroids.new_zeros(centroids.shape[1]) if spherical else centroids.mean(0)
    rows = l2_normalise(x).float() if spherical else x.float() - mean
    return nearest_centroids(KMeansRows.of(rows), centroids - mean)


def nearest_centroids(data: KMeansRows, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Labels (N,) and squared distances (N,) of the rows to the nearest of the centroids (k, D)."""
    half = centroids.square().sum(1) / 2
    chunks = torch.split(data.rows, max(1, METRIC_CHUNK_BYTES // (4 * len(centroids))))
    nearest = [torch.addmm(-half, chunk, centroids.T).max(1) for chunk in chunks]
    labels, scores = torch.cat([found.indices for found in nearest]), torch.cat([found.values for found in nearest])
    return labels, (data.squares - 2 * scores).clamp_min(0)


def lloyd(data: KMeansRows, centroids: Tensor, iterations: int, spherical: bool) -> KMeans:
    """Lloyd's iterations from these centroids, until the inertia converges."""
    k, previous, done = len(centroids), math.inf, 0
    labels, distances = fill_empty_clusters(*nearest_centroids(data, centroids), k)
    while done < iterations and float(distances.sum()) < (1 - INERTIA_TOLERANCE) * previous:
        previous, done = float(distances.sum()), done + 1
        centroids = cluster_means(data.rows, labels, k, spherical)
        labels, distances = fill_empty_clusters(*nearest_centroids(data, centroids), k)
    return KMeans(centroids, labels, float(distances.double().sum()), done)


def cluster_means(rows: Tensor, labels: Tensor, k: int, spherical: bool) -> Tensor:
    """The mean of each cluster's rows (k, D), of length 1 if `spherical`."""
    sums = rows.new_zeros(k, rows.shape[1]).index_add_(0, labels, rows)
    return F.normalize(sums, dim=1) if spherical else sums / labels.bincount(minlength=k)[:, None]


def fill_empty_clusters(labels: Tensor, distances: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Gives every empty cluster the farthest row of a cluster that has another; the new labels and distances."""
    sizes = labels.bincount(minlength=k).tolist()
    empty = [cluster for cluster, size in enumerate(sizes) if size == 0]
    if not empty:
        return labels, distances
    labels, distances = labels.clone(), distances.clone()
    for row in distances.argsort(descending=True, stable=True).tolist():
        if empty and sizes[int(labels[row])] > 1:
            sizes[int(labels[row])] -= 1
            labels[row], distances[row] = empty.pop(0), 0.0
        if not empty:
            break
    return labels, distances


def initial_centroids(data: KMeansRows, k: int, generator: torch.Generator) -> Tensor:
    """Seeds (k, D): greedy k-means++ on all rows, or where these are many on candidates from k-means||."""
    if len(data.rows) <= max(MAX_SEED_ROWS, 4 * k):
        return greedy_kmeans_plus_plus(data, torch.ones_like(data.squares), k, generator)
    index, weight = seed_candidates(data, 2 * k, generator)
    return greedy_kmeans_plus_plus(KMeansRows.of(data.rows[index]), weight, k, generator)


def seed_candidates(data: KMeansRows, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """k-means||: indices of about `count` rows far from each other, and the number of rows nearest to each."""
    index = torch.randint(len(data.rows), (1,), generator=generator, device=data.rows.device)
    labels, distances = nearest_centroids(data, data.rows[index])
    for _ in range(SEEDING_ROUNDS):
        drawn = weighted_sample(distances, math.ceil(count / SEEDING_ROUNDS), generator, replacement=False)
        new_labels, new_distances = nearest_centroids(data, data.rows[drawn])
        labels = torch.where(new_distances < distances, new_labels + len(index), labels)
        distances = torch.minimum(new_distances, distances)
        index = torch.cat([index, drawn])
    return index, labels.bincount(minlength=len(index)).to(distances.dtype)


def greedy_kmeans_plus_plus(data: KMeansRows, weight: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Greedy k-means++ on weighted rows (M, D): each seed is the best of 2 + log k draws by squared distance."""
    squares, dots = data.squares, dot_product_lookup(data.rows)

    def distances(index: Tensor) -> Tensor:
        return (squares[index, None] + squares - 2 * dots(index)).clamp_min(0)

    seeds = [weighted_sample(weight, 1, generator)]
    nearest = distances(seeds[0])[0]
    for _ in range(k - 1):
        tried = weighted_sample(weight * nearest, 2 + int(math.log(k)), generator)
        reached = torch.minimum(distances(tried), nearest)
        best = int((reached @ weight).argmin())
        nearest = reached[best]
        seeds.append(tried[best : best + 1])
    return data.rows[torch.cat(seeds)]


def dot_product_lookup(rows: Tensor) -> Callable[[Tensor], Tensor]:
    """A function from row indices to dot products with all rows (M, D); the Gram matrix where it fits a chunk."""
    if 4 * len(rows) ** 2 <= METRIC_CHUNK_BYTES:
        gram = rows @ rows.T
        return lambda index: gram[index]
    return lambda index: rows[index] @ rows.T


def weighted_sample(weight: Tensor, count: int, generator: torch.Generator, replacement: bool = True) -> Tensor:
    """`count` indices drawn in proportion to weights (M,), uniformly where all weights are 0."""
    weight = weight.double()
    floor = 1e-12 * weight.sum() / len(weight) + 1e-30  # so that draws without replacement never run out
    return torch.multinomial(weight + floor, count, replacement=replacement, generator=generator)
