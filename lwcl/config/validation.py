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
    Settled,
    check_limits,
    converted,
    flag_of,
    kinds_of,
    made,
    names_of,
    settle,
    unknown,
)

Chosen = Mapping[str, Any]
S = TypeVar("S", bound=Settings)


def settings_of(kind: type[S], chosen: Chosen, file: Chosen | None = None, file_name: str = "--config") -> S:
    """The settings of a command without recipe or method, from flags and a file; raises `UsageError` as above."""
    told: list[Layer] = [(FLAG, chosen), (Origin(OriginKind.FILE, file_name), file or {})]
    check_names(told, names_of(kind))
    return made(kind, checked((kind,), settle(kind, told)))


def checked(kinds: Iterable[type[Settings]], settled: Mapping[str, Settled]) -> dict[str, Settled]:
    """The settings with every value converted to its type and within its limits.

    Raises `UsageError`, which says where the value came from if it was not a flag.
    """
    good = {}
    for kind in kinds:
        types = kinds_of(kind)
        for field in dataclasses.fields(kind):  # type: ignore[arg-type]  # every Settings class is a dataclass
            value, origin = settled[field.name]
            try:
                value = converted(field.name, value, types[field.name])
                check_limits(field.name, value, field.metadata)
            except UsageError as error:
                why = error.why if origin == FLAG else f"The value comes from {origin}. {error.why}".rstrip()
                raise UsageError(error.what, why, error.remedy) from None
            good[field.name] = Settled(value, origin)
        made(kind, good)
    return good


def check_names(told: Sequence[Layer], known: Sequence[str]) -> None:
    """Raises `UsageError` for a setting that nothing here has, with the nearest names."""
    for origin, values in told:
        for name in values:
            if name not in known:
                raise unknown(f"setting in {origin}", str(name), known, "`lwcl COMMAND --help` shows all settings.")


def check_method(told: Sequence[Layer], own: Sequence[str], method: type[Method]) -> None:
    """Raises `UsageError` for a chosen setting that belongs to another method."""
    for origin, values in told:
        for name in (name for name, value in values.items() if value is not None and name not in own):
            owners = [other for other, kind in methods(method.verb).items() if name in names_of(kind)]
            where = "" if origin == FLAG else f" (in {origin})"
            raise UsageError(
                f"{flag_of(name)}{where} is a setting of {' and '.join(owners)}; this run's method is {method.name}.",
                f"{method.name} has {', '.join(map(flag_of, names_of(method)))}.",
                f"Leave {flag_of(name)} away, or choose --method {owners[0]}.",
            )


def names_in(kinds: Iterable[type[Settings]]) -> list[str]:
    """The names of all settings of these classes."""
    return [name for kind in kinds for name in names_of(kind)]
