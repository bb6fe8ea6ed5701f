"""Settings: frozen dataclasses whose fields state default, help and limits, with the origin of every value.

Precedence: flag > file > overrides for small data and the demo > data set > recipe > named augmentation > default.
`Auto[X]` marks a setting that is computed from the images, the batch or the machine if the user does not choose it
(`config/auto.py`).
"""

import contextlib
import dataclasses
import difflib
import enum
import math
import operator
import os
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, TypeVar, Union, dataclass_transform

from lwcl.errors import UsageError

T = TypeVar("T")
AUTO = "auto"
#: A setting that is None until `config/auto.py` has computed it. In a `ResolvedConfig` it is a plain `T`.
Auto = Annotated[T, AUTO]

MAX_WHOLE_NUMBER = 2**32 - 1  # what scikit-learn takes as a seed; larger counts are mistakes


class OriginKind(enum.Enum):
    """Where the value of a setting can come from."""

    FLAG = "flag"
    FILE = "file"
    METHOD = "method"
    RECIPE = "recipe"
    AUGMENTATION = "augmentation"
    PROTOCOL = "protocol"
    DATA = "data"  # a data set that needs it
    PRESET = "preset"  # the overrides for small data sets, or for the demo
    RULE = "auto"  # computed from the images, the batch or the machine
    RESUMED = "resumed run"
    DEFAULT = "default"
    REPEATED = "repeated"  # from a run's config.yaml that is given back whole; nobody chose it
    RECORDED = "recorded"  # read from a report, which has origins as text only


class Origin(NamedTuple):
    """Where the value of a setting comes from. `detail` is text for people; no code depends on it."""

    kind: OriginKind
    detail: str = ""  # name of the file or recipe, or the reason for an automatic value

    @property
    def is_user(self) -> bool:
        """Whether the user chose the value, by a flag or in a file."""
        return self.kind in (OriginKind.FLAG, OriginKind.FILE)

    @property
    def is_automatic(self) -> bool:
        """Whether the value was computed from the images or the machine."""
        return self.kind in (OriginKind.RULE, OriginKind.PRESET)

    def __str__(self) -> str:
        named = (OriginKind.METHOD, OriginKind.RECIPE, OriginKind.AUGMENTATION, OriginKind.PROTOCOL, OriginKind.DATA)
        if self.kind in named:
            return f"{self.kind.value} {self.detail}"
        if self.kind is OriginKind.RULE:
            return f"{self.kind.value}: {self.detail}"
        return self.detail if self.detail or self.kind is OriginKind.RECORDED else self.kind.value


FLAG, DEFAULT, RESUMED = (Origin(kind) for kind in (OriginKind.FLAG, OriginKind.DEFAULT, OriginKind.RESUMED))
Layer = tuple[Origin, Mapping[str, Any]]


class SettingValue(NamedTuple):
    """A setting's value and its origin."""

    value: Any
    origin: Origin

    def __str__(self) -> str:
        return f"{format_number(self.value) if isinstance(self.value, float) else self.value} ({self.origin})"

    def as_json(self) -> dict[str, Any]:
        """The value, and its origin as text."""
        return {"value": self.value, "origin": str(self.origin)}


def format_number(value: float) -> str:
    """A number with six digits, whole ones with all: 0.0005, 4.83871, 1000000."""
    return str(int(value)) if value.is_integer() else f"{value:.6g}"


def auto_value(value: Any, reason: str) -> SettingValue:
    """A value computed by a rule, with the reason."""
    return SettingValue(value, Origin(OriginKind.RULE, reason))


def recorded_value(value: Any, origin: str = "") -> SettingValue:
    """A value read from a report, with its origin as text."""
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
    path: bool = False,
) -> Any:
    """A dataclass field: default, help, limits, its group in `--help`, and its flag if that is not its name.

    A `path` may begin with `~`. A whole number without an upper limit is at most `MAX_WHOLE_NUMBER`.
    """
    limits = {"at_least": at_least, "above": above, "at_most": at_most, "below": below}
    metadata = {"help": help, "choices": tuple(choices or ()), "group": group, "flag": flag, "path": path}
    metadata["may_be_empty"] = default == ""
    return dataclasses.field(default=default, metadata=metadata | {k: v for k, v in limits.items() if v is not None})


class SettingError(UsageError):
    """A value of the wrong type or outside its limits; `setting` names the field."""

    def __init__(self, setting: str, what: str, why: str, remedy: str) -> None:
        super().__init__(what, why, remedy)
        self.setting = setting


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(setting, dataclasses.field))
class Settings:
    """A base for settings: every subclass is a frozen, keyword-only dataclass that converts and checks its values.

    Raises `SettingError` for a value of the wrong type or outside its limits.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        dataclasses.dataclass(frozen=True, kw_only=True)(cls)

    def __post_init__(self) -> None:
        types = field_types(type(self))
        for field in dataclasses.fields(typing.cast(Any, self)):
            try:
                value = convert_value(field.name, getattr(self, field.name), types[field.name])
                check_limits(field.name, value, field.metadata)
                value = expand_home(value) if field.metadata.get("path") else value
            except UsageError as error:
                raise SettingError(field.name, error.what, error.why, error.remedy) from None
            object.__setattr__(self, field.name, value)


def expand_home(path: T) -> T:
    """A path, or each of several, with a leading `~` or `~user` replaced; that of an unknown user stays."""
    expanded: Any = path
    if isinstance(path, tuple | list):
        expanded = type(path)(map(expand_home, path))
    elif isinstance(path, str):
        expanded = os.path.expanduser(path)
    return expanded  # type: ignore[no-any-return]  # of the same type


def field_types(cls: type) -> dict[str, Any]:
    """The types of a settings class's fields; `Auto[X]` is `X | None`."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {name: typing.get_args(hint)[0] | None if is_auto(hint) else hint for name, hint in hints.items()}


