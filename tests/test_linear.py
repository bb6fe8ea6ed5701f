"""Linear classifiers of features, against golden values of the papers' code and against the same written slowly."""

import itertools
import math

import numpy
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from lwcl import engine
from lwcl.config.probe_plan import plan_probe
from lwcl.config.probe_protocols import PROTOCOLS
from lwcl.config.recipes import Optimization
from lwcl.losses import l2_normalise
from lwcl.metrics import linear
from lwcl.metrics.linear import GridPoint
from lwcl.models.encoder import Encoder
from lwcl.models.probe import LinearClassifier

CPU = torch.device("cpu")
HOW = {"classes": 3, "epochs": 4, "batch_size": 16, "seed": 0, "device": CPU}


def clouds(count: int, seed: int, noise: float = 1.0, classes: int = 3) -> tuple[Tensor, Tensor]:
    """Features (count, 6) of classes in turn, around centres that do not depend on the seed."""
    centres = torch.randn(classes, 6, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(count) % classes
    return centres[labels] + noise * torch.randn(count, 6, generator=torch.Generator().manual_seed(seed)), labels


BANK, LABELS = clouds(90, 0)
QUERIES, ANSWERS = clouds(60, 1)
OUT = torch.arange(90) % 5 == 0


def test_standardised_features_equal_the_published_code() -> None:
    stream = numpy.random.RandomState(8)
    for shape in ((3, 5), (30, 5), (12, 5)):
        stream.standard_normal(shape)
    rows = torch.from_numpy(stream.standard_normal((7, 4)))
    (found,) = linear.normalise_features("standard", rows)
    assert found[0].tolist() == pytest.approx([-1.115048, 0.751533, 0.553445, -0.343561], abs=1e-6)
    assert float(found.norm()) == pytest.approx(4.898786, abs=1e-6)
    classifier = LinearClassifier(4, 2, "standard")
    classifier.fit_statistics(rows)
    assert torch.allclose(classifier(rows.float()), classifier.linear(found.float()), atol=1e-5)


def test_lars_equals_the_published_code_and_treats_biases_as_sgd_does() -> None:
    net = nn.Linear(2, 2)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0, -2.0], [3.0, 0.5]]))
        net.bias.fill_(1.0)
    optimizer = engine.build_optimizer(net, Optimization(optimizer="lars"), 1.6, 0.0)
    for weight, bias in (
        ([[0.99889728, -2.00220545], [3.00330817, 0.4955891]], 1 - 1.6 * 0.1),
        ([[0.99680125, -2.00639751], [3.00959626, 0.48720499]], 1 - 1.6 * 0.1 * (1 + 1.9)),
    ):
        net.weight.grad, net.bias.grad = torch.tensor([[0.1, 0.2], [-0.3, 0.4]]), torch.full((2,), 0.1)
        optimizer.step()
        assert torch.allclose(net.weight, torch.tensor(weight), atol=1e-6)
        assert torch.allclose(net.bias, torch.tensor(bias), atol=1e-6)


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        ("disco", {0: 3.0, 4: 3.0, 5: 1.5, 45: 0.005859375, 60: 0.0029296875, 80: 0.00146484375}),
        ("moco", {0: 30.0, 59: 30.0, 60: 3.0, 79: 3.0, 80: 0.3}),
        ("compress", {14: 0.01, 15: 0.001, 29: 0.001, 30: 1e-4}),
        ("transfer", {39: 1.5, 40: 0.15}),
        ("finetune", {39: 0.01, 40: 0.001, 70: 1e-4}),
        ("semi:1%", {59: 3.0, 60: 1.5, 80: 0.75}),
        ("simsiam", {0: 1.6, 45: 0.8}),
        ("swav", {0: 0.3, 25: 0.3 * (1 + math.cos(math.pi / 4)) / 2}),
    ],
)
def test_learning_rates_fall_as_published(protocol: str, expected: dict[int, float]) -> None:
    recipe = plan_probe(protocol, {}, 1_281_167, 1000, ()).optimization
    assert recipe.epochs and recipe.lr and recipe.warmup == 0
    for epoch, lr in expected.items():
        for within in (epoch, epoch + 0.9):
            assert engine.learning_rate(within, recipe, recipe.epochs, recipe.lr, 0) == pytest.approx(lr)


def slowly(rows: Tensor, point: GridPoint) -> nn.Linear:
    """One classifier trained by autograd and torch's SGD in the order that `trained` has."""
    head = nn.Linear(rows.shape[1], 3)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    groups = [{"params": [head.weight], "weight_decay": point.decay}, {"params": [head.bias]}]
    optimizer, generator = torch.optim.SGD(groups, lr=1.0, momentum=0.9), torch.Generator().manual_seed(0)
    orders = [torch.randperm(len(rows), generator=generator).split(16) for _ in range(4)]
    for step, index in enumerate(itertools.chain(*orders)):
        for group in optimizer.param_groups:
            group["lr"] = point.lr * 0.5 * (1 + math.cos(math.pi * step / (4 * len(orders[0]))))
        optimizer.zero_grad()
        nn.functional.cross_entropy(head(rows[index]), LABELS[index]).backward()
        optimizer.step()
    return head


