"""The program `lwcl` without its commands, and the flags that several commands share.

Parsing imports neither torch nor timm: what a command does is imported inside the command.
"""

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer
from typer import Argument, Option

import lwcl
from lwcl.cli.help import ALL_FLAGS, CONTEXT_SETTINGS, PlainCommand, PlainGroup
from lwcl.settings import expand_home

F = TypeVar("F", bound=Callable[..., Any])

app = typer.Typer(
    cls=PlainGroup,
    context_settings=CONTEXT_SETTINGS,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

DRY_RUN_HELP = "print all settings, the cost and the estimated time; write nothing"
FAST_DEV_RUN_HELP = "train only this many steps, then finish as usual: a quick check"
CONFIG_HELP = "YAML file of settings, such as the config.yaml of a run; flags override it"
ConfigFile = Annotated[
    str | None, Option("--config", metavar="FILE", help=CONFIG_HELP, rich_help_panel="Run", callback=expand_home)
]
DryRun = Annotated[bool, Option("--dry-run", help=DRY_RUN_HELP, rich_help_panel="Run")]
FastDevRun = Annotated[
    int | None, Option("--fast-dev-run", metavar="INT", min=1, help=FAST_DEV_RUN_HELP, rich_help_panel="Run")
]
ENCODER_HELP = (
    "run folder, .safetensors, ONNX file, third-party checkpoint (FILE or FILE#teacher), timm/NAME (from its cache), "
    "hf-hub:USER/NAME or random/NAME"
)
Encoders = Annotated[list[str], Argument(metavar="ENCODER", help=ENCODER_HELP, callback=expand_home)]
Arch = Annotated[str | None, Option("--arch", metavar="NAME", help="architecture, if the checkpoint does not state it")]
Json = Annotated[bool, Option("--json", help="print one JSON document on stdout", rich_help_panel="Screen")]
Quiet = Annotated[bool, Option("--quiet", help="print results and errors only", rich_help_panel="Screen")]


def show_all(context: typer.Context, wanted: bool) -> None:
    """Prints the help of a command with all its flags, if asked to."""
    if wanted:
        context.meta[ALL_FLAGS] = True
        typer.echo(context.get_help())
        raise typer.Exit


HELP_ALL = "show all flags, by group, each group with an example"
HelpAll = Annotated[bool, Option("--help-all", help=HELP_ALL, is_eager=True, callback=show_all, expose_value=False)]
Debug = Annotated[bool, Option("--debug", help="show the traceback of an error", rich_help_panel="Screen")]


def command(example: str, name: str | None = None) -> Callable[[F], F]:
    """Registers a command whose help ends with an example."""
    return app.command(name, cls=PlainCommand, context_settings=CONTEXT_SETTINGS, epilog=f"Example: {example}")


def print_version(wanted: bool) -> None:
    """Prints the version and exits, if asked to."""
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


def read_config_flag(path: str | None) -> tuple[dict[str, Any], str]:
    """The settings in the file of --config, and its name."""
    if path is None:
        return {}, "--config"
    from lwcl.config.yaml_file import read_config  # PyYAML takes 20 ms

    return read_config(path), path
