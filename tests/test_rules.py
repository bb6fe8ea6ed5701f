"""The rules that settle settings from data and machine: their limits, their reasons, and that choices win."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lwcl.config.auto import RunFacts, apply_rules, resolve_plan
from lwcl.config.plan import plan_pretrain, plan_run
from lwcl.config.recipes import RECIPES, Optimization
from lwcl.errors import UsageError
from lwcl.methods.method import methods
from lwcl.settings import SettingValue, auto_field_names
from lwcl.training.resolve import check_warmup


def settled(images: int, side: int = 224, *, accelerated: bool = False, **chosen: object) -> dict[str, SettingValue]:
    values = {name: setting.value for name, setting in plan_pretrain({"recipe": "light", **chosen}).values.items()}
    return apply_rules(values, RunFacts(images, side, cpus=4, accelerated=accelerated))


@pytest.mark.parametrize("name", sorted(RECIPES))
@given(images=st.integers(2, 10_000_000), side=st.integers(1, 5000), accelerated=st.booleans())
def test_every_rule_gives_a_valid_plan_for_any_data(name: str, images: int, side: int, accelerated: bool) -> None:
    kind = methods()[RECIPES[name].method]
    plan = plan_run(kind.command, {"recipe": name, "teacher": "random/resnet18" if kind.teacher_space else None})
    config = resolve_plan(plan, RunFacts(images, side, 4, accelerated))
    opened = [name for section in plan.sections for name in auto_field_names(type(section))]
    assert all(config.values[name].value is not None and str(config.values[name].origin) for name in opened)
    for longer in ("queue_size", "anchors"):
        size = config.values[longer].value if longer in config.values else 0
        assert size == 0 or size >= config.optimization.batch_size
    assert config.optimization.warmup < config.optimization.epochs


@given(st.integers(1, 100_000), st.integers(1, 1_000_000))
def test_a_part_of_an_epoch_is_whole_steps(steps_per_epoch: int, steps: int) -> None:
    assert Optimization(epochs=steps / steps_per_epoch).steps(steps_per_epoch) == steps


def test_what_a_flag_or_a_file_chose_is_never_overridden() -> None:
    plan = plan_pretrain({"optimizer": "sgd", "recipe": "light"}, {"epochs": 7}, "recipe notes.yaml")
    config = resolve_plan(plan, RunFacts(3000, 64, 2, False, demo=True))
    assert (config.optimization.optimizer, config.optimization.epochs) == ("sgd", 7)
    assert config.method.symmetric is False, "the demo's own"


@pytest.mark.parametrize(
    ("facts", "backend"),
    [({}, "tensor"), ({"opencv": True}, "opencv"), ({"opencv": True, "accelerated": True}, "tensor")],
)
def test_views_are_made_by_opencv_on_a_cpu_that_has_it(facts: dict[str, bool], backend: str) -> None:
    values = {name: setting.value for name, setting in plan_pretrain({}).values.items()}
    assert apply_rules(values, RunFacts(5000, 64, 2, **{"accelerated": False} | facts))["view_backend"].value == backend


@pytest.mark.parametrize(("slow", "precision"), [(False, "bf16"), (True, "fp32")])
def test_a_teacher_computes_in_bfloat16_where_that_is_fast(slow: bool, precision: str) -> None:
    plan = plan_run("distill", {"teacher": "random/resnet18"})
    values = {name: setting.value for name, setting in plan.values.items()}
    assert apply_rules(values, RunFacts(5000, 64, 2, False, emulated_bf16=slow))["teacher_precision"].value == precision


def test_imagenet_gets_the_published_queue_and_decay() -> None:
    done = settled(1_281_167, accelerated=True)
    assert (done["queue_size"].value, done["weight_decay"].value) == (65536, 1e-4)
    assert (done["batch_size"].value, done["image_size"].value) == (256, 224)


def test_what_was_chosen_is_not_settled_and_is_what_other_rules_follow() -> None:
    done = settled(25_000, batch_size=512)
    assert "batch_size" not in done
    assert done["lr"].value == pytest.approx(0.12), "light-moco's 0.12 at batch 512"


def test_small_images_get_views_of_64_pixels_and_the_reason_says_why() -> None:
    done = settled(25_000, side=32)
    assert done["image_size"].value == 64
    assert "1 x 1" in done["image_size"].origin.detail


def test_a_queue_never_holds_most_of_a_small_set() -> None:
    assert settled(4_000)["queue_size"].value <= 1024


@pytest.mark.parametrize(
    ("command", "images", "recipe", "method"),
    [
        ("pretrain", 3_000, "simclr", "simclr"),
        ("pretrain", 1_281_167, "light", "light-moco"),
        ("compress", 3_000, "regression", "regression"),
        ("compress", 1_281_167, "compress-2q", "2q"),
        ("distill", 3_000, "disco", "disco"),
    ],
)
def test_the_automatic_recipe_follows_the_number_of_images(command: Any, images: int, recipe: str, method: str) -> None:
    teacher = {} if command == "pretrain" else {"teacher": "random/resnet18"}
    for chosen in ({}, {"recipe": "auto"}):
        config = resolve_plan(plan_run(command, {**teacher, **chosen}), RunFacts(images, 64, 2, False))
        assert (config.options.recipe, config.method.name) == (recipe, method)
        assert "images" in str(config.values["recipe"].origin)
        again = resolve_plan(plan_run(command, {}, config.config()), RunFacts(images, 64, 2, False))
        assert again.config() == config.config(), "its config.yaml is the same run"


def test_the_recipe_for_small_data_keeps_its_numbers_and_a_flag_its_own() -> None:
    config = resolve_plan(plan_pretrain({"temperature": 0.5}), RunFacts(3_000, 64, 2, False, demo=True))
    assert (config.optimization.lr, config.optimization.weight_decay) == (1e-3, 0.05)
    assert config.values["key_momentum"].value == 0, "the demo changes light-moco's momentum, not SimCLR's"
    assert config.values["temperature"].value == 0.5


def test_a_method_chosen_without_a_recipe_takes_its_own_for_any_number_of_images() -> None:
    for images in (3_000, 1_281_167):
        config = resolve_plan(plan_pretrain({"method": "moco"}), RunFacts(images, 64, 2, False))
        assert (config.options.recipe, config.method.name) == ("moco-v2", "moco")


def test_a_warm_up_that_leaves_no_epochs_is_refused() -> None:
    too_long = {"epochs": 2, "warmup": 2, "arch": "test_efficientnet", "data": "textures"}
    with pytest.raises(UsageError, match="warm-up of 2 epochs does not fit in a run of 2 epochs"):
        check_warmup(resolve_plan(plan_pretrain(too_long), RunFacts(3000, 64, 2, False)))
    check_warmup(resolve_plan(plan_pretrain({**too_long, "schedule": "constant"}), RunFacts(3000, 64, 2, False)))
