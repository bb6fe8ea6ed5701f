"""Settings as options of the command line: a dataclass's fields become typer's, so that a setting is written once.

To typer every value is text, or absent: flags and files are converted and checked in one place, by `lwcl.settings`.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import typer

from lwcl.config.augmentation import AUGMENTATIONS
from lwcl.config.recipes import RECIPES, recipes_for
from lwcl.config.train_options import TRAIN_OPTIONS
from lwcl.methods.method import Method, Verb, methods
from lwcl.models.archs import known_archs
from lwcl.settings import DEFAULT, Settings, SettingValue, field_types, flag_name

F = TypeVar("F", bound=Callable[..., Any])

#: What the shell completes for settings whose possible values are not in their field.
COMPLETIONS: dict[str, Callable[[Verb | None], Iterable[str]]] = {
    "arch": lambda verb: known_archs()[1],
    "method": methods,
    "recipe": lambda verb: recipes_for(verb) if verb else RECIPES,
    "augmentation": lambda verb: AUGMENTATIONS,
}


def with_options(*kinds: type[Settings], settled: Mapping[str, SettingValue] | None = None) -> Callable[[F], F]:
    """Gives a command an option for every setting of `kinds`; its `**chosen` receives them, None where not chosen.

    typer reads `__signature__` and `__annotations__`: both are set. A setting that several kinds share is one option.
    `settled` is what a bare command uses: shown where a recipe replaces the default.
    """
    owners: dict[str, list[type[Settings]]] = {}
    for kind in kinds:
        for field in dataclasses.fields(kind):  # type: ignore[arg-type]  # every Settings class is a dataclass
            owners.setdefault(field.name, []).append(kind)

    def decorate(command: F) -> F:
        own = inspect.signature(command, eval_str=True).parameters.values()
        explicit = [parameter for parameter in own if parameter.kind is not inspect.Parameter.VAR_KEYWORD]
        helps = {name: help_text(name, having, kinds, settled or {}) for name, having in owners.items()}
        derived = [option_parameter(name, helps[name], having[0]) for name, having in owners.items()]
        parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in (*explicit, *derived)]
        vars(command)["__signature__"] = inspect.Signature(parameters)
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return decorate


def option_parameter(name: str, help: str, owner: type[Settings]) -> inspect.Parameter:
    """The option of a setting of the class `owner`."""
    metadata = settings_field(owner, name).metadata
    kind = inner_type(field_types(owner)[name])
    flag = metadata["flag"] or flag_name(name)
    many = isinstance(kind, tuple)
    verb = next((verb for verb, trained in TRAIN_OPTIONS.items() if trained is owner), None)
    names = functools.partial(COMPLETIONS[name], verb) if name in COMPLETIONS else lambda: metadata["choices"]
    info = typer.Option(
        None,
        f"{flag}/--no-{flag.removeprefix('--')}" if kind is bool else flag,
        help=help,
        metavar=None if kind is bool else metavar(name, kind[0] if many else kind),
        rich_help_panel=metadata["group"] or None,
        show_default=False,
        autocompletion=completer(names) if name in COMPLETIONS or metadata["choices"] else None,
    )
    annotation = bool if kind is bool else list[str] if many else str
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=info, annotation=annotation)


def settings_field(kind: type[Settings], name: str) -> "dataclasses.Field[Any]":
    """A field of a settings class."""
    fields: dict[str, dataclasses.Field[Any]] = vars(kind)["__dataclass_fields__"]
    return fields[name]


def inner_type(kind: Any) -> Any:
    """`X` of `X | None`; `(X,)` of `tuple[X, ...]`; other types as they are."""
    args = [arg for arg in getattr(kind, "__args__", ()) if arg not in (type(None), ...)]
    if not args:
        return kind
    return (args[0],) if getattr(kind, "__origin__", None) is tuple else args[0]


def metavar(name: str, kind: Any) -> str:
    """What stands for the value in help."""
    return "NAME" if name in COMPLETIONS else {int: "INT", float: "FLOAT"}.get(kind, "TEXT")


def help_text(
    name: str, having: list[type[Settings]], kinds: Iterable[type[Settings]], settled: Mapping[str, SettingValue]
) -> str:
    """The help of a setting that the classes `having` have, among all `kinds` of its command.

    Its sentence, its choices, the methods that have it if not all do, and its default, or what a recipe says instead.
    """
    fields = {kind: settings_field(kind, name) for kind in having}
    metadata = fields[having[0]].metadata
    text: str = metadata["help"]
    if not all(choice in text for choice in metadata["choices"]):
        text += ": " + ", ".join(metadata["choices"])
    mine, every = ([kind.name for kind in some if issubclass(kind, Method)] for some in (having, kinds))
    if len(mine) < len(every) and mine:
        text += f" ({', '.join(mine)})"
    defaults = {getattr(kind, "name", ""): format_default(field.default) for kind, field in fields.items()}
    used = settled.get(name, SettingValue(None, DEFAULT))
    default = next(iter(defaults.values()))
    if len(set(defaults.values())) > 1:
        default = ", ".join(f"{value} for {method}" for method, value in defaults.items())
    elif default and used.origin is not DEFAULT and format_default(used.value) != default:
        default = f"{format_default(used.value)}, {used.origin}"
    return f"{text} [{default}]" if default else text


def format_default(default: Any) -> str:
    """A default in help; nothing for what the rules settle, since the sentence says how."""
    if default is None or default == ():
        return ""
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, tuple):
        return ", ".join(map(format_default, default))
    return f"{default:g}" if isinstance(default, float) else str(default)


def completer(names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Completes a value with those of `names` that begin as it does."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in names() if name.startswith(incomplete)]

    return complete
