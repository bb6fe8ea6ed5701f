"""Plans: where each setting of a run comes from, and that a run's config.yaml is the same plan again."""

import dataclasses
import importlib.metadata
import itertools
import json
import math
import sys

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import made_images, ran

from lwcl.cli.app import read_config_flag
from lwcl.config.augmentation import AUGMENTATIONS, Augmentation
from lwcl.config.auto import RunFacts, resolve_plan
from lwcl.config.diff import settings_diff
from lwcl.config.eval_options import KnnOptions
from lwcl.config.plan import (
    LOCATION_SETTINGS,
    Plan,
    ResolvedConfig,
    flag_matches_stored,
    plan_pretrain,
    plan_run,
)
from lwcl.config.recipes import RECIPES, Optimization, recipes_for
from lwcl.config.train_options import PretrainOptions
from lwcl.config.validation import parse_options
from lwcl.config.yaml_file import read_config
from lwcl.errors import UsageError
from lwcl.methods.method import METHODS, Method, method, methods
from lwcl.models import archs
from lwcl.settings import FLAG, Origin, OriginKind, SettingValue, auto_value, field_names, field_types, setting

PRETRAIN = methods("pretrain")
FIXED = {
    "arch": st.sampled_from(["resnet18", "efficientnet_b0", "test_resnet"]),
    "augmentation": st.sampled_from(sorted(AUGMENTATIONS)),
    "recipe": st.sampled_from(sorted(recipes_for("pretrain"))),
    "teacher_cache": st.sampled_from(["off", "center", "views:3"]),
    "crop_min": st.floats(0.1, 0.5),
    "crop_max": st.just(1.0),  # `plain` and the default have the smallest at 1
    "blur_min": st.floats(0.01, 0.1),
    "blur_max": st.floats(1, 56),
}


def stated(setting: SettingValue):
    """The value of a setting and its origin in words."""
    return setting.value, str(setting.origin)


TEXT = st.text("ab/é ':#-0.", min_size=1, max_size=8)  # no ~: a path expands it
# A setting of these asks for another one, or excludes it.
BOUND = {
    "bands",
    "clip",
    "method",
    "minutes",
    "teacher",
    "temporal",
    "init_by",
    "init_head",
    "student_data",
    "student_view",
    "pairs",
    "teacher_channels",
}
METHOD_NAMES = st.sampled_from(sorted(PRETRAIN))


def good(field, kind):
    """Values that a setting of a type can have."""
    if field.name in FIXED:
        return FIXED[field.name]
    metadata = field.metadata
    if metadata["choices"]:
        one = st.sampled_from(metadata["choices"])
        return st.lists(one, max_size=3).map(tuple) if getattr(kind, "__origin__", None) is tuple else one
    low, high = metadata.get("at_least", metadata.get("above")), metadata.get("at_most", metadata.get("below"))
    edges = {"exclude_min": "above" in metadata, "exclude_max": "below" in metadata}
    number = st.floats(low, high, allow_nan=False, allow_infinity=False, **edges)
    whole = st.integers(math.ceil(low or 0), 2**32 - 1 if high is None else math.floor(high))
    plain = {int: whole, float: number, bool: st.booleans(), str: TEXT}
    lists = {tuple[kind, ...]: st.lists(values, max_size=3).map(tuple) for kind, values in plain.items()}
    return (plain | lists | {kind | None: values for kind, values in plain.items()})[kind]


def choices(name):
    """Some settings of a run with the method of that name."""
    kinds = (PretrainOptions, Optimization, PRETRAIN[name], Augmentation)
    fields = {
        field.name: good(field, field_types(kind)[field.name]) for kind in kinds for field in dataclasses.fields(kind)
    }
    free = {name: values for name, values in fields.items() if name not in BOUND}
    return st.fixed_dictionaries({"method": st.just(name)}, optional=free)


CHOICES = {name: choices(name) for name in PRETRAIN}
TWICE = METHOD_NAMES.flatmap(lambda name: st.tuples(CHOICES[name], CHOICES[name]))


