"""`lwcl convert`: imports a third-party checkpoint, as an lwcl encoder and a folder for plain timm."""

from pathlib import Path
from typing import Any

from lwcl.checkpoints.encoder_file import save_encoder
from lwcl.checkpoints.export_folder import export_encoder, usage_text
from lwcl.checkpoints.load import load_encoder, resolve_encoder_file
from lwcl.checkpoints.onnx_encoder import reject_onnx
from lwcl.errors import UsageError
from lwcl.formatting import SCHEMA_VERSION, format_cell
from lwcl.models.loaded import InputSpec, LoadedEncoder
from lwcl.models.probe import check_weights_finite
from lwcl.reporting.console import Screen, print_json, print_table
from lwcl.system.atomic_files import sha256_file

ENCODER_SUFFIX = ".safetensors"
MAX_NAMES_SHOWN = 5  # tensor names in the table; --json has them all


def convert(
    source: str, out: Path, arch: str | None, image_size: int | None, *, as_json: bool = False, quiet: bool = False
) -> int:
    """Writes OUT/encoder.safetensors and OUT/export, or OUT alone if it is called *.safetensors; returns the exit code.

    Prints how the checkpoint was interpreted. Raises `UsageError` where it cannot be read, or where OUT exists.
    """
    file, export = output_paths(out)
    for path in (file, export):
        if path is not None and (path.exists() or path.is_symlink()):
            raise UsageError(f"{path} already exists.", remedy="Give another name, or remove it first.")
    loaded = load_encoder(source, arch=arch, image_size=image_size)
    reject_onnx(loaded)
    check_weights_finite(loaded.name, loaded.encoder)
    metadata = (
        {**loaded.metadata, "sha256": sha256_file(resolve_encoder_file(source)[0])}
        if "file" in loaded.metadata
        else loaded.metadata
    )
    save_encoder(file, loaded.encoder, loaded.input_spec, metadata)
    if export is not None:
        export_encoder(export, loaded.encoder, loaded.input_spec, loaded.metadata)
    summary = conversion_summary(loaded) | {"encoder": str(file), "export": None if export is None else str(export)}
    if as_json:
        print_json({"schema_version": SCHEMA_VERSION, **summary})
    else:
        print_table("", ("Field", "Value"), [(name, format_cell(abbreviate(value))) for name, value in summary.items()])
    if export is not None:
        Screen(quiet=quiet).say(usage_text(export, loaded.encoder))
    return 0


def output_paths(out: Path) -> tuple[Path, Path | None]:
    """The paths of the encoder and of its export to timm, which a single file has not."""
    return (out, None) if out.suffix == ENCODER_SUFFIX else (out / "encoder.safetensors", out / "export")


def conversion_summary(loaded: LoadedEncoder) -> dict[str, Any]:
    """How a checkpoint was interpreted: its layout, architecture, tensors, head and input."""
    metadata, encoder = loaded.metadata, loaded.encoder
    return {
        "source": loaded.name,
        "layout": metadata.get("layout", metadata.get("origin", "lwcl")),
        "architecture": encoder.arch,
        "arguments": encoder.arguments,
        "tensors matched": metadata.get("matched", len(encoder.backbone.state_dict())),
        "tensors missing": metadata.get("missing", ()),
        "tensors ignored": metadata.get("unexpected", ()),
        "width": encoder.width,
        "head": encoder.head_layers,
        "input": describe_input(loaded.input_spec),
    }


def describe_input(spec: InputSpec) -> str:
    """The input of an encoder as text."""
    mean, std = (" ".join(f"{value:g}" for value in values) for values in (spec.mean, spec.std))
    return f"{spec.size} px, mean {mean}, std {std}"


def abbreviate(value: Any) -> Any:
    """A value of the table: long lists shortened, arguments as name=value."""
    if isinstance(value, dict):
        return ", ".join(f"{name}={one}" for name, one in value.items())
    if isinstance(value, list | tuple) and len(value) > MAX_NAMES_SHOWN:
        return [*value[:MAX_NAMES_SHOWN], f"and {len(value) - MAX_NAMES_SHOWN} more"]
    return value
