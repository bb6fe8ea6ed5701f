"""Encoder files: written and read by lwcl, and exported for plain timm.

`encoder.safetensors` describes itself: one JSON string under the metadata key `lwcl` holds the architecture, its
arguments, the head and the input specification, so loading it needs no method's code. (With a single key, safetensors
writes reproducible bytes.)
"""

import contextlib
import dataclasses
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from timm.models import save_for_hf

from lwcl import __version__
from lwcl.checkpoints.training_state import sha256_hex, untied_tensors
from lwcl.errors import UsageError
from lwcl.models.encoder import Encoder, weights_hash
from lwcl.models.loaded import InputSpec, LoadedEncoder
from lwcl.models.low_bits import LowBits, bake, simulate_bits
from lwcl.models.video import FRAMES, TEMPORAL
from lwcl.system.atomic_files import crash_point, explain_disk_errors, write_atomically
from lwcl.system.compute import Compute

#: What timm's configuration says of weights of timm's.
PROVENANCE = ("tag", "license", "origin_url", "paper_ids", "paper_name", "description", "notes", "url", "hf_hub_id")
ENCODER_FORMAT = 2  # 1: other names of the description's fields


def save_encoder(path: Path, encoder: Encoder, input_spec: InputSpec, metadata: dict[str, Any]) -> None:
    """Writes backbone and head with their description; `metadata` (JSON) says where the weights come from."""
    description = {
        "format": ENCODER_FORMAT,
        "lwcl": __version__,
        "arch": encoder.arch,
        "arguments": encoder.arguments,
        "width": encoder.width,
        "head": list(encoder.head_layers),
        "head_norm": encoder.head_norm,
        "input_spec": input_spec.as_json(),
        "metadata": metadata,
    }
    if encoder.bits:
        description["bits"] = encoder.bits._asdict()
    description["sha256"] = content_hash(description, encoder)
    crash_point("encoder.write")
    content = save(untied_tensors(encoder.state_dict()), {"lwcl": json.dumps(description, sort_keys=True)})
    write_atomically(path, content)


def content_hash(description: Mapping[str, Any], encoder: Encoder) -> str:
    """SHA-256 (hex) of all that an encoder file holds, but for this hash: safetensors has no checksum."""
    described = json.dumps({name: value for name, value in description.items() if name != "sha256"}, sort_keys=True)
    return sha256_hex(f"{described}{weights_hash(encoder)}".encode())


def read_encoder_file(path: Path, arch: str | None, image_size: int | None) -> LoadedEncoder:
    """Load an lwcl encoder file strictly. Raises `UsageError` if it is not one, or holds another architecture."""
    description = read_description(path)
    if arch not in (None, description["arch"]):
        raise UsageError(f"{path}: holds {description['arch']}, not {arch}.", remedy="Leave --arch out.")
    try:
        input_spec = InputSpec.from_json(description["input_spec"])
        tensors = load_file(path)
        with torch.device("meta"):  # the description may not match the tensors: try it without allocating memory
            encoder_from_description(description).load_state_dict(tensors, assign=True)
        encoder = encoder_from_description(description)
        encoder.load_state_dict(tensors)
    except (RuntimeError, LookupError, TypeError, ValueError, AttributeError, SafetensorError) as error:
        why = " ".join(str(error).split())[:500]
        what = f"{path}: its tensors do not match {description['arch']}."
        raise UsageError(what, why, "Train or convert it again.") from error
    if description.get("sha256") not in (None, content_hash(description, encoder)):  # earlier versions wrote none
        what = f"{path} is damaged: its content does not match its checksum."
        raise UsageError(what, "The disk or a copy may have failed.", "Copy it again, or train or convert it again.")
    name = str(path.parent if path.name == "encoder.safetensors" else path)
    input_spec = dataclasses.replace(input_spec, size=image_size or input_spec.size)
    return LoadedEncoder(name, encoder, input_spec, description["metadata"])


