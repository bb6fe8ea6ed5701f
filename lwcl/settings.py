"""Settings: frozen dataclasses whose fields say their default, their help and their limits, and are checked when made.

One precedence everywhere: what the user gave > the file the user named > the recipe > the default of the dataclass.
`None` as a default means: settled by a stated rule from the data, the batch or the machine (`rules.py`).
"""

import contextlib
import dataclasses
import difflib
import enum
import json
import math
import operator
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar, Union, dataclass_transform

from lwcl.errors import UsageError

T = TypeVar("T")


class OriginKind(enum.Enum):
    """Where the value of a setting can come from."""

    FLAG = "flag"
    FILE = "file"
    METHOD = "method"
    RECIPE = "recipe"
    AUGMENTATION = "augmentation"
    PROTOCOL = "protocol"
    DATA = "data"  # what a data set asks for
    SCALE = "scale"  # what a recipe changes for few images, or for the demo
    RULE = "rule"
    RESUMED = "the run that goes on"
    DEFAULT = "default"
    RECORDED = "recorded"  # read from a report, which holds the words only


class Origin(NamedTuple):
    """Where the value of a setting comes from. `detail` is for people to read; no code decides by it."""

    kind: OriginKind
    detail: str = ""  # a file's or recipe's name, or the reason of a rule

    @property
    def is_user(self) -> bool:
        """Whether the user chose the value, by a flag or in a file."""
        return self.kind in (OriginKind.FLAG, OriginKind.FILE)

    @property
    def is_rule(self) -> bool:
        """Whether the value depends on the images or the machine."""
        return self.kind in (OriginKind.RULE, OriginKind.SCALE)

    def __str__(self) -> str:
        named = (OriginKind.METHOD, OriginKind.RECIPE, OriginKind.AUGMENTATION, OriginKind.PROTOCOL, OriginKind.DATA)
        if self.kind in named:
            return f"{self.kind.value} {self.detail}"
        return self.detail if self.detail or self.kind is OriginKind.RECORDED else self.kind.value


FLAG, DEFAULT, RESUMED = (Origin(kind) for kind in (OriginKind.FLAG, OriginKind.DEFAULT, OriginKind.RESUMED))
Layer = tuple[Origin, Mapping[str, Any]]


class SettingValue(NamedTuple):
    """A setting's value and its origin."""

    value: Any
    origin: Origin

    def __str__(self) -> str:
        return f"{self.value} ({self.origin})"

    def as_json(self) -> dict[str, Any]:
        """The value, and its origin in words."""
        return {"value": self.value, "origin": str(self.origin)}


def auto_value(value: Any, reason: str) -> SettingValue:
    """A value that a rule settled, with the reason."""
    return SettingValue(value, Origin(OriginKind.RULE, reason))


def recorded_value(value: Any, origin: str = "") -> SettingValue:
    """A value read from a report, with the origin that it states."""
    return SettingValue(value, Origin(OriginKind.RECORDED, origin))


def recorded_settings(settings: Any) -> dict[str, SettingValue]:
    """All values of a settings object, for a report."""
    return {field.name: recorded_value(getattr(settings, field.name)) for field in dataclasses.fields(settings)}


def setting(
    default: Any,
    help: str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    choices: Sequence[str] | None = None,
    group: str = "",
    flag: str = "",
) -> Any:
    """A dataclass field: default, a sentence of help, limits, the group it is shown in, a flag if not its own name."""
    limits = {"at_least": at_least, "above": above, "at_most": at_most, "below": below}
    metadata = {"help": help, "choices": tuple(choices or ()), "group": group, "flag": flag}
    return dataclasses.field(default=default, metadata=metadata | {k: v for k, v in limits.items() if v is not None})


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(setting, dataclasses.field))
class Settings:
    """A base for settings: every subclass is a frozen, keyword-only dataclass, checked when made.

    Raises `UsageError` for a value of the wrong type or outside its limits.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        dataclasses.dataclass(frozen=True, kw_only=True)(cls)

    def __post_init__(self) -> None:
        kinds = field_types(type(self))
        for field in dataclasses.fields(typing.cast(Any, self)):
            value = convert_value(field.name, getattr(self, field.name), kinds[field.name])
            object.__setattr__(self, field.name, value)
            check_limits(field.name, value, field.metadata)


def field_types(kind: type) -> dict[str, Any]:
    """The resolved types of a settings class's fields."""
    return typing.get_type_hints(kind)