@settings(max_examples=25, deadline=None)
@given(TWICE)
def test_a_plan_written_as_yaml_and_read_again_is_the_same_plan(tmp_path_factory, told):
    plan = plan_pretrain(*told)
    path = tmp_path_factory.getbasetemp() / "config.yaml"
    path.write_text(yaml.safe_dump(plan.config(), sort_keys=False), encoding="utf-8")
    again = plan_pretrain({}, read_config(str(path)))
    values = {name: setting.value for name, setting in plan.values.items() if name not in LOCATION_SETTINGS}
    assert repr({name: again.values[name].value for name in values}) == repr(values)
    assert again.config() == plan.config()


@settings(max_examples=25, deadline=None)
@given(TWICE)
def test_a_flag_wins_over_the_file_and_the_file_over_the_rest(told):
    flags, file = told
    plan = plan_pretrain(flags, file, "my.yaml")
    for name, value in plan.values.items():
        if name in flags:
            assert value == (flags[name], FLAG)
        elif name in file:
            assert value == (file[name], Origin(OriginKind.FILE, "my.yaml"))
        else:
            assert not value.origin.is_user


SAYS = {
    "flag": lambda: ({"flip_p": 0.1}, {}),
    "file": lambda: ({}, {"flip_p": 0.2}),
    "augmentation": lambda: ({"augmentation": "crop-flip"}, {}),
}


@pytest.mark.parametrize("speakers", [s for n in range(4) for s in itertools.combinations(SAYS, n)])
def test_every_order_of_precedence(speakers):
    flags, file = ({k: v for s in speakers for k, v in SAYS[s]()[side].items()} for side in (0, 1))
    value, origin = plan_pretrain({"augmentation": "plain", **flags}, file, "file").values["flip_p"]
    expected = {"flag": (0.1, "flag"), "file": (0.2, "file"), "augmentation": (0.5, "augmentation crop-flip")}
    assert (value, str(origin)) == (expected[speakers[0]] if speakers else (0.0, "default"))


def test_a_recipe_wins_over_the_named_augmentation_and_the_default():
    values = plan_pretrain({"recipe": "ssl-small"}).values
    assert stated(values["temperature"]) == (0.1, "recipe ssl-small")
    assert stated(values["brightness"]) == (0.8, "augmentation ssl-small")
    assert stated(values["dim"]) == (128, "default")


def test_none_is_not_a_choice():
    assert plan_pretrain({"temperature": None, "method": None}, {"lr": None}) == plan_pretrain({})


def test_a_method_alone_brings_the_first_recipe_for_it():
    values = plan_pretrain({"method": "moco"}).values
    assert stated(values["recipe"]) == ("moco-v2", "method moco")
    assert stated(values["temperature"]) == (0.2, "recipe moco-v2")


def test_a_recipe_alone_brings_its_method():
    assert stated(plan_pretrain({"recipe": "ssl-small"}).values["method"]) == ("moco", "recipe ssl-small")


def test_of_the_recipe_of_another_method_what_the_method_has_is_used():
    plan = plan_pretrain({"method": "moco", "recipe": "light"})
    assert stated(plan.values["temperature"]) == (0.1, "recipe light")
    assert plan.method.hidden == "2048"
    assert "smoothing" not in plan.values


@pytest.fixture
def newcomer(monkeypatch):
    """A method that no recipe knows."""
    monkeypatch.setattr("lwcl.methods.method.METHODS", dict(METHODS))

    @method("pretrain", "newcomer")
    class Newcomer(Method):
        """A method that no recipe knows."""

        temperature: float = setting(0.7, "softmax temperature", group="Method")

    return Newcomer


def test_a_method_without_a_recipe_keeps_its_own_defaults_and_is_optimised_as_by_default(newcomer):
    values = plan_pretrain({"method": "newcomer"}).values
    assert stated(values["temperature"]) == (0.7, "default")
    assert stated(values["base_lr"]) == (0.002, "recipe simclr")
    assert stated(values["method"]) == ("newcomer", "flag")


