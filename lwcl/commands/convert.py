"""`lwcl convert`: an encoder of other code, checked tensor by tensor, as an lwcl encoder and a plain timm folder."""

from pathlib import Path
from typing import Any

from lwcl.checkpoints.encoder_file import export_timm, save_encoder, timm_snippet
from lwcl.checkpoints.load import load_encoder, resolve_encoder_file
from lwcl.errors import UsageError
from lwcl.formatting import format_cell
from lwcl.models.loaded import InputSpec, LoadedEncoder
from lwcl.reporting.console import Screen, print_json, print_table
from lwcl.system.atomic_files import sha256_file

ENCODER_SUFFIX = ".safetensors"
MAX_NAMES_SHOWN = 5  # names of a kind in the table; --json has them all


def convert(
    source: str, out: Path, arch: str | None, image_size: int | None, *, as_json: bool = False, quiet: bool = False
) -> int:
    """Writes OUT/encoder.safetensors and OUT/export, or OUT alone if it is called *.safetensors; gives the exit code.

    Prints how the source was understood. Raises `UsageError` where it cannot be had, or where something is there.
    """
    file, export = output_paths(out)
    for place in (file, export):
        if place is not None and (place.exists() or place.is_symlink()):
            raise UsageError(f"{place}: is there already.", remedy="Give another name, or remove it first.")
    loaded = load_encoder(source, arch=arch, image_size=image_size)
    facts = (
        {**loaded.metadata, "sha256": sha256_file(resolve_encoder_file(source)[0])}
        if "file" in loaded.metadata
        else loaded.metadata
    )
    save_encoder(file, loaded.encoder, loaded.input_spec, facts)
    if export is not None:
        export_timm(export, loaded.encoder, loaded.input_spec)
    told = conversion_summary(loaded) | {"encoder": str(file), "export": None if export is None else str(export)}
    if as_json:
        print_json({"schema_version": 1, **told})
    else:
        print_table("", ("What", "Found"), [(name, format_cell(abbreviate(value))) for name, value in told.items()])
    if export is not None:
        Screen(quiet=quiet).say(f"Use it in plain timm:\n{timm_snippet(export, loaded.encoder.width)}")
    return 0


def output_paths(out: Path) -> tuple[Path, Path | None]:
    """Where the encoder goes, and where its export to timm: nowhere for a single file."""
    return (out, None) if out.suffix == ENCODER_SUFFIX else (out / "encoder.safetensors", out / "export")


def conversion_summary(loaded: LoadedEncoder) -> dict[str, Any]:
    """How an encoder was understood: what its file is, what was found in it, what it takes and gives."""
    facts, encoder = loaded.metadata, loaded.encoder
    return {
        "source": loaded.name,
        "layout": facts.get("layout", facts.get("origin", "lwcl")),
        "architecture": encoder.arch,
        "arguments": encoder.arguments,
        "tensors matched": facts.get("matched", len(encoder.backbone.state_dict())),
        "tensors missing": facts.get("missing", ()),
        "tensors left out": facts.get("unexpected", ()),
        "width": encoder.width,
        "head": encoder.head_layers,
        "images": describe_input(loaded.input_spec),
    }


def describe_input(images: InputSpec) -> str:
    """The images an encoder takes, in words."""
    mean, std = (" ".join(f"{value:g}" for value in values) for values in (images.mean, images.std))
    return f"{images.size} pixels, mean {mean}, std {std}"


def abbreviate(value: Any) -> Any:
    """A value of the table: long lists cut, settings written as such."""
    if isinstance(value, dict):
        return ", ".join(f"{name}={one}" for name, one in value.items())
    if isinstance(value, list | tuple) and len(value) > MAX_NAMES_SHOWN:
        return [*value[:MAX_NAMES_SHOWN], f"and {len(value) - MAX_NAMES_SHOWN} more"]
    return value