def field_names(kind: type) -> list[str]:
    """The names of a settings class's fields, in order."""
    return [field.name for field in dataclasses.fields(kind)]


def flag_name(name: str) -> str:
    """How a setting is written on the command line."""
    return "--" + name.replace("_", "-")


def convert_value(name: str, value: Any, kind: Any) -> Any:
    """`value` as `kind` (int, float, bool, str, X | None, tuple[X, ...]); YAML's `1e-3` is text and becomes a number.

    Raises `UsageError` when it cannot be one.
    """
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is Union:
        inner = [k for k in typing.get_args(kind) if k is not type(None)]
        return None if value is None else convert_value(name, value, inner[0])
    if typing.get_origin(kind) is tuple:
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(convert_value(name, item, typing.get_args(kind)[0]) for item in items)
    if kind is bool and isinstance(value, bool):
        return value
    if kind is not bool and isinstance(value, int | float | str) and not isinstance(value, bool):
        makers: dict[Any, Callable[[Any], Any]] = {int: exact_int, float: float, str: str}
        with contextlib.suppress(ValueError, OverflowError):
            return makers[kind](value)
    wanted = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(kind, str(kind))
    raise UsageError(f"{flag_name(name)}: got {value!r}, which is not {wanted}.", remedy=f"Give {wanted}.")


def exact_int(value: int | float | str) -> int:
    """3, "3", 3.0 and "1e3" as an int, exactly; raises `ValueError` or `OverflowError` for what is not whole."""
    try:
        return int(str(value))
    except ValueError:
        if not float(value).is_integer():
            raise
        return int(float(value))


def check_limits(name: str, value: Any, metadata: Mapping[str, Any]) -> None:
    """Raises `UsageError` when a value is outside the limits or choices of its field."""
    choices = metadata.get("choices")
    tests = {
        "at_least": ("at least", operator.ge),
        "above": ("above", operator.gt),
        "at_most": ("at most", operator.le),
        "below": ("below", operator.lt),
    }
    limits = [(*tests[key], metadata[key]) for key in tests if key in metadata]
    for item in value if isinstance(value, tuple) else () if value is None else (value,):
        if choices and item not in choices:
            raise unknown_name(f"value of {flag_name(name)}", str(item), choices)
        finite = not isinstance(item, float) or math.isfinite(item)
        if not finite or not all(holds(item, limit) for _, holds, limit in limits):
            wanted = " and ".join(f"{words} {limit:g}" for words, _, limit in limits) or "finite"
            raise UsageError(f"{flag_name(name)}: got {item!r}; it must be {wanted}.", remedy=f"Give a value {wanted}.")


def unknown_name(what: str, got: str, known: Iterable[str], where: str = "") -> UsageError:
    """The error for a name that is not known: what was got, the three nearest names, where the list is."""
    known = list(known)
    near = difflib.get_close_matches(got, known, n=3, cutoff=0.5)
    why = f"Did you mean {' or '.join(near)}?" if near else ""
    remedy = where or ("" if near and len(known) > 12 else f"Possible: {', '.join(known)}.")
    return UsageError(f"Unknown {what}: {got!r}.", why, remedy)


def merge_layers(kind: type, layers: Sequence[Layer]) -> dict[str, SettingValue]:
    """Each setting of `kind` with its value and origin: the first layer that names it wins, then the default.

    `layers` are (origin, values), strongest first; a value of None is not a choice. Names that `kind` lacks are left
    alone: other kinds share the layers.
    """
    settled = {}
    for field in dataclasses.fields(kind):
        chosen = ((origin, values[field.name]) for origin, values in layers if values.get(field.name) is not None)
        origin, value = next(chosen, (DEFAULT, field.default))
        settled[field.name] = SettingValue(value, origin)
    return settled


def build_settings(kind: type[T], settled: Mapping[str, SettingValue]) -> T:
    """The settings object of `kind` that `settled` describes; raises `UsageError` for a bad value."""
    return kind(**{name: settled[name].value for name in field_names(kind) if name in settled})


def settings_json(settings: Any) -> str:
    """A settings object as one line of JSON with sorted keys; equal objects give equal text."""
    return json.dumps(dataclasses.asdict(settings), sort_keys=True)
