"""Linear classifiers on precomputed features: a hyper-parameter grid trained at once, or logistic regression.

`fast` trains every point of the grid with one matrix product a step. It is a training loop of its own beside
`engine.fit`, with the gradient of softmax cross-entropy written out by hand.
`logistic` is scikit-learn's solver, 2.5 times as fast as an L-BFGS of our own (benchmarks/probe.py). Both select
hyper-parameters by the mean loss on held-out training images: accuracy jumps, the loss does not. Test images select
nothing.

N rows, D features, C classes, G points of the grid.
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
LEARNING_RATES = (1e-3, 3e-3, 0.01, 0.03, 0.1)  # for features of mean square 1
WEIGHT_DECAYS = (0.0, 0.01, 0.1, 1.0)
L2_PENALTIES = (
    10.0,
    3.0,
    1.0,
    0.3,
    0.1,
    0.03,
    0.01,
    0.001,
    1e-4,
)  # on half the squared weights, added to the mean loss
SGD_MOMENTUM = 0.9
LOGIT_CHUNK = 2**24  # logits at a time
MAX_LBFGS_STEPS = 1000


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
    """Logits of the queries, and how the classifier was selected."""

    logits: Tensor  # (N, C), on the CPU
    curve: tuple[float, ...]  # accuracy after each epoch; empty where there are no epochs
    selected: str  # the hyper-parameters
    held_out: float  # accuracy on the held-out training images


def feature_statistics(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and std sqrt(var + `VARIANCE_EPSILON`) of each feature of rows (N, D), the variance unbiased; (D,) each."""
    return rows.mean(0), (rows.var(0) + VARIANCE_EPSILON).sqrt()


