"""Time and memory of evaluation: a diagnosis's metrics, nearest neighbours, and probes on features, on one thread.

Claim: a diagnosis of 50,000 images of 100 classes and width 1280 takes 4.21 GB (3.92 GiB) and nine minutes of one core;
exact neighbours take 0.30 of scikit-learn's time and 0.55 of its memory. Measured 2026-11-22 on one core of an AMD EPYC
(Zen 4) that other programs shared (load 4 to 8), torch 2.14.1, scikit-learn 1.9.1; one run each, so without a spread:

    case                                                      CPU seconds  peak, GB  features and program, GB
    diagnosis: 50,000 x 1280 in three views                         519       4.21                      1.64
    its held-out images, 10,000, against 50,000                      51.5       2.15                      1.28
    knn: 10,000 queries in 50,000 x 1280                             10.6       1.53                      1.21
    the same by scikit-learn's NearestNeighbors, brute force         35.7       2.79                      1.18
    probe fast: 50,000 x 512, 41 classifiers, 10 epochs              60.6       1.29                      0.98
    probe logistic: penalty chosen, solved again                     29.5       1.26                      0.97
    scikit-learn's LogisticRegression, one, untuned                   6.2       1.02                      0.98

One untuned regression costs less than choosing a penalty, and finds less: 99.1% right, fast 99.6, logistic 99.8.

    python benchmarks/judging.py [--cases diagnosis knn ...] [--smoke]

Features are made: uneven groups in few directions, which overlap, with noise in all, rectified; three groups a class.
Each case has a process of its own, so that the peak of its resident memory is its own; the features are in it, and
importing lwcl and torch. Times are CPU time, and leave making the features out.
"""

import argparse
import functools
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from lwcl.diagnosis.encoder_metrics import DiagnosisScope, diagnose_features, held_out_metrics
from lwcl.diagnosis.three_views import ViewFeatures
from lwcl.metrics import knn, linear
from lwcl.metrics.bootstrap import mean_top1

RESULTS = Path(__file__).with_name("results.jsonl")
CLASSES, GROUPS, DIRECTIONS, CHUNK = 100, 300, 60, 4096
Work = Callable[[], dict[str, Any]]


