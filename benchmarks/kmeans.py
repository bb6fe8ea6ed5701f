"""k-means of lwcl, scikit-learn and, if it is installed, faiss, on the same made features; seeding included.

Claim: at an inertia within 0.3% of scikit-learn's, 2.6 times (k = 100) to 5.7 times (k = 400) as fast; faiss is 1.5
and 1.1 times as fast as that, at an inertia 0.9 and 0.5% above lwcl's. Measured 2026-11-22 on one thread of an AMD
EPYC (Zen 4) that other programs shared (load 7 to 8), torch 2.14.1, scikit-learn 1.9.1, faiss 1.15.1: 12,000 x 512,
Euclidean, at most 20 iterations; CPU seconds, medians of three turns (least to most), and times as fast:

    k    scikit-learn          lwcl                         faiss                        inertia lwcl, faiss
    100  1.92 (1.74 to 2.29)   0.73 (0.61 to 1.08)  2.62x   0.48 (0.47 to 0.55)  3.97x   1.0023  1.0113
    400  6.41 (6.31 to 6.65)   1.12 (1.00 to 1.35)  5.73x   1.05 (1.01 to 1.08)  6.09x   1.0007  1.0058

Rows are assigned in float32. Their squared lengths were measured in each assignment, which for 20,000 x 1280 took as
long as the products with 100 centroids (0.10 and 0.09 s); now they are measured once.

    python benchmarks/kmeans.py [--rows 12000] [--width 512] [--clusters 100 400] [--turns 3] [--smoke]
"""

import argparse
import importlib
import importlib.util
import json
import os
import statistics
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch
from sklearn.cluster import KMeans
from torch import Tensor

from lwcl.losses import l2_normalise
from lwcl.metrics.kmeans import assign_clusters, kmeans
from lwcl.system.limits import usable_cpus

RESULTS = Path(__file__).with_name("results.jsonl")
GROUPS, DIRECTIONS, ITERATIONS = 300, 60, 20


def features(rows: int, width: int) -> Tensor:
    """Unit rows like an encoder's: uneven groups in few directions, which overlap, and noise in all."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(DIRECTIONS, width, generator=generator)
    centres = torch.randn(GROUPS, DIRECTIONS, generator=generator)
    group = torch.multinomial(torch.rand(GROUPS, generator=generator), rows, replacement=True, generator=generator)
    inside = centres[group] + 0.8 * torch.randn(rows, DIRECTIONS, generator=generator)
    return l2_normalise(inside @ directions + 2 * torch.randn(rows, width, generator=generator))


def ours(x: Tensor, k: int, seed: int) -> Tensor:
    """The centroids that lwcl finds."""
    return kmeans(x, k, seed=seed, spherical=False, iterations=ITERATIONS).centroids


def sklearns(x: Tensor, k: int, seed: int) -> Tensor:
    """The centroids that scikit-learn finds, from one start."""
    found = KMeans(k, n_init=1, max_iter=ITERATIONS, random_state=seed).fit(x.numpy())
    return torch.from_numpy(found.cluster_centers_)


def faisss(x: Tensor, k: int, seed: int) -> Tensor:
    """The centroids that faiss finds, from all rows."""
    faiss = importlib.import_module("faiss")
    faiss.omp_set_num_threads(torch.get_num_threads())
    found = faiss.Kmeans(x.shape[1], k, niter=ITERATIONS, seed=seed, max_points_per_centroid=len(x))
    found.train(x.numpy())
    centroids: Tensor = torch.from_numpy(found.centroids)
    return centroids


def ways() -> dict[str, Callable[[Tensor, int, int], Tensor]]:
    """All ways that are installed, the one to compare with first."""
    known: dict[str, Callable[[Tensor, int, int], Tensor]] = {"scikit-learn": sklearns, "lwcl": ours}
    if importlib.util.find_spec("faiss"):
        known["faiss"] = faisss
    return known


def compare(x: Tensor, k: int, turns: int) -> list[dict[str, object]]:
    """Median CPU seconds and inertia of each way, the ways taking turns."""
    seconds: dict[str, list[float]] = {name: [] for name in ways()}
    inertia: dict[str, list[float]] = {name: [] for name in ways()}
    for turn in range(turns):
        for name, way in ways().items():
            begun = time.process_time()
            centroids = way(x, k, turn + 1)
            seconds[name].append(time.process_time() - begun)
            inertia[name].append(float(assign_clusters(x, centroids, spherical=False)[1].double().sum()))
    plain, least = statistics.median(seconds["scikit-learn"]), statistics.median(inertia["scikit-learn"])
    return [
        {
            **{"benchmark": "kmeans", "date": f"{datetime.now(UTC):%Y-%m-%d}", "torch": torch.__version__},
            **{"threads": torch.get_num_threads(), "load": os.getloadavg()[0], "way": name},
            **{"rows": len(x), "width": x.shape[1], "clusters": k, "cpu_s": statistics.median(spent)},
            **{"cpu_low_s": min(spent), "cpu_high_s": max(spent), "ratio": plain / statistics.median(spent)},
            **{"inertia_ratio": statistics.median(inertia[name]) / least},
        }
        for name, spent in seconds.items()
    ]


def main() -> None:
    """Measures, prints a line a way, and appends the rows to results.jsonl (not with --smoke)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=12_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--clusters", type=int, nargs="+", default=[100, 400])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="1,000 rows, one turn: seconds, and kept nowhere")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # of scikit-learn about iterations
    torch.set_num_threads(usable_cpus())
    turns = 1 if arguments.smoke else arguments.turns
    x = features(1000 if arguments.smoke else arguments.rows, arguments.width)
    compare(x, 10, 1)  # warms up
    for k in arguments.clusters:
        for row in compare(x, k, turns):
            print(
                f"{k:5} clusters  {row['way']:<13} {row['cpu_s']:7.2f} s "
                f"({row['cpu_low_s']:.2f} to {row['cpu_high_s']:.2f})  {row['ratio']:5.2f}x  "
                f"inertia {row['inertia_ratio']:.4f}",
                flush=True,
            )
            if not arguments.smoke:
                with RESULTS.open("a") as results:
                    results.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