def normalise_features(form: str, bank: Tensor, *others: Tensor) -> list[Tensor]:
    """Features in a form of mean square 1, so that one learning rate suits all encoders; the bank's come first.

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
    """One classifier for each of G points, trained together; yields the same tensors after each epoch.

    Softmax cross-entropy with a hand-written gradient; SGD with momentum 0.9, a cosine schedule to 0, weight decay on
    the weights only. Rows (N, D) stay where they are, the classifiers are on `device`.
    """
    rates, decays = (torch.tensor(column, device=device)[:, None] for column in list(zip(*points, strict=True))[1:])
    heads = LinearHeads(
        rows.new_zeros(rows.shape[1], len(points), classes, device=device), rates.new_zeros(len(points), classes)
    )
    velocity = LinearHeads(*map(torch.zeros_like, heads))
    generator = torch.Generator().manual_seed(seed)
    step, steps = 0, epochs * math.ceil(len(rows) / batch_size)
    for _ in range(epochs):
        for index in torch.split(torch.randperm(len(rows), generator=generator), batch_size):
            batch, target = rows[index].to(device), labels[index].to(device)
            error = heads.logits(batch).softmax(2)
            error[torch.arange(len(index), device=device), :, target] -= 1
            error /= len(index)
            gradient = (batch.T @ error.flatten(1)).view_as(heads.weight)
            velocity.weight.mul_(SGD_MOMENTUM).add_(gradient).addcmul_(heads.weight, decays)
            velocity.bias.mul_(SGD_MOMENTUM).add_(error.sum(0))
            rate = rates * (0.5 * (1 + math.cos(math.pi * step / steps)))
            heads.weight.addcmul_(velocity.weight, rate, value=-1)
            heads.bias.addcmul_(velocity.bias, rate, value=-1)
            step += 1
        yield heads


def evaluate_heads(heads: LinearHeads, rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Accuracy and mean loss of each classifier on rows (N, D): (G,) each, on the CPU."""
    correct, loss = torch.zeros(2, len(heads.bias), dtype=torch.float64)
    size = max(1, LOGIT_CHUNK // heads.bias.numel())
    for chunk, target in zip(torch.split(rows, size), torch.split(labels, size), strict=True):
        logits = heads.logits(chunk.to(heads.bias.device)).cpu()
        correct += (logits.argmax(2) == target[:, None]).sum(0)
        own = logits.gather(2, target.view(-1, 1, 1).expand(-1, len(correct), 1))[:, :, 0]
        loss += (logits.logsumexp(2) - own).sum(0)
    return correct / len(rows), loss / len(rows)


class HeldOutScore(NamedTuple):
    """Accuracy and mean loss on the held-out training images."""

    accuracy: float
    loss: float


def select_grid_point(
    bank: Tensor, labels: Tensor, held_out: Tensor, grid: Sequence[GridPoint], **training: Any
) -> tuple[GridPoint, HeldOutScore]:
    """The point of the grid with the least loss on the rows `held_out` (N,) bool after training on the others."""
    scores: list[tuple[GridPoint, HeldOutScore]] = []
    for form in dict.fromkeys(point.form for point in grid):
        points = [point for point in grid if point.form == form]
        train, val = normalise_features(form, bank[~held_out], bank[held_out])
        *_, heads = train_heads(train, labels[~held_out], points, **training)
        columns = (column.tolist() for column in evaluate_heads(heads, val, labels[held_out]))
        scores += [(point, HeldOutScore(*row)) for point, row in zip(points, zip(*columns, strict=True), strict=True)]
    return min(scores, key=lambda pair: pair[1].loss)


def fast_probe(
    bank: Tensor,
    labels: Tensor,
    queries: Tensor,
    query_labels: Tensor,
    held_out: Tensor,
    rates: Sequence[float],
    **training: Any,
) -> FittedClassifier:
    """A linear classifier trained on features (N, D) with the grid point selected on the rows `held_out` (N,) bool.

    `training`: as `train_heads` takes it. `query_labels` are used for the accuracy curve alone.
    """
    grid = [GridPoint(form, lr, decay) for form in FEATURE_FORMS for lr in rates for decay in WEIGHT_DECAYS]
    point, score = select_grid_point(bank, labels, held_out, grid, **training)
    rows, test = normalise_features(point.form, bank, queries)
    curve = []
    for heads in train_heads(rows, labels, [point], **training):
        curve.append(float(evaluate_heads(heads, test, query_labels)[0]))
    logits = torch.cat([heads.logits(part.to(heads.bias.device))[:, 0].cpu() for part in torch.split(test, 8192)])
    selected = f"{point.form} features, lr {point.lr:g}, weight decay {point.decay:g}"
    return FittedClassifier(logits, tuple(curve), selected, score.accuracy)


def fit_logistic(model: Any, rows: Tensor, labels: Tensor) -> None:
    """Fits scikit-learn's `model`; its `n_iter_` tells whether `MAX_LBFGS_STEPS` sufficed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "lbfgs failed to converge")
        model.fit(rows.numpy(), labels.numpy())


def sklearn_logits(model: Any, rows: Tensor, classes: int) -> Tensor:
    """Logits (N, C) of scikit-learn's `model`, which has one column for two classes, and none for absent ones."""
    scores = torch.from_numpy(model.decision_function(rows.numpy())).float()
    scores = torch.stack([-scores, scores], 1) / 2 if scores.ndim == 1 else scores
    logits = scores.new_full((len(rows), classes), -math.inf)
    logits[:, torch.from_numpy(model.classes_)] = scores
    return logits


def logistic_probe(
    bank: Tensor, labels: Tensor, queries: Tensor, held_out: Tensor, *, classes: int
) -> FittedClassifier:
    """Multinomial logistic regression on standardised features (N, D), solved by L-BFGS (scikit-learn).

    The penalty is selected on the rows `held_out` (N,) bool: from the strongest down, until their loss rises.
    """
    from sklearn.linear_model import LogisticRegression  # a second to import

    model = LogisticRegression(max_iter=MAX_LBFGS_STEPS, warm_start=True)
    train, val = normalise_features("standard", bank[~held_out], bank[held_out])
    best = (L2_PENALTIES[0], HeldOutScore(0.0, math.inf))
    for penalty in L2_PENALTIES:
        fit_logistic(model.set_params(C=1 / (penalty * len(train))), train, labels[~held_out])
        logits, target = sklearn_logits(model, val, classes), labels[held_out]
        score = HeldOutScore(float((logits.argmax(1) == target).float().mean()), float(cross_entropy(logits, target)))
        if score.loss > best[1].loss:
            break
        best = (penalty, score)
    rows, test = normalise_features("standard", bank, queries)
    fit_logistic(model.set_params(C=1 / (best[0] * len(rows))), rows, labels)
    steps = int(model.n_iter_.max())
    convergence = f"{steps} steps" if steps < MAX_LBFGS_STEPS else f"not converged in {steps} steps"
    logits = sklearn_logits(model, test, classes)
    return FittedClassifier(logits, (), f"L2 penalty {best[0]:g}, {convergence}", best[1].accuracy)
