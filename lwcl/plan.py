"""A plan: every setting of one run with its value and where it came from, settled before anything heavy is imported.

One precedence: flag > the file the user named > the recipe (of this architecture and method) > the named augmentation >
the default of the dataclass. What is still None then is settled by `rules.py`, which has seen the images.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from lwcl.augmentation import AUGMENTATIONS, Augmentation
from lwcl.catalogue import arch_named
from lwcl.commands import PretrainOptions
from lwcl.errors import UsageError
from lwcl.method import Method, method_named, methods
from lwcl.recipes import FEW, FEW_IMAGES, RECIPES, Recipe, recipe_named
from lwcl.settings import (
    Layer,
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

#: Where a run goes is not what it is: a run's own config.yaml, given back, must not overwrite that run.
PLACE = frozenset({"out", "resume", "overwrite"})
FLAG = "flag"
Chosen = Mapping[str, Any]
S = TypeVar("S", bound=Settings)


@dataclass(frozen=True)
class Plan:
    """All settings of a training run by name; equal plans are equal runs."""

    settled: Mapping[str, Settled]

    @property
    def kinds(self) -> tuple[type[Settings], ...]:
        """The settings classes of this run."""
        return PretrainOptions, Recipe, method_named(self.settled["method"].value, "pretrain"), Augmentation

    @cached_property
    def options(self) -> PretrainOptions:
        """What to train, on what, and where to put it."""
        return made(PretrainOptions, self.settled)

    @cached_property
    def recipe(self) -> Recipe:
        """How to optimise."""
        return made(Recipe, self.settled)

    @cached_property
    def method(self) -> Method:
        """The training method with its hyper-parameters."""
        return made(method_named(self.settled["method"].value, "pretrain"), self.settled)

    @cached_property
    def augmentation(self) -> Augmentation:
        """What a view may do to an image."""
        return made(Augmentation, self.settled)

    def at_scale(self, images: int) -> "Plan":
        """This plan with what recipes change for few images, where neither a flag nor a file chose."""
        if images >= FEW_IMAGES:
            return self
        origin = f"recipes, for fewer than {FEW_IMAGES:,} images"
        changed = {
            name: Settled(cited.value, origin)
            for name, cited in FEW.items()
            if name in self.settled and self.settled[name].origin.split()[0] in ("default", "recipe", "method")
        }
        return Plan(checked(self.kinds, {**self.settled, **changed}))

    def with_rules(self, rules: Mapping[str, Settled]) -> "Plan":
        """This plan with the settings that are still None filled from `rules`; what was chosen stays.

        Raises `UsageError` for a value outside its limits.
        """
        filled = {name: rules.get(name, old) if old.value is None else old for name, old in self.settled.items()}
        return Plan(checked(self.kinds, filled))

    def config(self) -> dict[str, Any]:
        """Every setting's value, flat and fit for YAML and JSON; `--config` with it gives this plan again.

        Without the settings in `PLACE`.
        """
        values = {name: setting.value for name, setting in self.settled.items() if name not in PLACE}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def plan_pretrain(chosen: Chosen, file: Chosen | None = None, file_name: str = "--config") -> Plan:
    """The plan of `lwcl pretrain` from flags and the settings of a file; None is not a choice.

    Raises `UsageError` for an unknown name, a value outside its limits, and a setting that the method does not have.
    """
    told: list[Layer] = [(FLAG, chosen), (file_name, file or {})]
    known = methods("pretrain")
    check_names(told, names_in((PretrainOptions, Recipe, Augmentation, *known.values())))
    first = checked((PretrainOptions,), settle(PretrainOptions, told))
    arch, method = arch_named(first["arch"].value), first["method"].value
    kind = method_named(method, "pretrain") if method is not None else None
    recipe = data_layers(first["data"].value) + recipe_layers(first["recipe"], kind, arch)
    own = method_named(settle(PretrainOptions, [*told, *recipe])["method"].value, "pretrain")
    kinds = (PretrainOptions, Recipe, own, Augmentation)
    check_method(told, names_in(kinds), own)
    layers = [*told, *recipe]
    layers += augmentation_layers(settle(PretrainOptions, layers)["augmentation"].value)
    return Plan(checked(kinds, {name: setting for kind in kinds for name, setting in settle(kind, layers).items()}))


def data_layers(data: tuple[str, ...]) -> list[Layer]:
    """What a data set asks for: a mirrored or half-cut digit is another one."""
    return [("data digits", {"augmentation": "digits"})] if data == ("digits",) else []


def recipe_layers(recipe: Settled, method: type[Method] | None, arch: str) -> list[Layer]:
    """The layers of the recipe that was chosen, or of the first recipe for the chosen method.

    A method without a recipe takes how to optimise from the default recipe, and keeps its own hyper-parameters.
    """
    fitting = [name for name, published in RECIPES.items() if method and published.method == method.name]
    if recipe.origin == "default" and method and fitting:
        return [(f"method {method.name}", {"recipe": fitting[0]}), recipe_named(fitting[0]).layer(fitting[0], arch)]
    published = recipe_named(recipe.value)
    origin, values = published.layer(recipe.value, arch)
    if recipe.origin == "default" and method:
        values = {name: value for name, value in values.items() if name not in names_of(method)}
    return [(origin, {**values, "method": published.method})]


def augmentation_layers(name: str | None) -> list[Layer]:
    """The layer of a named augmentation, if one is named; raises `UsageError` with the nearest names."""
    if name is None:
        return []
    if name not in AUGMENTATIONS:
        raise unknown("augmentation", name, AUGMENTATIONS, "`lwcl list augmentations` shows them all.")
    return [(f"augmentation {name}", AUGMENTATIONS[name])]


def settings_of(kind: type[S], chosen: Chosen, file: Chosen | None = None, file_name: str = "--config") -> S:
    """The settings of a command without recipe or method, from flags and a file; raises `UsageError` as above."""
    told: list[Layer] = [(FLAG, chosen), (file_name, file or {})]
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
            owners = [other for other, kind in methods("pretrain").items() if name in names_of(kind)]
            where = "" if origin == FLAG else f" (in {origin})"
            raise UsageError(
                f"{flag_of(name)}{where} is a setting of {' and '.join(owners)}; this run's method is {method.name}.",
                f"{method.name} has {', '.join(map(flag_of, names_of(method)))}.",
                f"Leave {flag_of(name)} away, or choose --method {owners[0]}.",
            )


def names_in(kinds: Iterable[type[Settings]]) -> list[str]:
    """The names of all settings of these classes."""
    return [name for kind in kinds for name in names_of(kind)]
