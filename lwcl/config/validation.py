"""What was chosen, checked: names that nothing has, values outside their limits, settings of another method."""

import dataclasses
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
    SettingValue,
    build_settings,
    check_limits,
    convert_value,
    field_names,
    field_types,
    flag_name,
    merge_layers,
    unknown_name,
)

Chosen = Mapping[str, Any]
S = TypeVar("S", bound=Settings)


def parse_options(kind: type[S], chosen: Chosen, file: Chosen | None = None, file_name: str = "--config") -> S:
    """The settings of a command without recipe or method, from flags and a file; raises `UsageError` as above."""
    told: list[Layer] = [(FLAG, chosen), (Origin(OriginKind.FILE, file_name), file or {})]
    check_names(told, field_names(kind))
    return build_settings(kind, validate_settings((kind,), merge_layers(kind, told)))


def validate_settings(kinds: Iterable[type[Settings]], settled: Mapping[str, SettingValue]) -> dict[str, SettingValue]:
    """The settings with every value converted to its type and within its limits.

    Raises `UsageError`, which says where the value came from if it was not a flag.
    """
    good = {}
    for kind in kinds:
        types = field_types(kind)
        for field in dataclasses.fields(kind):  # type: ignore[arg-type]  # every Settings class is a dataclass
            value, origin = settled[field.name]
            try:
                value = convert_value(field.name, value, types[field.name])
                check_limits(field.name, value, field.metadata)
            except UsageError as error:
                why = error.why if origin == FLAG else f"The value comes from {origin}. {error.why}".rstrip()
                raise UsageError(error.what, why, error.remedy) from None
            good[field.name] = SettingValue(value, origin)
        build_settings(kind, good)
    return good


def check_names(told: Sequence[Layer], known: Sequence[str]) -> None:
    """Raises `UsageError` for a setting that nothing here has, with the nearest names."""
    for origin, values in told:
        for name in values:
            if name not in known:
                raise unknown_name(
                    f"setting in {origin}", str(name), known, "`lwcl COMMAND --help` shows all settings."
                )


def check_method_settings(told: Sequence[Layer], own: Sequence[str], method: type[Method]) -> None:
    """Raises `UsageError` for a chosen setting that belongs to another method."""
    for origin, values in told:
        for name in (name for name, value in values.items() if value is not None and name not in own):
            owners = [other for other, kind in methods(method.verb).items() if name in field_names(kind)]
            where = "" if origin == FLAG else f" (in {origin})"
            raise UsageError(
                f"{flag_name(name)}{where} is a setting of {' and '.join(owners)}; this run's method is {method.name}.",
                f"{method.name} has {', '.join(map(flag_name, field_names(method)))}.",
                f"Leave {flag_name(name)} away, or choose --method {owners[0]}.",
            )


def all_field_names(kinds: Iterable[type[Settings]]) -> list[str]:
    """The names of all settings of these classes."""
    return [name for kind in kinds for name in field_names(kind)]
