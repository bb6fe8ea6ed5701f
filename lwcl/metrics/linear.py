"""Linear classifiers of features that were computed once: a whole grid trained at once, or logistic regression.

`fast` is ours: SGD for every point of a grid in one matrix product a step. `logistic` is scikit-learn's solution, which
is found 2.5 times as fast as by an L-BFGS of our own (benchmarks/probe.py). Both choose on a held-out part of the
training images, by its mean loss: shares of right answers jump, the loss does not. The queries choose nothing.

N rows, D features, C classes, G points of a grid.
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lwcl.losses import l2_normalise

VARIANCE_EPSILON = 1e-5  # added to a variance; CompRess, arXiv 2010.14713, `eval_linear.py`
FEATURE_FORMS = ("unit", "standard")
LEARNING_RATES = (1e-3, 3e-3, 0.01, 0.03, 0.1)  # for rows whose numbers have a mean square of 1
WEIGHT_DECAYS = (0.0, 0.01, 0.1, 1.0)
L2_PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.001, 1e-4)  # of half the squared weights, beside the mean loss
SGD_MOMENTUM = 0.9
LOGIT_CHUNK = 2**24  # of logits at a time
MAX_LBFGS_STEPS = 1000  # of L-BFGS


class GridPoint(NamedTuple):
    """A point of the grid: the form of the features, the learning rate and the weight decay."""

    form: str
    lr: float
    decay: float


class LinearHeads(NamedTuple):
    """G linear classifiers side by side."""

    weight: Tensor  # (D, G, C)
    bias: Tensor  # (G, C)

    def logits(self, rows: Tensor) -> Tensor:
        """(N, G, C) from rows (N, D)."""
        flat = torch.addmm(self.bias.flatten(), rows, self.weight.flatten(1))
        return flat.view(len(rows), *self.bias.shape)


class FittedClassifier(NamedTuple):
    """What a classifier says of the queries, and how it came about."""

    logits: Tensor  # (N, C), on the CPU
    curve: tuple[float, ...]  # share of right answers after each epoch; empty where there are no epochs
    chosen: str  # what the held-out images chose
    held_out: float  # share of them that it was right for


def feature_statistics(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation sqrt(var + `EPSILON`) of each feature of rows (N, D), the variance unbiased; (D,) each."""
    return rows.mean(0), (rows.var(0) + VARIANCE_EPSILON).sqrt()


def normalise_features(form: str, bank: Tensor, *others: Tensor) -> list[Tensor]:
    """Features in a form in which one learning rate suits all nets, the bank's first: numbers of mean square 1.

    `unit`: rows of length sqrt(D). `standard`: unit rows, standardised by the bank's statistics (CompRess).
    """
    rows = [l2_normalise(each) for each in (bank, *others)]
    mean, deviation = feature_statistics(rows[0]) if form == "standard" else (0.0, bank.shape[1] ** -0.5)
    return [each.sub_(mean).div_(deviation) for each in rows]


def train_heads(
    rows: Tensor,
    labels: Tensor,
    points: Sequence[GridPoint],
    *,
    classes: int,
    epochs: int,
    batch_size: int,
    seed: int,
    device: torch.device,
) -> Iterator[LinearHeads]:
    """One classifier for each of G points, all at once, after each epoch; the same tensors, changed in between.

    Softmax cross-entropy, whose gradient is written out; SGD with momentum 0.9, the rate falling along a cosine to 0,
    weight decay on the weights only. Rows (N, D) stay where they are, the classifiers are on `device`.
    """
    rates, decays = (torch.tensor(column, device=device)[:, None] for column in list(zip(*points, strict=True))[1:])
    heads = LinearHeads(
        rows.new_zeros(rows.shape[1], len(points), classes, device=device), rates.new_zeros(len(points), classes)
    )
    pace = LinearHeads(*map(torch.zeros_like, heads))
    generator = torch.Generator().manual_seed(seed)
    step, steps = 0, epochs * math.ceil(len(rows) / batch_size)
    for _ in range(epochs):
        for index in torch.split(torch.randperm(len(rows), generator=generator), batch_size):
            batch, right = rows[index].to(device), labels[index].to(device)
            error = heads.logits(batch).softmax(2)
            error[torch.arange(len(index), device=device), :, right] -= 1
            error /= len(index)
            slope = (batch.T @ error.flatten(1)).view_as(heads.weight)
            pace.weight.mul_(SGD_MOMENTUM).add_(slope).addcmul_(heads.weight, decays)
            pace.bias.mul_(SGD_MOMENTUM).add_(error.sum(0))
            rate = rates * (0.5 * (1 + math.cos(math.pi * step / steps)))
            heads.weight.addcmul_(pace.weight, rate, value=-1)
            heads.bias.addcmul_(pace.bias, rate, value=-1)
            step += 1
        yield heads


