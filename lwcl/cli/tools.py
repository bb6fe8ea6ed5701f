"""The other commands: `list`, `doctor`, `convert`, `export`, `verify`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from lwcl.cli.app import ENCODER_HELP, Arch, Debug, Json, Quiet, command
from lwcl.cli.options import completer, with_options
from lwcl.config.catalogue import CATALOGUES, find_entries, format_entries
from lwcl.config.train_options import MAX_IMAGE_SIZE, DataOptions
from lwcl.config.validation import parse_options
from lwcl.formatting import SCHEMA_VERSION, json_document
from lwcl.settings import expand_home

PATTERN_HELP = "part of a name, or a pattern such as '*vit*'"


@command("lwcl list archs mobilenet", "list")
def list_command(
    what: Annotated[str, Argument(metavar="|".join(CATALOGUES), autocompletion=completer(lambda: CATALOGUES))],
    pattern: Annotated[str, Argument(metavar="PATTERN_HELP", help=PATTERN_HELP, show_default=False)] = "",
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """List architectures, teachers, methods, recipes, augmentations, protocols or data sets.

    A single match is shown with its settings and their sources.
    """
    entries = find_entries(what, pattern)
    document = {"schema_version": SCHEMA_VERSION, what: [entry._asdict() for entry in entries]}
    typer.echo(json_document(document) if as_json else format_entries(entries))
    return 0


@command("lwcl doctor --data photos/", "doctor")
@with_options(DataOptions)
def doctor_command(as_json: Json = False, debug: Debug = False, **chosen: Any) -> int:
    """Check this machine, the installation and, if given, images."""
    options = parse_options(DataOptions, chosen)
    from lwcl.commands.doctor import run_doctor

    return run_doctor(options, as_json=as_json)


@command("lwcl convert moco_v2_800ep.pth.tar runs/teacher", "convert")
def convert_command(
    source: Annotated[str, Argument(metavar="CHECKPOINT", help=ENCODER_HELP, callback=expand_home)],
    out: Annotated[str, Argument(metavar="OUT", help="new folder, or file NAME.safetensors", callback=expand_home)],
    arch: Arch = None,
    image_size: Annotated[
        int | None,
        Option("--image-size", metavar="INT", min=16, max=MAX_IMAGE_SIZE, help="input size in pixels [from training]"),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Import a third-party checkpoint, checked tensor by tensor."""
    from lwcl.commands.convert import convert

    return convert(source, Path(out), arch, image_size, as_json=as_json, quiet=quiet)


@command("lwcl verify runs/mine", "verify")
def verify_command(
    run: Annotated[str, Argument(metavar="RUN", help="folder of a run", callback=expand_home)],
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Check that the checkpoints, the encoder and the export of a run are intact."""
    from lwcl.commands.verify import verify

    return verify(run, as_json=as_json)