def test_the_objects_of_a_plan_hold_its_values():
    plan = plan_pretrain({"lr": "1e-3", "data": ["a", "b"], "jitter_p": "0.5", "queue_size": "64", "recipe": "light"})
    assert plan.optimization.lr == 0.001
    assert plan.options.data == ("a", "b")
    assert plan.augmentation.jitter_p == 0.5
    assert plan.method.queue_size == 64
    assert plan.values["lr"].value == 0.001, "the values are those of the objects"


def test_other_values_replace_those_of_a_plan_and_nothing_else():
    plan = plan_pretrain({"epochs": 7, "recipe": "light"})
    changed = plan.with_values(queue_size=auto_value("64", "a reason"))
    assert changed.optimization.epochs == 7
    assert changed.method.queue_size == 64
    assert stated(changed.values["queue_size"]) == (64, "auto: a reason")
    assert plan.method.queue_size is None, "the plan itself is unchanged"


def test_a_rule_outside_the_limits_is_refused():
    with pytest.raises(UsageError, match="comes from auto: a bad rule"):
        plan_pretrain({}).with_values(queue_size=auto_value(-1, "a bad rule"))


def test_a_plan_with_something_left_open_is_no_configuration():
    with pytest.raises(UsageError, match="--epochs"):
        ResolvedConfig.from_values("pretrain", plan_pretrain({}).values)


def test_where_a_run_goes_is_not_part_of_its_config():
    config = plan_pretrain({"out": "runs/mine", "overwrite": True, "resume": "never"}).config()
    assert not LOCATION_SETTINGS & set(config)


STORED = plan_pretrain({"recipe": "light", "augmentation": "moco-v2", "lr": 0.01, "seed": 7, "epochs": 20})
RESOLVED = {**STORED.config(), "warmup": 2.0, "key_momentum": 0.9, "threads": 3}


@pytest.mark.parametrize(
    "flags", [{}, {"seed": "8"}, {"out": "there"}, {"threads": "1"}, {"epochs": "20"}, {"epochs": "2e1"}]
)
def test_a_runs_own_file_given_back_whole_keeps_every_value(flags):
    plan = plan_pretrain(flags, RESOLVED, "config.yaml")
    wanted = RESOLVED | {name: float(value) for name, value in flags.items() if name != "out"}
    got = plan.config()
    assert {name: got[name] for name in wanted if name != "chosen"} == {
        n: v for n, v in wanted.items() if n != "chosen"
    }
    assert plan.values["key_momentum"].origin == Origin(OriginKind.REPEATED, "config.yaml")
    assert set(got["chosen"]) == {"recipe", "augmentation", "lr", "seed", "epochs", *flags} - {"out"}


@pytest.mark.parametrize(
    ("flag", "stored", "same"),
    [
        ("20", 20.0, True),
        ("2e1", 20, True),
        ("21", 20, False),
        ("010", "10", False),
        (["1e1"], ["10"], False),
        ("x", 1, False),
    ],
)
def test_a_flag_equals_a_stored_number_in_any_spelling_and_a_stored_text_in_one(flag, stored, same):
    assert flag_matches_stored(flag, stored) is same


def test_a_run_begun_with_a_whole_number_goes_on_with_the_same_number():
    assert settings_diff({"epochs": 8}, {"epochs": 8.0}) == {}
    assert settings_diff({"epochs": 8}, {"epochs": 8.5}) == {"epochs": ("8", "8.5")}


def test_a_flag_that_names_a_bundle_drops_the_values_of_the_stored_one():
    plan = plan_pretrain({"augmentation": "crop-flip"}, RESOLVED, "config.yaml")
    assert plan.augmentation == Augmentation(**AUGMENTATIONS["crop-flip"])
    other = plan_pretrain({"recipe": "moco-v2"}, RESOLVED, "config.yaml")
    asked = plan_pretrain({"recipe": "moco-v2", "augmentation": "moco-v2", "lr": 0.01, "seed": 7, "epochs": 20})
    assert other.sections == asked.sections
    assert other.options.seed == 7, "what was chosen stays"