def features(rows: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows (N, width) as of a backbone that ends in a rectifier, and their classes; made a chunk at a time."""
    shape, own = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    directions, centres = (torch.randn(n, w, generator=shape) for n, w in ((DIRECTIONS, width), (GROUPS, DIRECTIONS)))
    group = torch.multinomial(torch.rand(GROUPS, generator=shape), rows, replacement=True, generator=own)
    found = torch.empty(rows, width)
    for into, some in zip(torch.split(found, CHUNK), torch.split(group, CHUNK), strict=True):
        inside = centres[some] + 0.8 * torch.randn(len(some), DIRECTIONS, generator=own)
        into.copy_(inside @ directions).add_(torch.randn(into.shape, generator=own), alpha=2).relu_()
    return found, group % CLASSES


def three_views(rows: int, width: int, seed: int = 0) -> tuple[ViewFeatures, Tensor]:
    """Features of images and of two noisy views of each, and the classes."""
    plain, labels = features(rows, width, seed)
    generator, views = torch.Generator().manual_seed(seed + 1), (plain.clone(), plain.clone())
    for view in views:
        for part in torch.split(view, CHUNK):
            part.add_(torch.randn(part.shape, generator=generator), alpha=4).relu_()
    return ViewFeatures(plain, *views), labels


def diagnosis(rows: int) -> Work:
    """All metrics of `lwcl diagnose-clustering` of an encoder's features."""
    told, labels = three_views(rows, 1280)
    boxes = torch.randint(1, 100, (2, rows, 4), generator=torch.Generator().manual_seed(0))

    def work() -> dict[str, Any]:
        found, _ = diagnose_features(told, labels, boxes, DiagnosisScope(0))
        return {"d_sd": found.pairs.d_sd[0], "nmi": found.clusters[1].nmi}

    return work


def diagnosis_held_out(rows: int) -> Work:
    """Its metrics of held-out images, a fifth as many."""
    bank, labels = features(rows, 1280)
    told, own = three_views(rows // 5, 1280, seed=1)
    return lambda: {"best_nn": held_out_metrics(bank, labels, told, own, 0).best_nn}


def neighbours(rows: int) -> Work:
    """`lwcl knn`, a fifth of as many queries."""
    (bank, labels), (queries, own) = features(rows, 1280), features(rows // 5, 1280, seed=1)
    score = functools.partial(knn.knn_score, queries, own, bank, labels, k=20, temperature=0.07)
    return lambda: {"top1": mean_top1(score().accuracy)}


def neighbours_by_sklearn(rows: int) -> Work:
    """scikit-learn's search for the same 20 neighbours, by brute force."""
    (bank, labels), (queries, own) = features(rows, 1280), features(rows // 5, 1280, seed=1)

    def work() -> dict[str, Any]:
        model = NearestNeighbors(n_neighbors=20, algorithm="brute", metric="cosine", n_jobs=1).fit(bank.numpy())
        distances, index = (torch.from_numpy(found) for found in model.kneighbors(queries.numpy()))
        shares = knn.class_votes(1 - distances, labels[index], CLASSES, 0.07)
        return {"top1": float((shares.argmax(1) == own).float().mean())}

    return work


def probe(way: str) -> Callable[[int], Work]:
    """`lwcl probe` by a protocol on features, a fifth of as many queries; or scikit-learn's regression, untuned."""

    def case(rows: int) -> Work:
        (bank, labels), (queries, own) = features(rows, 512), features(rows // 5, 512, seed=1)
        out = torch.arange(rows) % 5 == 0

        def fast() -> Tensor:
            how: dict[str, Any] = {"classes": CLASSES, "epochs": 10, "batch_size": 256, "seed": 0}
            return linear.fast_probe(
                bank, labels, queries, own, out, linear.LEARNING_RATES, device=torch.device("cpu"), **how
            ).logits

        def logistic() -> Tensor:
            return linear.logistic_probe(bank, labels, queries, out, classes=CLASSES).logits

        def sklearn() -> Tensor:
            model = LogisticRegression(max_iter=1000).fit(bank.numpy(), labels.numpy())
            return torch.from_numpy(model.decision_function(queries.numpy()))

        way_there = {"fast": fast, "logistic": logistic, "scikit-learn": sklearn}[way]
        return lambda: {"top1": float((way_there().argmax(1) == own).float().mean())}

    return case


CASES: dict[str, Callable[[int], Work]] = {
    "diagnosis": diagnosis,
    "diagnosis-held-out": diagnosis_held_out,
    "knn": neighbours,
    "knn-scikit-learn": neighbours_by_sklearn,
    "probe-fast": probe("fast"),
    "probe-logistic": probe("logistic"),
    "probe-scikit-learn": probe("scikit-learn"),
}


def peak() -> float:
    """Resident memory of this process at its largest so far, 10^9 bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def measure(name: str, rows: int) -> dict[str, Any]:
    """A case in this process: CPU seconds, peak memory, and that before it began."""
    torch.set_num_threads(1)
    work, before, begun = CASES[name](rows), peak(), time.process_time()
    found = work()
    seconds = time.process_time() - begun
    return {"case": name, "rows": rows, "cpu_s": seconds, "peak_gb": peak(), "features_gb": before, **found}


def main() -> None:
    """Measures each case in a process of its own, prints, and appends to results.jsonl (not with `--smoke`)."""
    parser = argparse.ArgumentParser(description="Time and memory of evaluation.")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--smoke", action="store_true", help="1,000 rows, kept nowhere")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    told = parser.parse_args()
    rows = 1000 if told.smoke else told.rows
    if told.here:
        print(json.dumps(measure(told.cases[0], rows)))
        return
    for name in told.cases:
        command = [sys.executable, __file__, "--here", "--cases", name, "--rows", str(rows)]
        done = subprocess.run(  # noqa: S603  # this script itself
            command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        row = json.loads(done.stdout)
        print(
            ", ".join(f"{key} {value:.3f}" if isinstance(value, float) else f"{value}" for key, value in row.items()),
            flush=True,
        )
        if not told.smoke:
            about = {"benchmark": "judging", "date": f"{datetime.now(UTC):%Y-%m-%d}", "torch": torch.__version__}
            with RESULTS.open("a") as file:
                file.write(json.dumps({**about, "load": os.getloadavg()[0], **row}) + "\n")


if __name__ == "__main__":
    main()
