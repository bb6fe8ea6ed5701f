"""Options: that the command line is the dataclasses, and that what is made from it is current.

`LWCL_UPDATE_GOLDEN=1 pytest tests/test_options.py` writes tests/golden/flags.json, docs/cli.md and
lwcl/models/archs.txt anew.
"""

import inspect
import json
import os
from importlib.metadata import version
from pathlib import Path

import pytest
import typer

from lwcl.cli import main
from lwcl.cli.help import PlainCommand, cli_reference
from lwcl.cli.options import with_options
from lwcl.config import catalogue
from lwcl.config.augmentation import Augmentation
from lwcl.config.eval_options import KnnOptions
from lwcl.config.recipe_words import RECIPE_WORDS
from lwcl.config.recipes import RECIPES, TESTED_ARCHS, Optimization
from lwcl.config.train_options import PretrainOptions
from lwcl.errors import UsageError
from lwcl.methods.method import methods
from lwcl.settings import Origin, OriginKind, Settings, SettingValue, field_names, flag_name, setting

ROOT = Path(__file__).parents[1]


def check_current(path, text):
    """Fails when a generated file is not what would be generated, or writes it if that is asked for."""
    if os.environ.get("LWCL_UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text, f"{path} is old: run the tests with LWCL_UPDATE_GOLDEN=1"


def flags():
    """The flags of every command."""
    commands = {"": main.PROGRAM, **main.PROGRAM.commands}
    return {
        name: sorted(
            flag for param in command.params for flag in (*param.opts, *param.secondary_opts) if flag.startswith("-")
        )
        for name, command in commands.items()
    }


def test_the_flags_are_those_of_the_golden_list():
    check_current(ROOT / "tests/golden/flags.json", json.dumps(flags(), indent=2) + "\n")


def test_the_reference_of_the_command_line_is_current(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    check_current(ROOT / "docs/cli.md", cli_reference(main.PROGRAM, "lwcl"))


def test_the_list_of_architectures_is_that_of_the_installed_timm():
    path = ROOT / "lwcl/models/archs.txt"
    listed = path.read_text(encoding="utf-8").splitlines()
    if listed[0] != f"# timm {version('timm')}" and not os.environ.get("LWCL_UPDATE_GOLDEN"):
        pytest.skip("another timm is installed than the list was made from: it is asked for names that are not listed")
    import timm

    check_current(path, "\n".join([f"# timm {timm.__version__}", *timm.list_models()]) + "\n")


@pytest.mark.parametrize(
    ("command", "kinds"),
    [("pretrain", [PretrainOptions, Optimization, Augmentation, *methods("pretrain").values()]), ("knn", [KnnOptions])],
)
def test_every_setting_is_a_flag(command, kinds):
    wanted = {flag_name(name) for kind in kinds for name in field_names(kind)}
    assert wanted <= set(flags()[command])


@pytest.mark.parametrize("name", list(main.PROGRAM.commands))
def test_every_command_and_option_has_help_and_every_command_an_example(name):
    command = main.PROGRAM.commands[name]
    assert command.help
    assert command.epilog.startswith(f"Example: lwcl {name}")
    for param in command.params:
        assert getattr(param, "help", None) or param.param_type_name == "argument", param.name


class Tea(Settings):
    """Settings of every kind."""

    cups: int | None = setting(None, "how many [auto: from the guests]", group="Kitchen")
    sort: str = setting("green", "which", choices=("green", "black"), group="Kitchen")
    lid: bool = setting(True, "cover it", group="Table")
    minutes: tuple[float, ...] = setting((2.0, 4.5), "when to look", flag="--at")


class Coffee(Settings):
    """Shares a setting with `Tea`."""

    cups: int | None = setting(None, "how many [auto: from the guests]", group="Kitchen")
    beans: float = setting(7.5, "grams of beans")


STRONG = Origin(OriginKind.RECIPE, "strong")


@pytest.fixture
def drink():
    """A command with the options of both, and what it was called with."""
    calls = []

    @with_options(Tea, Coffee, values=lambda: {"beans": SettingValue(9.0, STRONG), "lid": SettingValue(True, STRONG)})
    def drink(hot: bool = False, **chosen: object) -> None:
        calls.append((hot, chosen))

    app = typer.Typer(rich_markup_mode=None)
    app.command(cls=PlainCommand)(drink)
    return drink, typer.main.get_command(app), calls


def test_typer_finds_types_where_it_looks_for_them(drink):
    signature = inspect.signature(drink[0])
    assert list(signature.parameters) == ["hot", "cups", "sort", "lid", "minutes", "beans"]
    assert drink[0].__annotations__ == {name: p.annotation for name, p in signature.parameters.items()}


def test_what_is_not_chosen_is_none(drink):
    _, program, calls = drink
    program.main([], standalone_mode=False)
    assert calls == [(False, {"cups": None, "sort": None, "lid": None, "minutes": None, "beans": None})]


def test_what_is_chosen_arrives_as_text_truth_or_list(drink):
    _, program, calls = drink
    words = "--hot --cups 3 --no-lid --at 1 --at 2 --beans 8"
    program.main(words.split(), standalone_mode=False)
    assert calls == [(True, {"cups": "3", "sort": None, "lid": False, "minutes": ["1", "2"], "beans": "8"})]


def helps_of(command):
    """The help texts of a command's options, as `--help` shows them."""
    command.get_help(typer.Context(command))
    return {param.name: param.help for param in command.params}


def test_help_tells_defaults_choices_and_what_a_recipe_says_instead(drink):
    helps = helps_of(drink[1])
    assert helps["cups"] == "how many [auto: from the guests]"
    assert helps["sort"] == "which: green, black [green]"
    assert helps["lid"] == "cover it [on]"
    assert helps["minutes"] == "when to look [2, 4.5]"
    assert helps["beans"] == "grams of beans [9, recipe strong]"
    assert {param.name: param.rich_help_panel for param in drink[1].params}["sort"] == "Kitchen"


def test_help_says_which_methods_have_a_setting_and_where_they_differ():
    helps = helps_of(main.PROGRAM.commands["pretrain"])
    assert "neighbours (light-moco); share of the target given to the nearest negatives" in helps["smoothing"]
    assert helps["temperature"].endswith("over the prototypes (swav) [0.1; isd: 0.02; moco: 0.2; simclr: 0.2]")
    assert helps["queue_size"].endswith("[auto; simclr: 0; swav: 0]")
    assert helps["dim"].startswith("width of the embedding (") and "isd" not in helps["dim"]
    assert "moco" not in helps["epochs"]


@pytest.mark.parametrize("what", list(catalogue.CATALOGUES))
def test_every_list_has_entries(what):
    entries = catalogue.find_entries(what)
    assert entries
    lines = catalogue.format_entries(entries).splitlines()
    assert all(line.startswith(entry.name) for line, entry in zip(lines, entries, strict=True))


def test_the_tested_architectures_come_first():
    assert tuple(entry.name for entry in catalogue.find_entries("archs")[: len(TESTED_ARCHS)]) == TESTED_ARCHS


@pytest.mark.parametrize("pattern", ["mobilenetv3_small", "mobilenetv3_small_*"])
def test_a_list_is_searched_by_a_part_of_a_name_or_a_pattern(pattern):
    names = [entry.name for entry in catalogue.find_entries("archs", pattern)]
    assert "mobilenetv3_small_100" in names
    assert all("mobilenetv3_small" in name for name in names)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_is_shown_with_the_source_of_every_number(name):
    text = catalogue.format_entries(catalogue.find_entries("recipes", name))
    for setting_name, cited in RECIPES[name].settings.items():
        assert any(
            setting_name in line and str(cited.value) in line and cited.source in line for line in text.splitlines()
        )


def test_an_exact_name_is_listed_alone():
    assert [entry.name for entry in catalogue.find_entries("methods", "moco")] == ["moco"]


@pytest.mark.parametrize(("what", "pattern", "near"), [("arch", "", "archs"), ("recipes", "lite", "light")])
def test_what_is_not_in_a_list_brings_the_nearest_names(what, pattern, near):
    with pytest.raises(UsageError, match=f"Did you mean {near}"):
        catalogue.find_entries(what, pattern)


def test_every_recipe_is_explained_in_words(capsys):
    assert set(RECIPE_WORDS) == set(RECIPES)
    assert main.main(["list", "recipes", "light"]) == 0
    told = capsys.readouterr().out
    assert " ".join(RECIPE_WORDS["light"].split()) in " ".join(told.split())
    assert "below 200,000 images:" in told, "what is used instead on few images"
