"""The commands that take an encoder to a device: `export`, `embed`, `search`, `bench`."""

from typing import Annotated, Any

from typer import Argument

from lwcl.cli.app import ENCODER_HELP, Debug, Json, Quiet, command
from lwcl.cli.options import with_options
from lwcl.config.device_options import ExportOptions
from lwcl.config.validation import parse_options
from lwcl.models.archs import check_arch

Encoder = Annotated[str, Argument(metavar="ENCODER", help=ENCODER_HELP)]


@command("lwcl export runs/mine --format onnx --int8")
@with_options(ExportOptions)
def export(encoder: Encoder, as_json: Json = False, quiet: Quiet = False, debug: Debug = False, **chosen: Any) -> int:
    """Write an encoder's backbone for timm, and as an ONNX file in float32 and int8.

    Each ONNX file is run by onnxruntime and compared with the network before it is kept.
    """
    options = parse_options(ExportOptions, chosen)
    if options.arch is not None:
        check_arch(options.arch)
    from lwcl.commands import export

    return export.run_export(encoder, options, as_json=as_json, quiet=quiet)
