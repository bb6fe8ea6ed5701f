"""The small commands: what there is, this machine, files of other code, exports, and whether a run is whole."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from lwcl.cli.app import ENCODER_HELP, Arch, Debug, Json, Quiet, command
from lwcl.cli.options import completer
from lwcl.config.catalogue import CATALOGUES, find_entries, format_entries
from lwcl.formatting import json_document

PATTERN_HELP = "part of a name, or a pattern such as '*vit*'"


@command("lwcl list archs mobilenet", "list")
def show(
    what: Annotated[str, Argument(metavar="|".join(CATALOGUES), autocompletion=completer(lambda: CATALOGUES))],
    pattern: Annotated[str, Argument(metavar="PATTERN_HELP", help=PATTERN_HELP, show_default=False)] = "",
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Show what there is to choose from.

    A single match is shown with its settings and their sources.
    """
    entries = find_entries(what, pattern)
    document = {"schema_version": 1, what: [entry._asdict() for entry in entries]}
    typer.echo(json_document(document) if as_json else format_entries(entries))
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
    from lwcl.commands import doctor as examination

    return examination.run_doctor(tuple(data or ()), as_json)


@command("lwcl convert moco_v2_800ep.pth.tar runs/teacher")
def convert(
    source: Annotated[str, Argument(metavar="FOREIGN", help=ENCODER_HELP)],
    out: Annotated[str, Argument(metavar="OUT", help="folder to make, or a file NAME.safetensors")],
    arch: Arch = None,
    image_size: Annotated[
        int | None, Option("--image-size", metavar="INT", min=16, help="pixels of an image [what it was trained on]")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Make a checkpoint of other code an encoder of lwcl, checked tensor by tensor."""
    from lwcl.commands import convert

    return convert.convert(source, Path(out), arch, image_size, as_json=as_json, quiet=quiet)


@command("lwcl export runs/mine --out mine-for-timm")
def export(
    encoder: Annotated[str, Argument(metavar="ENCODER_HELP", help=ENCODER_HELP)],
    out: Annotated[str | None, Option("--out", metavar="TEXT", help="folder to make [the run's export]")] = None,
    arch: Arch = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Write an encoder's backbone so that plain timm loads it."""
    from lwcl.commands import export

    return export.export(encoder, out, arch, quiet=quiet)


@command("lwcl verify runs/mine")
def verify(
    run: Annotated[str, Argument(metavar="RUN", help="folder of a run")],
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Check that a run's checkpoints, encoder and export are whole."""
    from lwcl.commands import export

    return export.verify(run, as_json=as_json)
