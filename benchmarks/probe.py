"""Linear probes of an encoder: on features computed once, and image by image; logistic regression by three solvers.

Claim: `fast` is as right as five epochs of CompRess's protocol within the interval, in half of their time, or in a
seventh where the features are there; the 40 epochs as published were not run. scikit-learn finds the solution of a
logistic regression 2.5 times as fast as an L-BFGS of our own. One run, so without a spread; measured 2026-11-22
on one core of an AMD EPYC (Zen 5) that other programs shared (load 10), torch 2.14.1, a MobileNetV3-Large of 20 epochs
of `lwcl pretrain`, Imagenette at 64 px, 4,000 images to train on and 1,000 to judge by (interval +- 3 points):

    way                                     CPU seconds  top-1
    features, once                                  9.9
    fast: 40 classifiers, one trained again         3.4  39.1%
    logistic: penalty chosen, solved again          4.4  39.2%
    compress, 5 epochs of 40                       25.1  38.1%
    one solution by scikit-learn                    1.5  39.2%
    the same by torch and scipy                     3.7  39.2%

    python benchmarks/probe.py runs/mine --data labelled/ [--protocol compress] [--epochs 5] [--smoke]

Times are CPU time of one thread, so that other load on the machine counts as little as it can; features are computed
once for all ways, and told apart. `--smoke`: an untrained encoder on 300 of the embedded images; nothing is kept.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from lwcl.checkpoints.load import load_encoder
from lwcl.config.eval_options import ProbeOptions
from lwcl.data.label_fractions import open_probe_pair
from lwcl.evaluation.linear_probe import ProbeSetup, probe_encoder
from lwcl.metrics.bootstrap import mean_top1
from lwcl.metrics.linear import normalise_features
from lwcl.models.loaded import LoadedEncoder
from lwcl.reporting.console import Screen
from lwcl.system.cpu import keep_freed_memory

RESULTS = Path(__file__).with_name("results.jsonl")
PENALTY = 0.1
T = TypeVar("T")


def timed(way: Callable[[], T]) -> tuple[T, float]:
    """What a way gives, and its CPU seconds."""
    start = time.process_time()
    found = way()
    return found, time.process_time() - start


def scikit(rows: Tensor, labels: Tensor, asked: Tensor) -> Tensor:
    """Answers of scikit-learn's logistic regression with a fixed penalty."""
    model = LogisticRegression(C=1 / (PENALTY * len(rows)), max_iter=1000).fit(rows.numpy(), labels.numpy())
    return torch.from_numpy(model.predict(asked.numpy()))


def written_out(rows: Tensor, labels: Tensor, asked: Tensor) -> Tensor:
    """Answers of the same by scipy's L-BFGS and a gradient written out in torch."""
    count, width, classes = *rows.shape, int(labels.max()) + 1
    place = torch.arange(count)

    def slope(flat: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> tuple[float, object]:
        weights = torch.from_numpy(flat).float().view(width + 1, classes)
        inner = weights[:width]
        logits = torch.addmm(weights[width], rows, inner)
        level = logits.logsumexp(1)
        loss = (level - logits[place, labels]).mean() + PENALTY / 2 * inner.square().sum()
        error = (logits - level[:, None]).exp()
        error[place, labels] -= 1
        error /= count
        return float(loss), torch.cat([rows.T @ error + PENALTY * inner, error.sum(0)[None]]).double().flatten().numpy()

    start = np.zeros((width + 1) * classes)
    found = minimize(slope, start, jac=True, method="L-BFGS-B", options={"maxiter": 1000, "gtol": 1e-4})
    weights = torch.from_numpy(found.x).float().view(width + 1, classes)
    return torch.addmm(weights[width], asked, weights[:width]).argmax(1)


def measured(given: argparse.Namespace, loaded: LoadedEncoder) -> Iterator[tuple[str, float, float]]:
    """Each way's name, share of right answers and CPU seconds; `features` comes first, and has no answers."""
    settings: dict[str, Any] = {"data": tuple(given.data), "device": "cpu", "workers": 0, "threads": 1}
    bank, queries = open_probe_pair(settings["data"], (), seed=0)
    if given.smoke:
        bank, queries = bank.subset(range(300)), queries.subset(range(100))
    bench = ProbeSetup(ProbeOptions(**settings), bank, queries, Screen())
    rows, seconds = timed(lambda: bench.features(loaded))
    assert rows is not None
    yield f"features of {len(bank) + len(queries):,} images", 0.0, seconds
    form, asked = normalise_features("standard", *rows)
    for name, solver in (("one solution by scikit-learn", scikit), ("by torch and scipy", written_out)):
        found, seconds = timed(lambda solver=solver: solver(form, bank.labels, asked))  # type: ignore[misc]
        yield name, float((found == queries.labels).float().mean()), seconds
    for protocol in ("fast", "logistic", given.protocol):
        chosen = {"epochs": given.epochs} if protocol == given.protocol else {}
        bench = ProbeSetup(ProbeOptions(**settings, protocol=protocol, **chosen), bank, queries, Screen())
        if not bench.on_features:
            bench.cached_images(loaded.input_spec.size, bench.plan(len(bank)).augmentation.crop_min)
        answer, seconds = timed(lambda bench=bench: probe_encoder(bench, loaded, rows, torch.arange(len(bank))))  # type: ignore[misc]
        yield protocol, mean_top1(answer.accuracy), seconds


def main() -> None:
    """Measures, prints, and appends to results.jsonl (not with `--smoke`)."""
    parser = argparse.ArgumentParser(description="Time and accuracy of linear probes.")
    parser.add_argument("encoder", nargs="?", default="random/test_efficientnet")
    parser.add_argument("--data", nargs="*", default=[])
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--protocol", default="compress", help="one that trains image by image, on frozen features")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="few images, one epoch, nothing kept")
    given = parser.parse_args()
    given.epochs = 1 if given.smoke else given.epochs
    torch.set_num_threads(1)
    keep_freed_memory()
    loaded = load_encoder(given.encoder, image_size=32 if given.smoke else given.image_size)
    result = {
        **{"benchmark": "probe", "date": f"{datetime.now(UTC):%Y-%m-%d}", "torch": torch.__version__},
        **{"capability": torch.backends.cpu.get_cpu_capability(), "load": os.getloadavg()[0]},
        **{"architecture": loaded.encoder.arch, "pixels": loaded.input_spec.size, "epochs": given.epochs},
    }
    for name, top1, seconds in measured(given, loaded):
        print(f"{name:>28}: {seconds:6.1f} s" + (f", {100 * top1:.1f}%" if top1 else ""), flush=True)
        result |= {f"{name}, seconds": seconds} | ({f"{name}, top1": top1} if top1 else {})
    if not given.smoke:
        with RESULTS.open("a") as file:
            file.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
