"""The plan of a training run: every setting with its origin, before the images and the machine are known.

What was chosen (flags and a file) -> `Plan` -> `ResolvedConfig` (`lwcl.config.auto`), in which nothing is left open and
which alone reaches the code that trains. Precedence: flag > file > overrides for small data and the demo > data set >
recipe > named augmentation > default of the dataclass.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from lwcl.config.augmentation import AUGMENTATIONS, Augmentation
from lwcl.config.clips import check_clip
from lwcl.config.recipes import AUTO_RECIPES, RECIPES, Optimization, recipe_named
from lwcl.config.teacher_options import check_teacher_options, parse_init_by
from lwcl.config.train_options import (
    CHANGEABLE_ON_RESUME,
    MACHINE_SETTINGS,
    TRAIN_OPTIONS,
    PretrainOptions,
    TrainOptions,
)
from lwcl.config.validation import (
    Chosen,
    all_field_names,
    check_method_settings,
    check_names,
    reject_empty_values,
    user_layers,
)
from lwcl.errors import UsageError
from lwcl.methods.method import METHODS, Method, TrainCommand, method_named, methods
from lwcl.models.archs import check_arch
from lwcl.settings import (
    AUTO,
    DEFAULT,
    FLAG,
    Layer,
    Origin,
    OriginKind,
    Settings,
    SettingValue,
    auto_field_names,
    build_settings,
    field_names,
    flag_name,
    merge_layers,
    unknown_name_error,
)

#: Not part of config.yaml: passing the file of a run to `--config` must not overwrite that run.
LOCATION_SETTINGS = frozenset({"out", "resume", "overwrite"})
#: Settings that the first stage does not take over from the run.
NOT_INHERITED = frozenset(
    {"recipe", "method", "augmentation", "init", "init_head", "out", "resume", "overwrite", "monitor", "minutes"}
)

#: Automatic settings that depend on the number of epochs, besides that number.
FOLLOW_EPOCHS = ("warmup", "key_momentum")

#: The name in config.yaml of the list of settings that a user chose; the others followed from these.
CHOSEN = "chosen"
#: Key in config.yaml of the image count and the hash of image names and sizes.
IMAGES = "images"
#: The name in config.yaml of the hashes of the files that `--teacher` and `--init` name.
WEIGHTS = "weights"

#: Settings that no other setting depends on: if flags change only these, a run's config.yaml is reused as it is.
INDEPENDENT_SETTINGS = frozenset(
    {*LOCATION_SETTINGS, *CHANGEABLE_ON_RESUME, *MACHINE_SETTINGS, "seed", "cache", "cache_size", "monitor"}
    | {"monitor_every", "log_every", "compile", "devices"}
)


@dataclass(frozen=True)
class Plan:
    """All settings of a training run and their origins; equal plans give equal runs on the same data and machine."""

    command: TrainCommand
    options: TrainOptions
    optimization: Optimization
    method: Method
    augmentation: Augmentation
    origins: Mapping[str, Origin]
    user: tuple[Layer, ...] = field(default=(), compare=False, repr=False)  # what was chosen, for `with_recipe`

    @classmethod
    def from_values(cls, command: TrainCommand, values: Mapping[str, SettingValue], user: Sequence[Layer] = ()) -> Self:
        """The plan with these values, each converted and checked; raises `UsageError` for a bad one."""
        return cls(
            command=command,
            options=build_settings(TRAIN_OPTIONS[command], values),
            optimization=build_settings(Optimization, values),
            method=build_settings(method_named(values["method"].value, command), values),
            augmentation=build_settings(Augmentation, values),
            origins={name: value.origin for name, value in values.items()},
            user=tuple(user),
        )

    @property
    def sections(self) -> tuple[Settings, ...]:
        """The four settings objects."""
        return self.options, self.optimization, self.method, self.augmentation

    @cached_property
    def values(self) -> dict[str, SettingValue]:
        """Every setting by name, with its origin."""
        return {
            name: SettingValue(getattr(section, name), self.origins[name])
            for section in self.sections
            for name in field_names(type(section))
        }

    @property
    def unsettled(self) -> tuple[str, ...]:
        """The settings that `--minutes` leaves open until a trial has timed the run: none in a run that is repeated."""
        if self.options.minutes is None or self.origins["epochs"].kind is OriginKind.REPEATED:
            return ()
        rules = (name for name, origin in self.origins.items() if origin.kind is OriginKind.RULE)
        return "epochs", *(name for name in rules if name in FOLLOW_EPOCHS)

    def with_values(self, **changes: SettingValue) -> Self:
        """This plan with other values. Raises `UsageError` for a bad one."""
        return type(self).from_values(self.command, {**self.values, **changes}, self.user)

    def with_recipe(self, name: str, reason: str) -> Self:
        """This plan with a recipe instead of `auto`. Raises `UsageError` for a setting of another method."""
        user = [*self.user, (Origin(OriginKind.RULE, reason), {"recipe": name})]
        return type(self).from_values(self.command, merge_run(self.command, user), user)

    def config(self) -> dict[str, Any]:
        """Every setting's value, ready for YAML and JSON, without `LOCATION_SETTINGS`, and what was `CHOSEN`.

        Passing it to `--config` reproduces this plan.
        """
        chosen = [name for name, one in self.values.items() if one.origin.is_user and name not in LOCATION_SETTINGS]
        values = {name: one.value for name, one in self.values.items() if name not in LOCATION_SETTINGS}
        settings = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        return settings | {CHOSEN: chosen}


@dataclass(frozen=True)
class ResolvedConfig(Plan):
    """A plan with nothing left open: every `Auto` setting has a value. Training takes nothing else."""

    def __post_init__(self) -> None:
        names = [name for section in self.sections for name in auto_field_names(type(section))]
        if missing := [flag_name(name) for name in names if self.values[name].value is None]:
            raise UsageError(f"No rule gives a value for {', '.join(missing)}.", remedy="Give one.")


def plan_pretrain(chosen: Chosen, file: Chosen | None = None, file_name: str = "--config") -> Plan:
    """The plan of `lwcl pretrain`; see `plan_run`."""
    return plan_run("pretrain", chosen, file, file_name)


def plan_run(command: TrainCommand, chosen: Chosen, file: Chosen | None = None, file_name: str = "--config") -> Plan:
    """The plan of a command that trains, from flags and the settings of a file; None means not given.

    Raises `UsageError` for an unknown name, a value outside its limits, a setting of another method, or a method
    without the teacher that it needs.
    """
    user = [
        (origin, {name: value for name, value in values.items() if (name, value) != ("recipe", AUTO)})
        for origin, values in run_layers(chosen, file or {}, file_name)
    ]  # `auto` is what happens without a choice
    plan = Plan.from_values(command, merge_run(command, user), user)
    check_teacher_options(plan.options, plan.method)
    if plan.options.minutes is not None and plan.origins["epochs"].is_user:
        what = f"--minutes settles the number of epochs, but --epochs {plan.optimization.epochs:g} is given too"
        where = "" if plan.origins["epochs"] == FLAG else f", by {plan.origins['epochs']}"
        raise UsageError(f"{what}{where}.", remedy="Remove one of them.")
    check_clip(plan.options)
    return plan


def run_layers(chosen: Chosen, file: Chosen, file_name: str) -> list[Layer]:
    """Flags, then the settings of a file; of a run's config.yaml only what was chosen, unless flags change nothing that
    other settings depend on.

    So `--epochs 200` recomputes the warm-up, and `--augmentation` applies all its values.
    """
    settings = {name: value for name, value in file.items() if name not in (CHOSEN, IMAGES, WEIGHTS)}
    if CHOSEN not in file:
        return user_layers(chosen, settings, file_name)
    names = file[CHOSEN]
    if not isinstance(names, list) or not all(name in settings for name in names):
        what = f"{file_name}: {CHOSEN} lists names that are no settings in it: {names!r}."
        raise UsageError(what, remedy=f"Remove {CHOSEN} to use all values as they are.")
    layers = user_layers(chosen, {name: settings[name] for name in names}, file_name)
    changed = {
        name
        for name, value in chosen.items()
        if value is not None and not flag_matches_stored(value, settings.get(name))
    }
    if changed <= INDEPENDENT_SETTINGS:
        layers.append((Origin(OriginKind.REPEATED, file_name), settings))
    return layers


def flag_matches_stored(flag: Any, stored: Any) -> bool:
    """Whether a flag's text says what a file says."""
    if isinstance(stored, int | float) and not isinstance(stored, bool):
        with contextlib.suppress(TypeError, ValueError):
            return float(flag) == stored
    one, other = ([*map(str, value)] if isinstance(value, list | tuple) else str(value) for value in (flag, stored))
    return one == other