def encoder_from_description(description: dict[str, Any]) -> Encoder:
    """An encoder of the described architecture, with weights that are still to be loaded."""
    arguments = description["arguments"]
    sizes = {"image_size": arguments.get("img_size"), "output_stride": arguments.get("output_stride")}
    norm, bn_eps = description["head_norm"], arguments.get("bn_eps")
    clips = {name: arguments[name] for name in (FRAMES, TEMPORAL) if name in arguments}
    channels = arguments.get("in_chans", 3)
    encoder = Encoder(
        description["arch"], description["head"], norm=norm, **sizes, bn_eps=bn_eps, channels=channels, **clips
    )
    return simulate_bits(encoder, LowBits(**description["bits"])) if "bits" in description else encoder


def read_description(path: Path) -> dict[str, Any]:
    """The description in an encoder file. Raises `UsageError` if lwcl did not write the file, or an older one did."""
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get("lwcl")
        description = json.loads(text) if text else {}
    except (SafetensorError, OSError, ValueError) as error:
        remedy = "Give an encoder.safetensors that lwcl wrote."
        raise UsageError(f"{path}: not readable as safetensors.", str(error), remedy) from error
    known = description if isinstance(description, dict) else {}
    if known.get("format") != ENCODER_FORMAT or not {"arch", "head", "input_spec", "metadata"} <= known.keys():
        raise UsageError(
            f"{path}: not written by this version of lwcl (format {known.get('format')}, expected {ENCODER_FORMAT}).",
            remedy="Train or convert the encoder again.",
        )
    return known


def export_timm(folder: Path, encoder: Encoder, input_spec: InputSpec, metadata: Mapping[str, Any]) -> None:
    """Writes the backbone so that `timm.create_model("local-dir:FOLDER", pretrained=True)` loads it strictly.

    Only weights that are timm's own (`origin` in `metadata`) keep timm's tag, licence and paper. Of an encoder of few
    bits it has the rounded weights; its activations are exact.
    """
    data_config = input_spec.as_json() | {"input_size": (encoder.channels, input_spec.size, input_spec.size)}
    pixels = {name: data_config.pop(name) for name in ("pixel_format",) if name in data_config}
    del data_config["size"]
    backbone = Compute(torch.device("cpu")).place(bake(encoder.backbone))
    arguments = {name: value for name, value in encoder.arguments.items() if name not in (FRAMES, TEMPORAL)}
    config = {"model_config": {"num_features": encoder.width}, "model_args": arguments}
    if metadata.get("origin") != "timm":
        known: dict[str, Any] = vars(backbone)["pretrained_cfg"]
        own = {name: value for name, value in known.items() if name not in PROVENANCE}
        vars(backbone)["pretrained_cfg"] = own | {"tag": "lwcl"}
        config["model_config"]["lwcl"] = dict(sorted(metadata.items())) | {"version": __version__, **pixels}
    if encoder.channels != 3:
        data_config["first_conv"] = None  # else timm replaces weights that are not of three channels by random ones
    backbone.register_state_dict_post_hook(untie_state_dict)  # type: ignore[no-untyped-call]  # torch's own is untyped
    folder.mkdir(parents=True, exist_ok=True)
    prefix = f".tmp-{os.getpid()}-export-"
    with safetensors_disk_errors(folder), tempfile.TemporaryDirectory(dir=folder.parent, prefix=prefix) as scratch:
        save_for_hf(backbone, scratch, **config, safe_serialization=True, data_config=data_config)
        for file in sorted(Path(scratch).iterdir()):
            crash_point("export.write")
            write_atomically(folder / file.name, file.read_bytes())


@contextlib.contextmanager
def safetensors_disk_errors(path: Path) -> Iterator[None]:
    """Turn an error of the disk, as safetensors or the system tells it, into a `StorageError`."""
    with explain_disk_errors(path):
        try:
            yield
        except SafetensorError as error:
            number = re.search(r"\(os error (\d+)\)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def untie_state_dict(module: Any, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """A hook for models with tied weights (some of CoaT's are)."""
    state.update(untied_tensors(state))


def timm_snippet(folder: Path, width: int) -> str:
    """Three lines of Python that load an export with `width` features in plain timm."""
    name = json.dumps(f"local-dir:{folder}", ensure_ascii=False)
    return (
        "import timm\n"
        f"model = timm.create_model({name}, pretrained=True).eval()\n"
        f"features = model(images)  # (B, {width})"
    )
