"""The program `lwcl`: its commands, and the one place where errors become sentences and exit codes.

Parsing imports neither torch nor timm: what a command does is imported inside the command.
"""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

import typer
from typer import Argument, Option

import lwcl
from lwcl.augmentation import Augmentation
from lwcl.catalogue import CATALOGUES, arch_named, listed, table
from lwcl.chosen import settings_of
from lwcl.commands import TRAINING, KnnOptions
from lwcl.errors import LwclError
from lwcl.failures import bug, usage
from lwcl.help import CONTEXT, Command, Group
from lwcl.memory import enough_memory
from lwcl.method import Verb, methods
from lwcl.options import completer, with_options
from lwcl.plan import plan_run
from lwcl.recipes import Recipe
from lwcl.wording import harmless, harmless_lines, json_document

F = TypeVar("F", bound=Callable[..., Any])

app = typer.Typer(
    cls=Group,
    context_settings=CONTEXT,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

DRY = "show the settled settings, the cost and the time it will take; write nothing"
FAST = "go through everything in this many steps"
FILE = "YAML file of settings, such as the config.yaml of a run; flags win over it"
File = Annotated[str | None, Option("--config", metavar="FILE", help=FILE, rich_help_panel="Run")]
DryRun = Annotated[bool, Option("--dry-run", help=DRY, rich_help_panel="Run")]
Steps = Annotated[int | None, Option("--fast-dev-run", metavar="INT", min=1, help=FAST, rich_help_panel="Run")]
PATTERN = "part of a name, or a pattern such as '*vit*'"
ENCODER = "run folder, encoder.safetensors, timm/NAME (from the local cache) or random/NAME"
Json = Annotated[bool, Option("--json", help="print one JSON document on stdout", rich_help_panel="Screen")]
Quiet = Annotated[bool, Option("--quiet", help="print results and errors only", rich_help_panel="Screen")]
Debug = Annotated[bool, Option("--debug", help="show the traceback of an error", rich_help_panel="Screen")]


def command(example: str, name: str | None = None) -> Callable[[F], F]:
    """Registers a command whose help ends with an example."""
    return app.command(name, cls=Command, context_settings=CONTEXT, epilog=f"Example: {example}")


def print_version(wanted: bool) -> None:
    """Prints the version and ends, if that is wanted."""
    if wanted:
        typer.echo(f"lwcl {lwcl.__version__}")
        raise typer.Exit


@app.callback(epilog="Example: lwcl pretrain")
def program(
    version: Annotated[
        bool, Option("--version", callback=print_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """Train small vision encoders from images without labels."""


def training(verb: Verb, example: str, about: str) -> None:
    """Registers a command that trains by the methods of `verb`."""
    bare = plan_run(verb, {} if verb == "pretrain" else {"teacher": "timm/resnet50"}).settled

    @command(example, verb)
    @with_options(TRAINING[verb], Recipe, *methods(verb).values(), Augmentation, settled=bare)
    def train(
        context: typer.Context,
        config: File = None,
        dry_run: DryRun = False,
        fast_dev_run: Steps = None,
        as_json: Json = False,
        quiet: Quiet = False,
        debug: Debug = False,
        **chosen: Any,
    ) -> int:
        plan = plan_run(verb, chosen, *file_layer(config))
        from lwcl import run

        with enough_memory(plan.settled, context.obj):
            return run.train_run(plan, dry_run=dry_run, fast_dev_run=fast_dev_run, as_json=as_json, quiet=quiet)

    app.registered_commands[-1].help = about


training(
    "pretrain",
    "lwcl pretrain --data photos/ --arch efficientnet_b0 --out runs/mine",
    "Train an encoder from images without labels.\n\n"
    "Without --data it trains on embedded images: no network, and no more than minutes.",
)
training(
    "distill",
    "lwcl distill --data photos/ --arch mobilenetv3_small_100 --teacher r50.safetensors",
    "Train an encoder to embed images as a teacher does (DisCo, SEED).",
)
training(
    "compress",
    "lwcl compress --data photos/ --arch resnet18 --teacher r50.safetensors --method 1q",
    "Train an encoder to find images as alike as a teacher does (CompRess).",
)


@command("lwcl knn runs/mine --data labelled/")
@with_options(KnnOptions)
def knn(
    encoders: Annotated[list[str], Argument(metavar="ENCODER", help=ENCODER)],
    config: File = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    **chosen: Any,
) -> int:
    """Judge encoders by the labels of their nearest neighbours."""
    options = settings_of(KnnOptions, chosen, *file_layer(config))
    if options.arch is not None:
        arch_named(options.arch)
    from lwcl import judge

    return judge.knn(encoders, options, as_json=as_json, quiet=quiet)


@command("lwcl list archs mobilenet", "list")
def show(
    what: Annotated[str, Argument(metavar="|".join(CATALOGUES), autocompletion=completer(lambda: CATALOGUES))],
    pattern: Annotated[str, Argument(metavar="PATTERN", help=PATTERN, show_default=False)] = "",
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Show what there is to choose from.

    A single match is shown with its settings and their sources.
    """
    entries = listed(what, pattern)
    document = {"schema_version": 1, what: [entry._asdict() for entry in entries]}
    typer.echo(json_document(document) if as_json else table(entries))
    return 0


@command("lwcl doctor --data photos/")
def doctor(
    data: Annotated[
        list[str] | None, Option("--data", metavar="TEXT", help="images to look at too", rich_help_panel="Data")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Examine this machine, the installation and, if given, images."""
    from lwcl import doctor as examination

    return examination.examine(tuple(data or ()), as_json)


def file_layer(path: str | None) -> tuple[dict[str, Any], str]:
    """The settings of the file given to --config, and its name."""
    if path is None:
        return {}, "--config"
    from lwcl.config_file import read_config  # PyYAML takes 20 ms

    return read_config(path), path


PROGRAM: Any = typer.main.get_command(app)
COMMANDS = list(PROGRAM.commands)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit code: 0, or that of the error that it told on stderr."""
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        code = PROGRAM.main(words, prog_name="lwcl", standalone_mode=False, obj=words)
        return code if isinstance(code, int) else 0
    except LwclError as error:
        return tell(error, "\n".join(harmless(line) for line in error.args if line), words)
    except typer.TyperException as error:
        return tell(error, usage(error, words, COMMANDS), words)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        return tell(error, bug(error), words)


def tell(error: Exception, text: str, words: Sequence[str]) -> int:
    """Prints an error on stderr, with its traceback if --debug is among the words; returns its exit code.

    Names of files may hold control characters and markup: they are written as escapes, and as they are.
    """
    if "--debug" in words:
        traceback.print_exception(error)
    first, *rest = harmless_lines(text).split("\n")
    red = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    typer.echo("\n".join([typer.style(first, fg="red", bold=True) if red else first, *rest]), err=True)
    return getattr(error, "exit_code", 1)