def merge_run(command: TrainCommand, user: Sequence[Layer]) -> dict[str, SettingValue]:
    """Every setting of a run from what the user chose, its recipe, its augmentation and the defaults."""
    cls = TRAIN_OPTIONS[command]
    known = (cls, Optimization, Augmentation, *methods(command).values())
    check_names(user, all_field_names(known))
    reject_empty_values(user, known)
    # 1. Only architecture, method, recipe and data decide which recipe applies.
    chosen = build_settings(cls, merge_layers(cls, user))
    check_arch(chosen.arch)
    layers = [*user, *data_layers(chosen.data), *recipe_layers(command, merge_layers(cls, user)["recipe"], chosen)]
    # 2. With the recipe, the method and the named augmentation are known.
    options = merge_layers(cls, layers)
    method = method_named(options["method"].value, command)
    classes: tuple[type[Settings], ...] = (cls, Optimization, method, Augmentation)
    check_method_settings(user, all_field_names(classes), method)
    layers += augmentation_layers(options["augmentation"].value)
    return {name: value for one in classes for name, value in merge_layers(one, layers).items()}


def data_layers(data: tuple[str, ...]) -> list[Layer]:
    """The settings that a data set needs: a mirrored or half-cropped digit is another digit."""
    return [(Origin(OriginKind.DATA, "digits"), {"augmentation": "digits"})] if data == ("digits",) else []


