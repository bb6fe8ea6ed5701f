"""Loads the encoder that a user names: a run, an encoder file, a timm model or a third-party checkpoint."""

import dataclasses
import os
from pathlib import Path

from lwcl.checkpoints.encoder_file import read_encoder_file
from lwcl.checkpoints.foreign.importer import import_encoder, load_timm_encoder
from lwcl.checkpoints.foreign.safe_reading import is_lwcl_file
from lwcl.checkpoints.hub import HUB_PREFIX, download_model
from lwcl.checkpoints.onnx_encoder import is_onnx_name, load_onnx_encoder
from lwcl.checkpoints.timm_folder import is_timm_weights, load_timm_folder, timm_weights
from lwcl.errors import UsageError
from lwcl.models.archs import suggest_encoder
from lwcl.models.loaded import InputSpec, LoadedEncoder, random_encoder
from lwcl.settings import expand_home
from lwcl.system.atomic_files import sha256_file

TIMM_FOLDER_PREFIX = "local-dir:"  # of a folder, as timm.create_model takes it and our messages print it


def load_encoder(spec: str, *, arch: str | None = None, image_size: int | None = None, seed: int = 0) -> LoadedEncoder:
    """Load a run or timm folder, an encoder or ONNX file, `random/ARCH`, `timm/NAME`, `hf-hub:USER/NAME` or a
    third-party checkpoint.

    `FILE#teacher` selects one network of a third-party checkpoint, and `arch` overrides its detected architecture.
    `image_size` overrides the input size. Raises `UsageError` if the encoder cannot be loaded.
    """
    kind, _, name = spec.partition("/")
    if kind == "random" and name:
        return random_encoder(name, InputSpec.for_arch(name, image_size), seed)
    if kind == "timm" and name:
        return load_timm_encoder(name, image_size)
    if spec.startswith(HUB_PREFIX):
        return dataclasses.replace(load_timm_folder(download_model(spec), arch, image_size), name=spec)
    path, part = resolve_encoder_file(spec)
    if is_onnx_name(path) and not part:
        return load_onnx_encoder(path, arch, image_size)
    if is_timm_weights(path) and not part:
        return load_timm_folder(path, arch, image_size)
    if part or not is_lwcl_file(path):
        return import_encoder(path, arch, image_size, part)[0]
    return read_encoder_file(path, arch, image_size)


def weights_hash_of(spec: str) -> str:
    """The SHA-256 of the file that `spec` names, and the part of it; "" of an encoder by name (timm/, random/)."""
    if spec.startswith(("random/", "timm/")):
        return ""
    path, part = resolve_encoder_file(spec)
    return sha256_file(path) + part if path.is_file() else ""


def resolve_encoder_file(spec: str) -> tuple[Path, str]:
    """The file that `spec` names, and the network selected in it ("": the default). Raises `UsageError`."""
    if spec.startswith(HUB_PREFIX):
        return download_model(spec), ""
    spec = expand_home(spec.removeprefix(TIMM_FOLDER_PREFIX))
    whole, _, part = spec.rpartition("#")
    path, part = (Path(spec), "") if os.path.lexists(spec) or not whole else (Path(whole), part)
    if path.is_dir():
        folder, path = path, path / "encoder.safetensors"
        path = path if path.exists() else timm_weights(folder) or path
        if not path.exists():
            raise UsageError(
                f"{spec}: this folder has no encoder.safetensors.",
                "It is not a run folder, or the run is not finished; nor is it a timm folder (config.json).",
                "Give a finished run, or finish it with the command in its command.txt.",
            )
    if not os.path.lexists(path):
        known = "Give a run or timm folder, an encoder or ONNX file, random/ARCH or timm/NAME."
        raise UsageError(f"{spec}: no such encoder.", suggest_encoder(spec), known)
    return path, part