@pytest.mark.parametrize("flags", [{"epochs": "200"}, {"batch_size": "32"}, {"data": ["other"]}, {"arch": "resnet18"}])
def test_a_flag_on_which_others_depend_leaves_them_to_be_settled_again(flags):
    plan = plan_pretrain(flags, RESOLVED, "config.yaml")
    assert (plan.optimization.warmup, plan.method.key_momentum, plan.options.threads) == (None, None, None)
    assert (plan.optimization.lr, plan.options.seed) == (0.01, 7)


@pytest.mark.parametrize("chosen", ["lr", ["no-setting"], None])
def test_a_list_of_what_was_chosen_that_is_damaged_is_a_usage_error(chosen):
    with pytest.raises(UsageError, match="chosen"):
        plan_pretrain({}, RESOLVED | {"chosen": chosen})


def test_settings_of_different_classes_have_different_names():
    kinds = (PretrainOptions, Optimization, Augmentation)
    shared = [name for kind in kinds for name in field_names(kind)]
    own = {name for kind in PRETRAIN.values() for name in field_names(kind)}
    assert len(shared) == len(set(shared))
    assert not own & set(shared)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_names_real_settings_and_sources(name):
    published = RECIPES[name]
    kind = methods()[published.method]
    names = {*field_names(Optimization), *field_names(kind), *field_names(Augmentation)} | {
        "augmentation",
        "teacher_cache",
        "zero_residuals",
    }
    for layer in (published.settings, *published.archs.values()):
        assert set(layer) <= names
        assert all(cited.source for cited in layer.values())
    assert isinstance(
        plan_run(kind.command, {"recipe": name, "teacher": "random/resnet18" if kind.teacher_space else None}), Plan
    )


BAD = [
    ({"arch": "resnet81"}, "Did you mean resnet18 or "),
    ({"method": "light"}, "Did you mean light-moco"),
    ({"recipe": "lite"}, "Did you mean light?"),
    ({"augmentation": "digit"}, "Did you mean digits?"),
    ({"basee_lr": 1}, "Did you mean base_lr"),
    ({"method": "moco", "smoothing": 0.1}, "--smoothing"),
    ({"lr": "fast"}, "--lr: got 'fast', expected a number."),
    ({"lr": -1}, "above 0"),
    ({"crop_min": 0.9, "crop_max": 0.5}, "--crop-min"),
]


@pytest.mark.parametrize(("chosen", "words"), BAD)
@pytest.mark.parametrize("place", ["flag", "file"])
def test_a_wrong_setting_is_a_usage_error_that_says_what_to_do(chosen, words, place):
    with pytest.raises(UsageError) as caught:
        plan_pretrain(*((chosen, {}) if place == "flag" else ({}, chosen)))
    assert words in str(caught.value)
    assert caught.value.remedy


def test_a_setting_of_another_method_names_what_the_method_has():
    with pytest.raises(UsageError) as caught:
        plan_pretrain({}, {"method": "moco", "smoothing": 0.1}, "my.yaml")
    lines = str(caught.value).splitlines()
    assert lines[0] == "--smoothing (in my.yaml) is a setting of light-moco and simclr; this run's method is moco."
    assert "--queue-size" in lines[1]
    assert lines[2] == "Remove --smoothing, or choose --method light-moco."


def test_a_bad_value_in_a_file_names_the_file():
    with pytest.raises(UsageError, match=r"The value comes from my\.yaml\."):
        plan_pretrain({}, {"epochs": 0}, "my.yaml")


def test_an_architecture_that_is_not_listed_is_asked_of_another_timm(monkeypatch):
    asked = []
    fake = type("timm", (), {"is_model": staticmethod(lambda name: asked.append(name) or name == "resnet_of_2031")})
    monkeypatch.setitem(sys.modules, "timm", fake)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "99.0")
    assert archs.check_arch("resnet_of_2031") == "resnet_of_2031"
    with pytest.raises(UsageError):
        archs.check_arch("resnet_of_1931")
    assert archs.check_arch("resnet18") == "resnet18"
    assert asked == ["resnet_of_2031", "resnet_of_1931"], "a listed name needs no timm"