def recipe_layers(command: TrainCommand, recipe: SettingValue, chosen: TrainOptions) -> list[Layer]:
    """The layers of the chosen recipe, or of the first recipe for the chosen method.

    `auto` is planned as for a small data set, until the number of images is known. A method without a recipe is
    optimized like it, and keeps its own hyperparameters.
    """
    auto = AUTO_RECIPES[command].small
    if recipe.value == AUTO and chosen.method is not None:
        method = method_named(chosen.method, command)
        name = next((name for name, one in RECIPES.items() if one.method == method.name), auto)
        origin, values = recipe_named(name, command).layer(name, chosen.arch)
        if RECIPES[name].method != method.name:
            values = {key: value for key, value in values.items() if key not in field_names(method)}
        return [(Origin(OriginKind.METHOD, method.name), {"recipe": name}), (origin, values)]
    name = auto if recipe.value == AUTO else recipe.value
    published = recipe_named(name, command)
    origin, values = published.layer(name, chosen.arch)
    return [(origin, {**values, "method": published.method})]


def augmentation_layers(name: str | None) -> list[Layer]:
    """The layer of a named augmentation, if there is one; raises `UsageError` with the nearest names."""
    if name is None:
        return []
    if name not in AUGMENTATIONS:
        raise unknown_name_error("augmentation", name, AUGMENTATIONS, "`lwcl list augmentations` shows them all.")
    return [(Origin(OriginKind.AUGMENTATION, name), AUGMENTATIONS[name])]


def plan_first_stage(plan: Plan, out: Path) -> Plan | None:
    """The plan of the stage that `--init-by` asks for, in the folder `out`, or None without it.

    ssl-small (arXiv 2107.14762) starts from a SEED student of two epochs; its queue and head are not taken over here.
    """
    options = plan.options
    if not isinstance(options, PretrainOptions) or not options.init_by:
        return None
    stage = parse_init_by(options.init_by)
    shared = (name for name in field_names(TrainOptions) if name not in NOT_INHERITED)
    chosen = {name: plan.values[name].value for name in shared if plan.values[name].origin is not DEFAULT}
    chosen |= {"method": stage.method, "epochs": stage.epochs, "out": str(out)}
    return plan_run(METHODS[stage.method].command, chosen)