def evaluate_heads(heads: LinearHeads, rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Each classifier's share of right answers and mean loss on rows (N, D): (G,) each, on the CPU."""
    right, loss = torch.zeros(2, len(heads.bias), dtype=torch.float64)
    size = max(1, LOGIT_CHUNK // heads.bias.numel())
    for part, told in zip(torch.split(rows, size), torch.split(labels, size), strict=True):
        logits = heads.logits(part.to(heads.bias.device)).cpu()
        right += (logits.argmax(2) == told[:, None]).sum(0)
        loss += (logits.logsumexp(2) - logits.gather(2, told.view(-1, 1, 1).expand(-1, len(right), 1))[:, :, 0]).sum(0)
    return right / len(rows), loss / len(rows)


class HeldOutScore(NamedTuple):
    """What chose: the share of the held-out images that were right, and their mean loss."""

    right: float
    loss: float


def select_grid_point(
    bank: Tensor, labels: Tensor, out: Tensor, grid: Sequence[GridPoint], **how: Any
) -> tuple[GridPoint, HeldOutScore]:
    """The point of the grid with the least loss on the rows `out` (N,) bool after training on the others."""
    found: list[tuple[GridPoint, HeldOutScore]] = []
    for form in dict.fromkeys(point.form for point in grid):
        points = [point for point in grid if point.form == form]
        kept, held = normalise_features(form, bank[~out], bank[out])
        *_, heads = train_heads(kept, labels[~out], points, **how)
        columns = (column.tolist() for column in evaluate_heads(heads, held, labels[out]))
        found += [(point, HeldOutScore(*told)) for point, told in zip(points, zip(*columns, strict=True), strict=True)]
    return min(found, key=lambda each: each[1].loss)


def fast_probe(
    bank: Tensor, labels: Tensor, queries: Tensor, answers: Tensor, out: Tensor, rates: Sequence[float], **how: Any
) -> FittedClassifier:
    """A linear classifier trained on features (N, D) with the point of the grid that the held-out rows `out` choose.

    `how`: as `trained` takes it. `answers` are the queries' labels, for the curve alone.
    """
    grid = [GridPoint(form, lr, decay) for form in FEATURE_FORMS for lr in rates for decay in WEIGHT_DECAYS]
    point, held = select_grid_point(bank, labels, out, grid, **how)
    rows, asked = normalise_features(point.form, bank, queries)
    curve = []
    for heads in train_heads(rows, labels, [point], **how):
        curve.append(float(evaluate_heads(heads, asked, answers)[0]))
    logits = torch.cat([heads.logits(part.to(heads.bias.device))[:, 0].cpu() for part in torch.split(asked, 8192)])
    return FittedClassifier(
        logits, tuple(curve), f"{point.form} features, lr {point.lr:g}, decay {point.decay:g}", held.right
    )


def fit_logistic(model: Any, rows: Tensor, labels: Tensor) -> None:
    """Fits scikit-learn's `model`; whether `MAX_LBFGS_STEPS` were enough is in its `n_iter_`."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "lbfgs failed to converge")
        model.fit(rows.numpy(), labels.numpy())


def sklearn_logits(model: Any, rows: Tensor, classes: int) -> Tensor:
    """Logits (N, C) of scikit-learn's `model`, which has one column for two classes, and none for absent ones."""
    found = torch.from_numpy(model.decision_function(rows.numpy())).float()
    found = torch.stack([-found, found], 1) / 2 if found.ndim == 1 else found
    logits = found.new_full((len(rows), classes), -math.inf)
    logits[:, torch.from_numpy(model.classes_)] = found
    return logits


def logistic_probe(bank: Tensor, labels: Tensor, queries: Tensor, out: Tensor, *, classes: int) -> FittedClassifier:
    """Multinomial logistic regression of standardised features (N, D), found by L-BFGS (scikit-learn).

    The penalty that the held-out rows `out` choose: from the strongest down, until their loss rises.
    """
    from sklearn.linear_model import LogisticRegression  # a second to import

    model = LogisticRegression(max_iter=MAX_LBFGS_STEPS, warm_start=True)
    kept, held = normalise_features("standard", bank[~out], bank[out])
    best = (L2_PENALTIES[0], HeldOutScore(0.0, math.inf))
    for penalty in L2_PENALTIES:
        fit_logistic(model.set_params(C=1 / (penalty * len(kept))), kept, labels[~out])
        logits, told = sklearn_logits(model, held, classes), labels[out]
        found = HeldOutScore(float((logits.argmax(1) == told).float().mean()), float(cross_entropy(logits, told)))
        if found.loss > best[1].loss:
            break
        best = (penalty, found)
    rows, asked = normalise_features("standard", bank, queries)
    fit_logistic(model.set_params(C=1 / (best[0] * len(rows))), rows, labels)
    steps = int(model.n_iter_.max())
    ended = f"{steps} steps" if steps < MAX_LBFGS_STEPS else f"not converged in {steps} steps"
    return FittedClassifier(sklearn_logits(model, asked, classes), (), f"penalty {best[0]:g}, {ended}", best[1].right)