def is_auto(hint: Any) -> bool:
    """Whether a type is `Auto[X]`."""
    return AUTO in getattr(hint, "__metadata__", ())


def auto_field_names(cls: type) -> list[str]:
    """The names of the fields of type `Auto[X]`, in order."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return [name for name in field_names(cls) if is_auto(hints[name])]


def field_names(cls: type) -> list[str]:
    """The names of a settings class's fields, in order."""
    return [field.name for field in dataclasses.fields(cls)]


def flag_name(name: str) -> str:
    """The flag of a setting on the command line."""
    return "--" + name.replace("_", "-")


def convert_value(name: str, value: Any, type_: Any) -> Any:
    """`value` as `type_` (int, float, bool, str, X | None, tuple[X, ...]); YAML's `1e-3` is a number.

    Raises `UsageError` when it cannot be one.
    """
    if isinstance(type_, types.UnionType) or typing.get_origin(type_) is Union:
        inner = [arg for arg in typing.get_args(type_) if arg is not type(None)]
        return None if value is None else convert_value(name, value, inner[0])
    if typing.get_origin(type_) is tuple:
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(convert_value(name, item, typing.get_args(type_)[0]) for item in items)
    if type_ is bool and isinstance(value, bool):
        return value
    if type_ is not bool and isinstance(value, int | float | str) and not isinstance(value, bool):
        converters: dict[Any, Callable[[Any], Any]] = {int: exact_int, float: float, str: str}
        with contextlib.suppress(ValueError, OverflowError):
            return converters[type_](value)
    expected = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(type_, str(type_))
    raise UsageError(f"{flag_name(name)}: got {value!r}, expected {expected}.", remedy=f"Give {expected}.")


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
    known = [(*tests[key], metadata[key]) for key in tests if key in metadata]
    largest = [] if {"at_most", "below"} & metadata.keys() else [(*tests["at_most"], MAX_WHOLE_NUMBER)]
    for item in value if isinstance(value, tuple) else () if value is None else (value,):
        if choices and item not in choices:
            raise unknown_name_error(f"value of {flag_name(name)}", str(item), choices)
        if item == "" and not metadata.get("may_be_empty"):
            raise empty_value_error(name)
        limits = known + largest if isinstance(item, int) else known
        finite = not isinstance(item, float) or math.isfinite(item)
        if not finite or not all(holds(item, limit) for _, holds, limit in limits):
            required = " and ".join(f"{text} {limit:.10g}" for text, _, limit in limits) or "finite"
            remedy = f"Give a value that is {required}."
            raise UsageError(f"{flag_name(name)}: got {item!r}; it must be {required}.", remedy=remedy)


def empty_value_error(name: str, where: str = "") -> UsageError:
    """The error for a setting without a value: a flag's, or that of a file that `where` names."""
    what = f"{name} has no value in {where}." if where else f"{flag_name(name)}: its value is empty."
    return UsageError(what, remedy="Give it a value, or leave it out.")


def unknown_name_error(what: str, name: str, known: Iterable[str], where: str = "") -> UsageError:
    """The error for an unknown name, with the three nearest ones; `where` says how to list them all."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    why = f"Did you mean {' or '.join(near)}?" if near else ""
    remedy = where or ("" if near and len(known) > 12 else f"Possible: {', '.join(known)}.")
    return UsageError(f"Unknown {what}: {name!r}.", why, remedy)


def merge_layers(cls: type, layers: Sequence[Layer]) -> dict[str, SettingValue]:
    """Each setting of `cls` with its value and origin: the first layer that names it wins, then the default.

    `layers` are (origin, values), strongest first; None means not given. Names that `cls` lacks are ignored: several
    classes share the layers.
    """
    merged = {}
    for field in dataclasses.fields(cls):
        chosen = ((origin, values[field.name]) for origin, values in layers if values.get(field.name) is not None)
        origin, value = next(chosen, (DEFAULT, field.default))
        merged[field.name] = SettingValue(value, origin)
    return merged


def build_settings(cls: type[T], values: Mapping[str, SettingValue]) -> T:
    """The settings object with these values, converted and checked.

    Raises `UsageError`, which names the origin of a bad value if that was not a flag.
    """
    try:
        return cls(**{name: values[name].value for name in field_names(cls)})
    except SettingError as error:
        origin = values[error.setting].origin
        why = error.why if origin == FLAG else f"The value comes from {origin}. {error.why}".rstrip()
        raise UsageError(error.what, why, error.remedy) from None
