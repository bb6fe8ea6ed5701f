"""Settings as options of the command line: a dataclass's fields become typer's, so that a setting is written once.

To typer every value is text, or absent: flags and files are converted and checked in one place, by `lwcl.settings`.
"""

import dataclasses
import functools
import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import typer

from lwcl.config.augmentation import AUGMENTATIONS
from lwcl.config.probe_protocols import PROTOCOLS
from lwcl.config.recipes import RECIPES, recipes_for
from lwcl.config.train_options import TRAIN_OPTIONS
from lwcl.methods.method import Method, TrainCommand, methods
from lwcl.models.archs import known_archs
from lwcl.settings import DEFAULT, Settings, SettingValue, field_types, flag_name

F = TypeVar("F", bound=Callable[..., Any])

#: Possible values of settings that have no `choices` of their own: for help and shell completion.
COMPLETIONS: dict[str, Callable[[TrainCommand | None], Iterable[str]]] = {
    "arch": lambda command: known_archs()[1],
    "method": methods,
    "recipe": lambda command: recipes_for(command) if command else RECIPES,
    "augmentation": lambda command: AUGMENTATIONS,
    "protocol": lambda command: PROTOCOLS,
}
LISTED_IN_HELP = ("method", "recipe", "augmentation", "protocol")


def with_options(
    *classes: type[Settings],
    flags: Callable[..., Any] | None = None,
    values: Callable[[], Mapping[str, SettingValue]] = dict,
) -> Callable[[F], F]:
    """Gives a command an option for every setting of `classes`; its `**chosen` receives them, None where not chosen.

    A setting that several classes share is one option. The other parameters of `flags` are options of the command too.
    `values` are what the command uses without flags: shown in help where a recipe replaces the default.
    typer reads `__signature__` and `__annotations__`: both are set.
    """
    owners: dict[str, list[type[Settings]]] = {}
    for cls in classes:
        for field in dataclasses.fields(cls):  # type: ignore[arg-type]  # every Settings class is a dataclass
            owners.setdefault(field.name, []).append(cls)

    def help_texts() -> dict[str, str]:
        used = values()
        return {name: help_text(name, owner, classes, used.get(name)) for name, owner in owners.items()}

    def decorate(command: F) -> F:
        explicit = [*explicit_parameters(flags or command)]
        derived = [option_parameter(name, owner[0]) for name, owner in owners.items()]
        parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in (*explicit, *derived)]
        vars(command)["__signature__"] = inspect.Signature(parameters)
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        vars(command)["help_texts"] = help_texts
        return command

    return decorate


def explicit_parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters of a function that can be options: not positional-only, not `**chosen`."""
    ignored = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    return [parameter for parameter in parameters if parameter.kind not in ignored]


def option_parameter(name: str, owner: type[Settings]) -> inspect.Parameter:
    """The option of a setting of the class `owner`."""
    metadata = settings_field(owner, name).metadata
    type_ = inner_type(field_types(owner)[name])
    flag = metadata["flag"] or flag_name(name)
    many, completes = isinstance(type_, tuple), name in COMPLETIONS or metadata["choices"]
    info = typer.Option(
        None,
        f"{flag}/--no-{flag.removeprefix('--')}" if type_ is bool else flag,
        help=metadata["help"],
        metavar=None if type_ is bool else metavar(name, type_[0] if many else type_),
        rich_help_panel=metadata["group"] or None,
        show_default=False,
        autocompletion=completer(functools.partial(possible_values, name, owner)) if completes else None,
    )
    annotation = bool if type_ is bool else list[str] if many else str
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=info, annotation=annotation)


def possible_values(name: str, owner: type[Settings]) -> Sequence[str]:
    """What the shell completes for a setting of the class `owner`."""
    if name in COMPLETIONS:
        return list(COMPLETIONS[name](next((command for command, cls in TRAIN_OPTIONS.items() if cls is owner), None)))
    choices: tuple[str, ...] = settings_field(owner, name).metadata["choices"]
    return choices


def settings_field(cls: type[Settings], name: str) -> "dataclasses.Field[Any]":
    """A field of a settings class."""
    fields: dict[str, dataclasses.Field[Any]] = vars(cls)["__dataclass_fields__"]
    return fields[name]


def inner_type(type_: Any) -> Any:
    """`X` of `X | None`; `(X,)` of `tuple[X, ...]`; other types as they are."""
    args = [arg for arg in getattr(type_, "__args__", ()) if arg not in (type(None), ...)]
    if not args:
        return type_
    return (args[0],) if getattr(type_, "__origin__", None) is tuple else args[0]


def metavar(name: str, type_: Any) -> str:
    """The placeholder of a value in help."""
    return "NAME" if name in COMPLETIONS else {int: "INT", float: "FLOAT"}.get(type_, "TEXT")


def help_text(
    name: str, owners: list[type[Settings]], classes: Iterable[type[Settings]], used: SettingValue | None
) -> str:
    """The help of a setting that the classes `owners` have, among all `classes` of its command.

    What it does (by method where that differs), its possible values, the methods that have it if not all do, and its
    default or the recipe's value.
    """
    fields = {cls: settings_field(cls, name) for cls in owners}
    every = [cls.name for cls in classes if issubclass(cls, Method)]
    sentences: dict[str, list[str]] = {}
    for cls, field in fields.items():
        sentences.setdefault(describe_setting(name, cls, field), []).extend(
            [cls.name] if issubclass(cls, Method) else []
        )
    text = "; ".join(
        f"{sentence} ({', '.join(methods)})" if methods and len(methods) < len(every) else sentence
        for sentence, methods in sentences.items()
    )
    defaults = {getattr(cls, "name", ""): format_default(field.default) for cls, field in fields.items()}
    (default, _), *others = Counter(defaults.values()).most_common()
    if others:
        exceptions = [f"{method}: {value or 'auto'}" for method, value in defaults.items() if value != default]
        default = "; ".join([default or "auto", *exceptions])
    elif default and used and used.origin is not DEFAULT and format_default(used.value) != default:
        default = f"{format_default(used.value)}, {used.origin}"
    return f"{text} [{default}]" if default else text


def describe_setting(name: str, owner: type[Settings], field: "dataclasses.Field[Any]") -> str:
    """The sentence about a setting, with its possible values where it does not name them."""
    text: str = field.metadata["help"]
    if name not in LISTED_IN_HELP and all(choice in text for choice in field.metadata["choices"]):
        return text
    sentence, bracket, auto = text.partition(" [")
    return f"{sentence}: {', '.join(possible_values(name, owner))}{bracket}{auto}"


def format_default(default: Any) -> str:
    """A default in help; nothing for an automatic setting, whose sentence says how it is computed."""
    if default is None or default == ():
        return ""
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, tuple):
        return ", ".join(map(format_default, default))
    return f"{default:g}" if isinstance(default, float) else str(default)


def completer(names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Completes a value with those of `names` that begin with it."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in names() if name.startswith(incomplete)]

    return complete
