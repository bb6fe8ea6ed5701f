"""A plan: every setting of one run with its value and where it came from, settled before anything heavy is imported.

One precedence: flag > the file the user named > the recipe (of this architecture and method) > the named augmentation >
the default of the dataclass. What is still None then is settled by `rules.py`, which has seen the images.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lwcl.config import teacher_options as teaching
from lwcl.config.augmentation import AUGMENTATIONS, Augmentation
from lwcl.config.citation import CitedValue
from lwcl.config.recipes import DEMO_OVERRIDES, RECIPES, SMALL_DATA_IMAGES, SMALL_DATA_OVERRIDES, Recipe, recipe_named
from lwcl.config.train_options import TRAIN_OPTIONS, TrainOptions
from lwcl.config.validation import Chosen, all_field_names, check_method_settings, check_names, validate_settings
from lwcl.methods.method import Method, Verb, method_named, methods
from lwcl.models.archs import check_arch
from lwcl.settings import (
    DEFAULT,
    FLAG,
    Layer,
    Origin,
    OriginKind,
    Settings,
    SettingValue,
    auto_value,
    build_settings,
    field_names,
    merge_layers,
    unknown_name,
)

#: Where a run goes is not what it is: a run's own config.yaml, given back, must not overwrite that run.
LOCATION_SETTINGS = frozenset({"out", "resume", "overwrite"})

#: Values of these origins may be changed for few images or for the demo: nobody chose them.
SUGGESTED = (OriginKind.DEFAULT, OriginKind.RECIPE, OriginKind.METHOD)


@dataclass(frozen=True)
class Plan:
    """All settings of a training run by name; equal plans are equal runs."""

    settled: Mapping[str, SettingValue]
    verb: Verb = "pretrain"  # the command

    @property
    def kinds(self) -> tuple[type[Settings], ...]:
        """The settings classes of this run."""
        return TRAIN_OPTIONS[self.verb], Recipe, method_named(self.settled["method"].value, self.verb), Augmentation

    @cached_property
    def options(self) -> TrainOptions:
        """What to train, on what, and where to put it."""
        return build_settings(TRAIN_OPTIONS[self.verb], self.settled)

    @cached_property
    def recipe(self) -> Recipe:
        """How to optimise."""
        return build_settings(Recipe, self.settled)

    @cached_property
    def method(self) -> Method:
        """The training method with its hyper-parameters."""
        return build_settings(method_named(self.settled["method"].value, self.verb), self.settled)

    @cached_property
    def augmentation(self) -> Augmentation:
        """What a view may do to an image."""
        return build_settings(Augmentation, self.settled)

    def at_scale(self, images: int, *, demonstration: bool = False) -> "Plan":
        """This plan with what recipes change for few images, where neither a flag nor a file chose.

        `demonstration`: on an embedded set, where the time counts more than the score.
        """
        few = SMALL_DATA_OVERRIDES[self.verb] if images < SMALL_DATA_IMAGES else {}
        scaled = self._changed(few, f"recipes, for fewer than {SMALL_DATA_IMAGES:,} images")
        shown = self._changed(DEMO_OVERRIDES if demonstration else {}, "a demonstration: minutes count")
        return Plan(validate_settings(self.kinds, {**self.settled, **scaled, **shown}), self.verb)

    def _changed(self, changes: Mapping[str, CitedValue], reason: str) -> dict[str, SettingValue]:
        """Those of the changes that neither a flag nor a file forbids."""
        return {
            name: SettingValue(cited.value, Origin(OriginKind.SCALE, reason))
            for name, cited in changes.items()
            if name in self.settled and self.settled[name].origin.kind in SUGGESTED
        }

    def with_rules(self, rules: Mapping[str, SettingValue]) -> "Plan":
        """This plan with the settings that are still None filled from `rules`; what was chosen stays.

        Raises `UsageError` for a value outside its limits.
        """
        filled = {name: rules.get(name, old) if old.value is None else old for name, old in self.settled.items()}
        return Plan(validate_settings(self.kinds, filled), self.verb)

    def starting_from(self, encoder: str) -> "Plan":
        """This plan with another `--init`."""
        return Plan({**self.settled, "init": auto_value(encoder, "the first stage")}, self.verb)

    def with_precision(self, name: str, reason: str) -> "Plan":
        """This plan with a precision in the place of `auto`."""
        return Plan({**self.settled, "precision": auto_value(name, reason)}, self.verb)

    def config(self) -> dict[str, Any]:
        """Every setting's value, flat and fit for YAML and JSON; `--config` with it gives this plan again.

        Without the settings in `PLACE`.
        """
        values = {name: setting.value for name, setting in self.settled.items() if name not in LOCATION_SETTINGS}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def plan_pretrain(chosen: Chosen, file: Chosen | None = None, file_name: str = "--config") -> Plan:
    """The plan of `lwcl pretrain`; see `plan_run`."""
    return plan_run("pretrain", chosen, file, file_name)


def plan_run(verb: Verb, chosen: Chosen, file: Chosen | None = None, file_name: str = "--config") -> Plan:
    """The plan of a command that trains, from flags and the settings of a file; None is not a choice.

    Raises `UsageError` for an unknown name, a value outside its limits, and a setting that the method does not have.
    """
    options = TRAIN_OPTIONS[verb]
    told: list[Layer] = [(FLAG, chosen), (Origin(OriginKind.FILE, file_name), file or {})]
    check_names(told, all_field_names((options, Recipe, Augmentation, *methods(verb).values())))
    first = validate_settings((options,), merge_layers(options, told))
    arch, method = check_arch(first["arch"].value), first["method"].value
    kind = method_named(method, verb) if method is not None else None
    recipe = data_layers(first["data"].value) + recipe_layers(verb, first["recipe"], kind, arch)
    own = method_named(merge_layers(options, [*told, *recipe])["method"].value, verb)
    kinds: tuple[type[Settings], ...] = (options, Recipe, own, Augmentation)
    check_method_settings(told, all_field_names(kinds), own)
    layers = [*told, *recipe]
    layers += augmentation_layers(merge_layers(options, layers)["augmentation"].value)
    settled = {name: setting for kind in kinds for name, setting in merge_layers(kind, layers).items()}
    plan = Plan(validate_settings(kinds, settled), verb)
    teaching.check_teacher_options(plan.options, plan.method)
    return plan


def data_layers(data: tuple[str, ...]) -> list[Layer]:
    """What a data set asks for: a mirrored or half-cut digit is another one."""
    return [(Origin(OriginKind.DATA, "digits"), {"augmentation": "digits"})] if data == ("digits",) else []


def recipe_layers(verb: Verb, recipe: SettingValue, method: type[Method] | None, arch: str) -> list[Layer]:
    """The layers of the recipe that was chosen, or of the first recipe for the chosen method.

    A method without a recipe takes how to optimise from the default recipe, and keeps its own hyper-parameters.
    """
    fitting = [name for name, published in RECIPES.items() if method and published.method == method.name]
    if recipe.origin is DEFAULT and method and fitting:
        own = recipe_named(fitting[0], verb).layer(fitting[0], arch)
        return [(Origin(OriginKind.METHOD, method.name), {"recipe": fitting[0]}), own]
    published = recipe_named(recipe.value, verb)
    origin, values = published.layer(recipe.value, arch)
    if recipe.origin is DEFAULT and method:
        values = {name: value for name, value in values.items() if name not in field_names(method)}
    return [(origin, {**values, "method": published.method})]


def augmentation_layers(name: str | None) -> list[Layer]:
    """The layer of a named augmentation, if one is named; raises `UsageError` with the nearest names."""
    if name is None:
        return []
    if name not in AUGMENTATIONS:
        raise unknown_name("augmentation", name, AUGMENTATIONS, "`lwcl list augmentations` shows them all.")
    return [(Origin(OriginKind.AUGMENTATION, name), AUGMENTATIONS[name])]
