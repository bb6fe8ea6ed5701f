"""Settings: what becomes of a value on its way from text to a frozen dataclass."""

import dataclasses
import importlib
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lwcl.config.train_options import PretrainOptions
from lwcl.errors import UsageError
from lwcl.settings import (
    DEFAULT,
    FLAG,
    Auto,
    Origin,
    OriginKind,
    SettingError,
    Settings,
    auto_field_names,
    build_settings,
    check_limits,
    convert_value,
    expand_home,
    field_names,
    field_types,
    merge_layers,
    setting,
    unknown_name_error,
)

FILE, RECIPE = Origin(OriginKind.FILE, "my.yaml"), Origin(OriginKind.RECIPE, "light")


class Kettle(Settings):
    """Settings of every type."""

    litres: float = setting(1.5, "how much", above=0, at_most=3)
    cups: int | None = setting(None, "how many", at_least=1)
    tea: str = setting("green", "which", choices=("green", "black", "none"))
    lid: bool = setting(True, "on or off")
    minutes: tuple[float, ...] = setting((2.0, 4.0), "when to look", at_least=0)


VALUES = st.fixed_dictionaries(
    {},
    optional={
        "litres": st.floats(0, 3, exclude_min=True) | st.none(),
        "cups": st.integers(1, 2**32 - 1) | st.none(),
        "tea": st.sampled_from(["green", "black", "none"]) | st.none(),
        "lid": st.booleans() | st.none(),
        "minutes": st.lists(st.floats(0, 1e300)).map(tuple) | st.none(),
    },
)


@given(VALUES, VALUES, VALUES)
def test_the_strongest_layer_that_chose_wins(flag, file, recipe):
    settled = merge_layers(Kettle, [(FLAG, flag), (FILE, file), (RECIPE, recipe)])
    for field in dataclasses.fields(Kettle):
        layers = [(FLAG, flag), (FILE, file), (RECIPE, recipe), (DEFAULT, {field.name: field.default})]
        told = [(origin, values[field.name]) for origin, values in layers if values.get(field.name) is not None]
        expected = told[0] if told else (DEFAULT, None)
        assert (settled[field.name].origin, settled[field.name].value) == expected


@pytest.mark.parametrize("order", list(itertools.permutations((FLAG, FILE, RECIPE))))
def test_precedence_is_the_order_of_the_layers_and_nothing_else(order):
    layers = [(origin, {"cups": position + 1}) for position, origin in enumerate(order)]
    assert merge_layers(Kettle, layers)["cups"] == (1, order[0])


@given(VALUES)
def test_settings_survive_json(chosen):
    kettle = build_settings(Kettle, merge_layers(Kettle, [(FLAG, chosen)]))
    as_json = json.loads(json.dumps(dataclasses.asdict(kettle)))
    assert build_settings(Kettle, merge_layers(Kettle, [(FILE, as_json)])) == kettle


@given(st.integers(-(10**40), 10**40))
def test_a_whole_number_keeps_every_digit_as_text(number):
    assert convert_value("seed", str(number), int) == number


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ("1e-3", float, 0.001),
        ("1e3", int, 1000),
        (3.0, int, 3),
        (3, float, 3.0),
        (2048, str, "2048"),
        (None, int | None, None),
        ("7", int | None, 7),
        ("photos", tuple[str, ...], ("photos",)),
        (["0.5", 1], tuple[float, ...], (0.5, 1.0)),
    ],
)
def test_a_value_becomes_its_type(value, kind, expected):
    got = convert_value("x", value, kind)
    assert got == expected
    assert type(got) is type(expected)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("many", int),
        (2.5, int),
        (True, int),
        ("inf", int),
        ("", float),
        ([1], float),
        ({}, str),
        (True, str),
        ("yes", bool),
        (1, bool),
        ({"a": 1}, tuple[str, ...]),
        ([None], tuple[float, ...]),
    ],
)
def test_a_value_of_another_type_is_refused_with_the_flag_and_what_it_takes(value, kind):
    with pytest.raises(UsageError, match=r"--base-lr: got .*, expected .*\nGive ") as caught:
        convert_value("base_lr", value, kind)
    assert repr(value if not isinstance(value, list) or kind is float else None) in str(caught.value)


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"litres": 0}, "--litres: got 0.0; it must be above 0 and at most 3."),
        ({"litres": 3.1}, "at most 3"),
        ({"litres": float("nan")}, "got nan"),
        ({"cups": 0}, "at least 1"),
        ({"minutes": (1.0, -1.0)}, "--minutes: got -1.0; it must be at least 0."),
        ({"minutes": (float("inf"),)}, "got inf"),
        ({"tea": "grean"}, "Did you mean green?"),
    ],
)
def test_a_value_outside_its_limits_is_refused(chosen, words):
    with pytest.raises(UsageError) as caught:
        Kettle(**chosen)
    assert words in str(caught.value)