def test_each_point_of_the_grid_is_trained_as_if_it_were_alone() -> None:
    (rows,) = linear.normalise_features("standard", BANK)
    points = [GridPoint("standard", lr, decay) for lr in (0.01, 0.3) for decay in (0.0, 0.1)]
    *_, heads = linear.train_heads(rows, LABELS, points, **HOW)
    for number, point in enumerate(points):
        alone = slowly(rows, point)
        assert torch.allclose(heads.weight[:, number].T, alone.weight, atol=1e-5)
        assert torch.allclose(heads.bias[number], alone.bias, atol=1e-5)


def test_the_queries_answers_change_nothing_but_the_curve() -> None:
    told = [
        linear.fast_probe(BANK, LABELS, QUERIES, answers, OUT, linear.LEARNING_RATES, **HOW)
        for answers in (ANSWERS, 2 - ANSWERS)
    ]
    assert torch.equal(told[0].logits, told[1].logits)
    assert told[0].selected == told[1].selected
    assert told[0].curve != told[1].curve
    assert told[0].curve[-1] == pytest.approx(float((told[0].logits.argmax(1) == ANSWERS).float().mean()))


def test_the_held_out_part_chooses_the_point_with_the_least_loss() -> None:
    grid = [GridPoint("unit", 1e-9, 0.0), GridPoint("standard", 0.01, 0.0), GridPoint("unit", 1e-9, 1.0)]
    point, held = linear.select_grid_point(BANK, LABELS, OUT, grid, **HOW)
    assert point == grid[1]
    assert held.loss < math.log(3)


def test_both_ways_tell_separate_classes_apart() -> None:
    bank, labels = clouds(90, 2, noise=0.1)
    queries, answers = clouds(60, 3, noise=0.1)
    found = linear.fast_probe(bank, labels, queries, answers, OUT, linear.LEARNING_RATES, **HOW)
    assert found.curve[-1] == 1
    solved = linear.logistic_probe(bank, labels, queries, OUT, classes=3)
    assert bool((solved.logits.argmax(1) == answers).all())
    assert found.held_out == solved.held_out == 1


def test_logistic_regression_is_that_of_scikit_learn() -> None:
    found = linear.logistic_probe(BANK, LABELS, QUERIES, OUT, classes=3)
    penalty = float(found.selected.split()[2].rstrip(","))
    rows, asked = linear.normalise_features("standard", BANK, QUERIES)
    model = LogisticRegression(C=1 / (penalty * 90), max_iter=1000, tol=1e-6).fit(rows.numpy(), LABELS.numpy())
    expected = torch.from_numpy(model.predict_proba(asked.numpy())).float()
    assert torch.allclose(found.logits.softmax(1), expected, atol=1e-3)


def test_logistic_regression_of_two_classes_has_two_columns_and_absent_ones_never_win() -> None:
    bank, labels = clouds(40, 4, noise=0.1, classes=2)
    out = torch.arange(40) % 4 < 1
    found = linear.logistic_probe(bank, labels, bank, out, classes=3)
    assert found.logits.shape == (40, 3)
    assert bool((found.logits.argmax(1) == labels).all())
    assert bool((found.logits[:, 2] == -math.inf).all())


def test_all_forms_have_a_mean_square_of_one() -> None:
    for form in linear.FEATURE_FORMS:
        rows, other = linear.normalise_features(form, 50 * BANK + 3, QUERIES)
        assert float(rows.square().mean()) == pytest.approx(1, abs=0.02)
        assert other.shape == QUERIES.shape
    assert torch.allclose(linear.normalise_features("unit", BANK)[0], l2_normalise(BANK) * 6**0.5)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_few_images_make_small_batches_and_rates_that_follow(name: str) -> None:
    plan = plan_probe(name, {}, 500, 10, ())
    recipe, base = plan.optimization, plan.optimization.base_lr
    assert recipe.batch_size == 16
    if name == "fast":
        assert (recipe.epochs, recipe.lr) == (16, None)
    elif name == "simsiam":
        assert recipe.lr == pytest.approx(1.6), "LARS moves weights by a share of their length"
    elif name != "logistic":
        assert recipe.lr == pytest.approx(base * 16 / 256)
        assert recipe.epochs == PROTOCOLS[name].settings["epochs"].value


def test_flags_win_and_the_rate_follows_a_chosen_batch() -> None:
    recipe = plan_probe("moco", {"batch_size": 128, "epochs": 3, "lr": None}, 300, 2, ()).optimization
    assert (recipe.batch_size, recipe.epochs, recipe.lr) == (128, 3, 15.0)
    assert plan_probe("moco", {"lr": 2.0}, 300, 2, ()).optimization.lr == 2
    assert plan_probe("moco", {}, 3, 2, ()).optimization.batch_size == 2


def test_digits_are_not_mirrored_and_protocols_keep_their_crops() -> None:
    assert plan_probe("transfer", {}, 300, 2, ()).augmentation.crop_min == 0.6
    assert plan_probe("moco", {}, 300, 2, ()).augmentation.flip_p == 0.5
    assert plan_probe("moco", {}, 300, 2, ("digits",)).augmentation.flip_p == 0


def test_a_classifier_takes_the_width_of_the_encoder() -> None:
    encoder = Encoder("test_efficientnet")
    net = plan_probe("transfer", {}, 300, 7, ()).method.build(encoder)
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
