"""Checks of what a user chose: unknown names, and settings of another method."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from lwcl.errors import UsageError
from lwcl.methods.method import Method, methods
from lwcl.settings import (
    FLAG,
    Layer,
    Origin,
    OriginKind,
    Settings,
    build_settings,
    empty_value_error,
    field_names,
    flag_name,
    merge_layers,
    unknown_name_error,
)

Chosen = Mapping[str, Any]
S = TypeVar("S", bound=Settings)


def user_layers(chosen: Chosen, file: Chosen | None, file_name: str) -> list[Layer]:
    """Flags, then the settings of a file: the two layers that the user gives."""
    return [(FLAG, chosen), (Origin(OriginKind.FILE, file_name), file or {})]


def parse_options(cls: type[S], chosen: Chosen, file: Chosen | None = None, file_name: str = "--config") -> S:
    """The options of a command without recipe or method, from flags and a file.

    Raises `UsageError` for an unknown name or a bad value.
    """
    layers = user_layers(chosen, file, file_name)
    check_names(layers, field_names(cls))
    reject_empty_values(layers, (cls,))
    return build_settings(cls, merge_layers(cls, layers))


def check_names(layers: Sequence[Layer], known: Sequence[str]) -> None:
    """Raises `UsageError` for an unknown setting, with the nearest names."""
    for origin, values in layers:
        for name in values:
            if name not in known:
                where = "`lwcl COMMAND --help` shows all settings."
                raise unknown_name_error(f"setting in {origin}", str(name), known, where)


def reject_empty_values(layers: Sequence[Layer], classes: Iterable[type[Settings]]) -> None:
    """Raises `UsageError` for a setting that a file names without a value, unless None is its default.

    A run's own config.yaml holds `null` for those; for others the default would be used without a word.
    """
    every = tuple(classes)
    needed = {name for cls in every for name in field_names(cls)} - {
        name for cls in every for name in field_names(cls) if getattr(cls, name, None) is None
    }
    for origin, values in layers:
        for name in (name for name, value in values.items() if value is None and origin != FLAG):
            if name in needed:
                raise empty_value_error(name, str(origin))


def check_method_settings(layers: Sequence[Layer], own: Sequence[str], method: type[Method]) -> None:
    """Raises `UsageError` for a chosen setting that belongs to another method."""
    for origin, values in layers:
        for name in (name for name, value in values.items() if value is not None and name not in own):
            owners = [other for other, cls in methods(method.command).items() if name in field_names(cls)]
            where = "" if origin == FLAG else f" (in {origin})"
            *rest, last = owners
            others = f"{', '.join(rest)} and {last}" if rest else last
            raise UsageError(
                f"{flag_name(name)}{where} is a setting of {others}; this run's method is {method.name}.",
                f"{method.name} has {', '.join(map(flag_name, field_names(method)))}.",
                f"Remove {flag_name(name)}, or choose --method {owners[0]}.",
            )


def all_field_names(classes: Iterable[type[Settings]]) -> list[str]:
    """The names of all settings of these classes."""
    return [name for cls in classes for name in field_names(cls)]
