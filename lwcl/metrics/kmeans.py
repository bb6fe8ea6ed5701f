"""k-means in torch, spherical or Euclidean: k-means++ or k-means|| seeding, Lloyd in chunks, empty clusters repaired.

Sources: k-means++ (Arthur & Vassilvitskii, SODA 2007) in the greedy form of scikit-learn, k-means|| (Bahmani et al.,
arXiv 1203.6402) where rows are many, spherical k-means (Dhillon & Modha, 2001). Memory beside `x`: a copy of it in
float32 and one in bfloat16, `CHUNK_BYTES` of similarities and, while seeding, `CHUNK_BYTES` and at most 4 k rows. N
rows, D wide.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lwcl.errors import UsageError
from lwcl.losses import l2_normalise
from lwcl.metrics.assignment import AssignmentRows, nearest_centroids, prepare_rows

KMEANS_CHUNK_BYTES = 64 * 2**20
MAX_SEED_ROWS = 4096  # up to so many rows each may become a seed; their Gram matrix fills a chunk
SEEDING_ROUNDS = 5  # of k-means||, after which its authors saw no gain
INERTIA_TOLERANCE = 1e-4  # relative fall of the inertia in an iteration below which it stops


class KMeans(NamedTuple):
    """k clusters of N rows: each has at least one row."""

    centroids: Tensor  # (k, D) float32, of length 1 if spherical
    labels: Tensor  # (N,) int64
    inertia: float  # sum of squared distances to the own centroid
    iterations: int


def kmeans(x: Tensor, k: int, *, seed: int, spherical: bool = True, iterations: int = 20, restarts: int = 1) -> KMeans:
    """The best of `restarts` clusterings of the rows of x (N, D), normed first if `spherical`.

    The same seed gives the same clusters on a CPU. Raises `UsageError` unless 1 <= k <= N.
    """
    if not 1 <= k <= len(x):
        raise UsageError(f"{k} clusters of {len(x)} images cannot be made.", remedy=f"Give 1 to {len(x)} clusters.")
    middle = x.new_zeros(x.shape[1]).float() if spherical else x.double().mean(0).float()
    exact = (
        l2_normalise(x).float() if spherical else x.float() - middle
    )  # centring keeps digits: distances stay the same
    rows, generator = prepare_rows(exact, halve=spherical), torch.Generator(x.device).manual_seed(seed)
    runs = (lloyd(rows, initial_centroids(rows, k, generator), iterations, spherical) for _ in range(restarts))
    best = min(runs, key=lambda found: found.inertia)
    return best._replace(centroids=best.centroids + middle)


def assign_clusters(x: Tensor, centroids: Tensor, *, spherical: bool = True) -> tuple[Tensor, Tensor]:
    """The nearest of k centroids (k, D) to each row (N, D), normed first if `spherical`: labels, squared distances."""
    middle = centroids.new_zeros(centroids.shape[1]) if spherical else centroids.mean(0)
    rows = l2_normalise(x).float() if spherical else x.float() - middle
    return nearest_centroids(prepare_rows(rows), centroids - middle)


def lloyd(rows: AssignmentRows, centroids: Tensor, iterations: int, spherical: bool) -> KMeans:
    """Lloyd's iterations from these centroids, until the inertia settles."""
    k, before, done = len(centroids), math.inf, 0
    labels, distances = fill_empty_clusters(*nearest_centroids(rows, centroids), k)
    while done < iterations and float(distances.sum()) < (1 - INERTIA_TOLERANCE) * before:
        before, done = float(distances.sum()), done + 1
        centroids = cluster_means(rows.exact, labels, k, spherical)
        labels, distances = fill_empty_clusters(*nearest_centroids(rows, centroids), k)
    return KMeans(centroids, labels, float(distances.double().sum()), done)


def cluster_means(rows: Tensor, labels: Tensor, k: int, spherical: bool) -> Tensor:
    """The mean of each cluster's rows (k, D), of length 1 if `spherical`."""
    sums = rows.new_zeros(k, rows.shape[1]).index_add_(0, labels, rows)
    return F.normalize(sums, dim=1) if spherical else sums / labels.bincount(minlength=k)[:, None]


def fill_empty_clusters(labels: Tensor, distances: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Every empty cluster gets the farthest row that is not alone in its own; labels and distances with that done."""
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


def initial_centroids(rows: AssignmentRows, k: int, generator: torch.Generator) -> Tensor:
    """First centroids (k, D): greedy k-means++ on all rows, or where they are many on candidates from k-means||."""
    if len(rows.exact) <= max(MAX_SEED_ROWS, 4 * k):
        return greedy_kmeans_plus_plus(rows, torch.ones_like(rows.squares), k, generator)
    chosen, weight = seed_candidates(rows, 2 * k, generator)
    return greedy_kmeans_plus_plus(prepare_rows(rows.exact[chosen]), weight, k, generator)


def seed_candidates(rows: AssignmentRows, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """k-means||: about `count` rows drawn far from each other (indices), and how many rows are nearest to each."""
    chosen = torch.randint(len(rows.exact), (1,), generator=generator, device=rows.exact.device)
    labels, distances = nearest_centroids(rows, rows.exact[chosen])
    for _ in range(SEEDING_ROUNDS):
        drawn = weighted_sample(distances, math.ceil(count / SEEDING_ROUNDS), generator, replacement=False)
        closer, new = nearest_centroids(rows, rows.exact[drawn])
        labels = torch.where(new < distances, closer + len(chosen), labels)
        distances = torch.minimum(new, distances)
        chosen = torch.cat([chosen, drawn])
    return chosen, labels.bincount(minlength=len(chosen)).to(distances.dtype)


def greedy_kmeans_plus_plus(rows: AssignmentRows, weight: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Greedy k-means++ on weighted rows (M, D): each seed is the best of 2 + log k draws by squared distance."""
    squares, dots = rows.squares, dot_product_lookup(rows.exact)

    def distances(index: Tensor) -> Tensor:
        return (squares[index, None] + squares - 2 * dots(index)).clamp_min(0)

    chosen = [weighted_sample(weight, 1, generator)]
    nearest = distances(chosen[0])[0]
    for _ in range(k - 1):
        tried = weighted_sample(weight * nearest, 2 + int(math.log(k)), generator)
        reached = torch.minimum(distances(tried), nearest)
        best = int((reached @ weight).argmin())
        nearest = reached[best]
        chosen.append(tried[best : best + 1])
    return rows.exact[torch.cat(chosen)]


def dot_product_lookup(rows: Tensor) -> Callable[[Tensor], Tensor]:
    """What gives the dot products of some rows with all (M, D): from the Gram matrix, where that fits a chunk."""
    if 4 * len(rows) ** 2 <= KMEANS_CHUNK_BYTES:
        gram = rows @ rows.T
        return lambda index: gram[index]
    return lambda index: rows[index] @ rows.T


def weighted_sample(weight: Tensor, count: int, generator: torch.Generator, replacement: bool = True) -> Tensor:
    """`count` indices drawn in proportion to weights (M,); evenly where none weighs anything."""
    weight = weight.double()
    floor = 1e-12 * weight.sum() / len(weight) + 1e-30  # so that draws without replacement never run out
    return torch.multinomial(weight + floor, count, replacement=replacement, generator=generator)