def test_the_settings_of_knn_come_from_flags_and_file():
    options = parse_options(KnnOptions, {"k": "5", "preset": None}, {"preset": "1nn", "k": 9})
    assert (options.k, options.preset) == (5, "1nn")
    with pytest.raises(UsageError, match="Did you mean preset"):
        parse_options(KnnOptions, {}, {"presets": "1nn"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lr: 1\nlr: 2\n", "'lr' is given twice"),
        ("- lr\n", "It holds list"),
        ("lr: [1\n", "not a settings file"),
        ("lr: !!python/object/apply:os.getcwd []\n", "could not determine a constructor"),
        ("[" * 900, "not a settings file"),
        ("lr: \0", "not a settings file"),
        ("? [a]\n: 1", "unhashable key"),
    ],
)
def test_a_bad_settings_file_is_a_usage_error(tmp_path, text, words):
    path = tmp_path / "my.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"my\.yaml") as caught:
        read_config(str(path))
    assert words in str(caught.value)


def test_a_settings_file_that_is_not_there_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match=r"none\.yaml.*No such file"):
        read_config(str(tmp_path / "none.yaml"))


def test_yaml_has_no_surprises(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text(
        "cache: off\nout: 2024-01-02\nlr: 1e-3\nhidden: 2048\ndownload: true\nsymmetric: False\nepochs: null\n"
    )
    assert read_config(str(path)) == {
        "cache": "off",
        "out": "2024-01-02",
        "lr": "1e-3",
        "hidden": 2048,
        "download": True,
        "symmetric": False,
        "epochs": None,
    }
    plan = plan_pretrain({"recipe": "light"}, read_config(str(path)))
    assert (plan.options.cache, plan.optimization.lr, plan.method.hidden) == ("off", 0.001, "2048")


def test_an_empty_settings_file_chooses_nothing(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text("# nothing yet\n")
    assert read_config(str(path)) == {}


AWKWARD = [
    "default", "flag", "recipe notes.yaml", "recipe light", "method", "augmentation plain", "protocol moco", "rule",
    "LWCL_CACHE", "HOME=x", "--lr", "-c", "the run that goes on", "#twice: yes", " ",
]  # fmt: skip


@pytest.mark.parametrize("name", AWKWARD)
def test_a_file_is_obeyed_whatever_its_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text("optimizer: sgd\nweight_decay: 0.25\nmethod: moco\n")
    plan = resolve_plan(plan_pretrain({}, *read_config_flag(name)), RunFacts(100, 64, 2, False, demo=True))
    chosen = {"optimizer": "sgd", "weight_decay": 0.25, "method": "moco"}
    assert {key: stated(plan.values[key]) for key in chosen} == {key: (chosen[key], name) for key in chosen}


def test_a_dry_run_obeys_a_file_named_default(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    made_images(tmp_path / "images", 8)
    (tmp_path / "default").write_text("optimizer: sgd\n")
    words = "pretrain --data images --arch test_efficientnet --config default --dry-run --json --batch-size 4"
    assert ran([*words.split(), "--image-size", "32", "--method", "moco", "--precision", "fp32"]) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["optimizer"] == {"value": "sgd", "origin": "default"}


@pytest.mark.parametrize(
    "text", ["data:\n", "data: ~\n", "arch: resnet18\nepochs:   # later\n", "data: null\n", "seed: null\n"]
)
def test_a_setting_without_a_value_in_a_file_is_an_error(text, tmp_path):
    (tmp_path / "my.yaml").write_text(text)
    with pytest.raises(UsageError, match="has no value") as caught:
        plan_pretrain({}, read_config(str(tmp_path / "my.yaml")), "my.yaml")
    assert "unicode string" not in str(caught.value)


def test_a_settings_file_and_its_paths_may_begin_with_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "my.yaml").write_text("data: [~/photos]\ninit: ~/x\nepochs: 3\nbatch_size: null\n")
    options = plan_pretrain({"out": "~/runs/a"}, *read_config_flag("~/my.yaml")).options
    assert (options.data, options.init, options.out) == (
        (f"{tmp_path}/photos",),
        f"{tmp_path}/x",
        f"{tmp_path}/runs/a",
    )