def test_an_error_names_the_setting_and_where_a_bad_value_comes_from():
    with pytest.raises(SettingError) as caught:
        Kettle(cups=0)
    assert caught.value.setting == "cups"
    with pytest.raises(UsageError, match=r"comes from my\.yaml"):
        build_settings(Kettle, merge_layers(Kettle, [(FILE, {"cups": 0})]))


class Stove(Settings):
    """A setting that is computed where nobody chose it."""

    plates: Auto[int] = setting(None, "how many [auto: from the pots]", at_least=1)
    gas: bool = setting(False, "or electric")


def test_an_automatic_setting_may_stay_open_and_is_checked_like_any_other():
    assert auto_field_names(Stove) == ["plates"]
    assert Stove().plates is None
    assert Stove(plates="2").plates == 2
    with pytest.raises(UsageError, match="at least 1"):
        Stove(plates=0)


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Kettle().litres = 2.0


def test_an_unknown_name_brings_the_three_nearest():
    error = unknown_name_error("colour", "rad", ["red", "read", "rid", "road", "blue"], "look there")
    assert str(error).splitlines() == ["Unknown colour: 'rad'.", "Did you mean road or read or rid?", "look there"]


def test_an_unknown_name_like_nothing_brings_all_names():
    assert "Possible: red, blue." in str(unknown_name_error("colour", "xyz", ["red", "blue"]))


def every_settings_class(cls: type = Settings) -> list[type]:
    """All settings classes of the package."""
    return [one for child in cls.__subclasses__() for one in (child, *every_settings_class(child))]


def own_fields() -> list[tuple[type, str]]:
    """Every setting of the package, as its class and its name."""
    importlib.import_module("lwcl.cli.main")
    classes = [cls for cls in every_settings_class() if cls.__module__.startswith("lwcl.")]
    return [(cls, name) for cls in classes for name in field_names(cls)]


@pytest.mark.parametrize("huge", [10**20, -(10**20)])
def test_a_whole_number_of_any_setting_has_bounds(huge):
    refused = 0
    for cls, name in own_fields():
        if "int" in str(field_types(cls)[name]):
            field = vars(cls)["__dataclass_fields__"][name]
            if "at_least" in field.metadata or "above" in field.metadata or huge > 0:
                refused += 1
                with pytest.raises(UsageError, match="must be"):
                    check_limits(name, (huge,), field.metadata)
    assert refused > 20


def test_threads_workers_and_sizes_are_bounded_where_the_machine_would_give_up():
    for name in ("threads", "workers", "image_size", "teacher_size"):
        with pytest.raises(UsageError, match="at most"):
            PretrainOptions(**{name: 100_000})


def test_every_setting_that_is_a_path_expands_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    expanded = {}
    for cls, name in own_fields():
        if name in ("data", "val", "monitor", "out", "init", "teacher"):
            several = "tuple" in str(field_types(cls)[name])
            field = vars(cls)["__dataclass_fields__"][name]
            assert field.metadata["path"], f"{cls.__name__}.{name}"
            expanded[name] = expand_home(("~/a", "b/~", "~nobody-at-all/c") if several else "~/a")
    assert expanded["data"] == ("/home/me/a", "b/~", "~nobody-at-all/c")
    assert PretrainOptions(data=("~/a",), out="~/runs/a", init="~/x").out == "/home/me/runs/a"


@pytest.mark.parametrize("name", ["data", "out", "init", "arch"])
def test_an_empty_value_is_no_choice_that_anyone_makes(name):
    with pytest.raises(UsageError, match="its value is empty"):
        PretrainOptions(**{name: ("",) if name == "data" else ""})
