"""The commands that take an encoder to a device: `export`, `embed`, `search`, `bench`."""

from typing import Annotated, Any

from typer import Argument

from lwcl.cli.app import ENCODER_HELP, Debug, Encoders, Json, Quiet, command
from lwcl.cli.options import with_options
from lwcl.config.device_options import BenchOptions, EmbedOptions, ExportOptions, SearchOptions
from lwcl.config.validation import parse_options
from lwcl.models.archs import check_arch
from lwcl.settings import expand_home

IMAGE_HELP = "an image file, or the name of an image in the embeddings"
Encoder = Annotated[str, Argument(metavar="ENCODER", help=ENCODER_HELP, callback=expand_home)]


@command("lwcl export runs/mine --format onnx --int8", "export")
@with_options(ExportOptions)
def export_command(
    encoder: Encoder, as_json: Json = False, quiet: Quiet = False, debug: Debug = False, **chosen: Any
) -> int:
    """Write an encoder's backbone for timm, and as an ONNX file in float32 and int8.

    Each ONNX file is run by onnxruntime and compared with the network before it is kept.
    """
    options = parse_options(ExportOptions, chosen)
    if options.arch is not None:
        check_arch(options.arch)
    from lwcl.commands import export

    return export.run_export(encoder, options, as_json=as_json, quiet=quiet)


@command("lwcl embed runs/mine --data photos/ --out photos.npy", "embed")
@with_options(EmbedOptions)
def embed_command(
    encoder: Encoder, as_json: Json = False, quiet: Quiet = False, debug: Debug = False, **chosen: Any
) -> int:
    """Write the embeddings of images to a file, one row an image.

    An interrupted command continues where it stopped when it is given again.
    """
    options = parse_options(EmbedOptions, chosen)
    if options.arch is not None:
        check_arch(options.arch)
    from lwcl.commands import embed

    return embed.run_embed(encoder, options, as_json=as_json, quiet=quiet)


@command("lwcl search query.jpg --in photos.npy", "search")
@with_options(SearchOptions)
def search_command(
    image: Annotated[str, Argument(metavar="IMAGE", help=IMAGE_HELP, show_default=False, callback=expand_home)] = "",
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    **chosen: Any,
) -> int:
    """Find the images most similar to one, near-duplicates, or outliers, in a file of embeddings."""
    options = parse_options(SearchOptions, chosen)
    from lwcl.commands import search
    from lwcl.runs.guard import reject_run_folder  # PyYAML takes 20 ms

    reject_run_folder(options.out)
    return search.run_search(image, options, as_json=as_json, quiet=quiet)


@command("lwcl bench runs/mine runs/mine/export/model-int8.onnx --data labelled/", "bench")
@with_options(BenchOptions)
def bench_command(
    encoders: Encoders, as_json: Json = False, quiet: Quiet = False, debug: Debug = False, **chosen: Any
) -> int:
    """Compare encoders by latency, size, memory and accuracy: PyTorch, ONNX and int8 files side by side."""
    options = parse_options(BenchOptions, chosen)
    if options.arch is not None:
        check_arch(options.arch)
    from lwcl.commands import bench
    from lwcl.runs.guard import reject_run_folder  # PyYAML takes 20 ms

    reject_run_folder(options.out)
    return bench.run_bench(encoders, options, as_json=as_json, quiet=quiet)
