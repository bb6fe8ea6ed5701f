"""The commands that train: `pretrain`, `distill`, `compress`."""

from typing import Any

import typer

from lwcl.cli.app import ConfigFile, Debug, DryRun, FastDevRun, Json, Quiet, app, command, read_config_flag
from lwcl.cli.options import with_options
from lwcl.config.augmentation import Augmentation
from lwcl.config.plan import plan_run
from lwcl.config.recipes import Recipe
from lwcl.config.train_options import TRAIN_OPTIONS
from lwcl.methods.method import Verb, methods
from lwcl.system.out_of_memory import explain_out_of_memory


def register_training(verb: Verb, example: str, about: str) -> None:
    """Registers a command that trains by the methods of `verb`."""
    bare = plan_run(verb, {} if verb == "pretrain" else {"teacher": "timm/resnet50"}).settled

    @command(example, verb)
    @with_options(TRAIN_OPTIONS[verb], Recipe, *methods(verb).values(), Augmentation, settled=bare)
    def train(
        context: typer.Context,
        config: ConfigFile = None,
        dry_run: DryRun = False,
        fast_dev_run: FastDevRun = None,
        as_json: Json = False,
        quiet: Quiet = False,
        debug: Debug = False,
        **chosen: Any,
    ) -> int:
        plan = plan_run(verb, chosen, *read_config_flag(config))
        from lwcl.commands import train as run

        with explain_out_of_memory(plan.settled, context.obj):
            return run.train_run(plan, dry_run=dry_run, fast_dev_run=fast_dev_run, as_json=as_json, quiet=quiet)

    app.registered_commands[-1].help = about


register_training(
    "pretrain",
    "lwcl pretrain --data photos/ --arch efficientnet_b0 --out runs/mine",
    "Train an encoder from images without labels.\n\n"
    "Without --data it trains on embedded images: no network, and no more than minutes.",
)
register_training(
    "distill",
    "lwcl distill --data photos/ --arch mobilenetv3_small_100 --teacher r50.safetensors",
    "Train an encoder to embed images as a teacher does (DisCo, SEED).",
)
register_training(
    "compress",
    "lwcl compress --data photos/ --arch resnet18 --teacher r50.safetensors --method 1q",
    "Train an encoder to find images as alike as a teacher does (CompRess).",
)
