"""The commands that train: `pretrain`, `distill`, `compress`."""

import functools
from collections.abc import Callable
from typing import Any

import typer

from lwcl.cli.app import ConfigFile, Debug, DryRun, F, FastDevRun, HelpAll, Json, Quiet, command, read_config_flag
from lwcl.cli.options import with_options
from lwcl.config.augmentation import Augmentation
from lwcl.config.plan import merge_run, plan_run
from lwcl.config.recipes import Optimization
from lwcl.config.train_options import TRAIN_OPTIONS
from lwcl.methods.method import TrainCommand, methods
from lwcl.system.out_of_memory import explain_out_of_memory
from lwcl.system.ranks import current_ranks


def train(
    command: TrainCommand,
    /,
    context: typer.Context,
    config: ConfigFile = None,
    dry_run: DryRun = False,
    fast_dev_run: FastDevRun = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    help_all: HelpAll = False,
    **chosen: Any,
) -> int:
    """Plans and trains a run; returns the exit code."""
    given = (chosen, *read_config_flag(config))
    if command == "compress":
        from lwcl.runs.twin import with_twin  # PyYAML takes 20 ms

        given = with_twin(*given)
    plan = plan_run(command, *given)
    if (plan.options.devices or 1) > 1 and current_ranks().world_size == 1 and not dry_run:
        from lwcl.commands.launch import launch

        return launch(context.obj, plan.options.devices)
    from lwcl.commands.train import train_run

    with explain_out_of_memory(plan.values, context.obj):
        return train_run(plan, dry_run=dry_run, fast_dev_run=fast_dev_run, as_json=as_json, quiet=quiet)


def with_train_options(command: TrainCommand) -> Callable[[F], F]:
    """Gives a command the flags of `train` and all settings of the methods of that command."""
    classes = (TRAIN_OPTIONS[command], Optimization, *methods(command).values(), Augmentation)
    return with_options(*classes, flags=train, values=functools.partial(merge_run, command, []))


@command("lwcl pretrain --data photos/ --arch efficientnet_b0 --out runs/mine")
@with_train_options("pretrain")
def pretrain(**words: Any) -> int:
    """Train an encoder on images without labels.

    Without --data it trains on built-in images: no download, a few minutes.
    """
    return train("pretrain", **words)


@command("lwcl distill --data photos/ --arch mobilenetv3_small_100 --teacher r50.safetensors")
@with_train_options("distill")
def distill(**words: Any) -> int:
    """Train an encoder to match the embeddings of a teacher (DisCo, SEED)."""
    return train("distill", **words)


@command("lwcl compress --data photos/ --arch resnet18 --teacher r50.safetensors --method 1q")
@with_train_options("compress")
def compress(**words: Any) -> int:
    """Compress a teacher into a small encoder: CompRess, feature regression, cluster classification."""
    return train("compress", **words)
