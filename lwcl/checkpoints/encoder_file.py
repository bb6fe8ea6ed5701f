"""Encoders on disk: reading any encoder a user names, writing ours, and exporting to plain timm.

`encoder.safetensors` describes itself: one JSON string under the metadata key `lwcl` names the architecture, its
arguments, the head, and the images it was trained on, so that loading needs no method's code. (One key: safetensors'
bytes are reproducible then.)
"""

import copy
import dataclasses
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from timm.models import save_for_hf

from lwcl import __version__
from lwcl.errors import UsageError
from lwcl.lazy import Lazy
from lwcl.models.archs import suggest_encoder
from lwcl.models.encoder import Encoder
from lwcl.models.loaded import InputSpec, LoadedEncoder
from lwcl.system.atomic_files import crash_point, write_atomically
from lwcl.system.compute import Compute

if TYPE_CHECKING:
    from lwcl.checkpoints.foreign import importer, safe_reading
else:  # above this module: they make what it defines
    importer, safe_reading = Lazy("lwcl.checkpoints.foreign.importer"), Lazy("lwcl.checkpoints.foreign.safe_reading")

ENCODER_FORMAT = 1


def save_encoder(path: Path, encoder: Encoder, images: InputSpec, facts: dict[str, Any]) -> None:
    """Writes backbone and head with their description; `facts` (JSON) tell where the weights come from."""
    about = {
        "format": ENCODER_FORMAT,
        "lwcl": __version__,
        "arch": encoder.arch,
        "arguments": encoder.arguments,
        "width": encoder.width,
        "head": list(encoder.head_layers),
        "head_norm": encoder.head_norm,
        "images": dataclasses.asdict(images),
        "facts": facts,
    }
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in encoder.state_dict().items()}
    crash_point("encoder.write")
    write_atomically(path, save(tensors, {"lwcl": json.dumps(about, sort_keys=True)}))


def export_timm(folder: Path, encoder: Encoder, images: InputSpec) -> None:
    """Writes the backbone so that `timm.create_model("local-dir:FOLDER", pretrained=True)` loads it strictly."""
    data = dataclasses.asdict(images) | {"input_size": (3, images.size, images.size)}
    del data["size"]
    backbone = Compute(torch.device("cpu")).place(copy.deepcopy(encoder.backbone))
    backbone.register_state_dict_post_hook(untie_state_dict)  # type: ignore[no-untyped-call]  # as torch has it
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".tmp-{os.getpid()}-export-") as scratch:
        about = {"model_config": {"num_features": encoder.width}, "model_args": encoder.arguments}
        save_for_hf(backbone, scratch, **about, safe_serialization=True, data_config=data)
        for file in sorted(Path(scratch).iterdir()):
            crash_point("export.write")
            write_atomically(folder / file.name, file.read_bytes())


def untie_state_dict(module: Any, state: dict[str, Any], prefix: str, about: Any) -> None:
    """Gives each tensor of a state dict memory of its own: safetensors refuses tied ones (CoaT has some)."""
    state.update({name: tensor.clone() for name, tensor in state.items()})


def load_encoder(spec: str, *, arch: str | None = None, image_size: int | None = None, seed: int = 0) -> LoadedEncoder:
    """The encoder that `spec` names: a run folder, one of our files, `random/ARCH` or `timm/NAME` (from timm's cache).

    Or a checkpoint of other code, `FILE#teacher` for a part of it; `arch` then overrules what it seems to be.
    `image_size` overrules the size of images it takes. Raises `UsageError` where it cannot be had.
    """
    kind, _, name = spec.partition("/")
    if kind == "random" and name:
        return random_encoder(name, InputSpec.of(name, image_size), seed)
    if kind == "timm" and name:
        return importer.load_timm_encoder(name, image_size)
    path, part = resolve_encoder_file(spec)
    if part or not safe_reading.is_lwcl_file(path):
        return importer.import_encoder(path, arch, image_size, part)[0]
    return read_encoder_file(path, arch, image_size)


def resolve_encoder_file(spec: str) -> tuple[Path, str]:
    """The file of an encoder that is no name of timm's, and the part of it: ("", the whole). Raises `UsageError`."""
    whole, _, part = spec.rpartition("#")
    path, part = (Path(spec), "") if os.path.lexists(spec) or not whole else (Path(whole), part)
    if path.is_dir():
        path = path / "encoder.safetensors"
        if not path.exists():
            raise UsageError(
                f"{spec}: this folder has no encoder.safetensors.",
                "It is no run, or the run is not finished.",
                "Give a finished run, or finish it with the command in its command.txt.",
            )
    if not os.path.lexists(path):
        known = "Give a run folder, an encoder's file, random/ARCH or timm/NAME."
        raise UsageError(f"{spec}: no such encoder.", suggest_encoder(spec), known)
    return path, part


def random_encoder(arch: str, images: InputSpec, seed: int, arguments: dict[str, Any] | None = None) -> LoadedEncoder:
    """An untrained encoder: what training has to beat; its weights follow from `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = Encoder(arch, image_size=images.size, output_stride=(arguments or {}).get("output_stride"))
    return LoadedEncoder(f"random/{arch}", encoder, images, {"origin": "untrained"})


def read_encoder_file(path: Path, arch: str | None, image_size: int | None) -> LoadedEncoder:
    """One of our own files, loaded strictly. Raises `UsageError` where it is not one, or holds another architecture."""
    about = read_description(path)
    if arch not in (None, about["arch"]):
        raise UsageError(f"{path}: holds {about['arch']}, not {arch}.", remedy="Leave --arch out.")
    try:
        told = about["images"]
        images = InputSpec(int(told["size"]), tuple(told["mean"]), tuple(told["std"]), float(told["crop_pct"]))
        tensors = load_file(path)
        with torch.device("meta"):  # what a file says of itself may be wrong: first in no memory
            encoder_from_description(about).load_state_dict(tensors, assign=True)
        encoder = encoder_from_description(about)
        encoder.load_state_dict(tensors)
    except (RuntimeError, LookupError, TypeError, ValueError, AttributeError, SafetensorError) as error:
        why = " ".join(str(error).split())[:500]
        raise UsageError(f"{path}: its tensors are not those of {about['arch']}.", why, "Train it again.") from error
    images = dataclasses.replace(images, size=image_size or images.size)
    return LoadedEncoder(
        str(path.parent if path.name == "encoder.safetensors" else path), encoder, images, about["facts"]
    )


def encoder_from_description(about: dict[str, Any]) -> Encoder:
    """The encoder that a file says it holds, with other weights."""
    arguments = about["arguments"]
    sizes = {"image_size": arguments.get("img_size"), "output_stride": arguments.get("output_stride")}
    return Encoder(about["arch"], about["head"], norm=about["head_norm"], **sizes, bn_eps=arguments.get("bn_eps"))


def read_description(path: Path) -> dict[str, Any]:
    """What an encoder file says of itself. Raises `UsageError` where it is no such file."""
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get("lwcl")
        about = json.loads(text) if text else {}
    except (SafetensorError, OSError, ValueError) as error:
        raise UsageError(
            f"{path}: cannot be read as safetensors.", str(error), "Give an encoder.safetensors that lwcl wrote."
        ) from error
    told = about if isinstance(about, dict) else {}
    if told.get("format") != ENCODER_FORMAT or not {"arch", "head", "images", "facts"} <= told.keys():
        raise UsageError(
            f"{path}: lwcl did not write this file, or another version did (format {told.get('format')}).",
            remedy="Give an encoder.safetensors that this lwcl wrote.",
        )
    return told


def timm_snippet(folder: Path, width: int) -> str:
    """Three lines of Python that load an export, of so many features, in plain timm."""
    name = json.dumps(f"local-dir:{folder}", ensure_ascii=False)
    return (
        "import timm\n"
        f"model = timm.create_model({name}, pretrained=True).eval()\n"
        f"features = model(images)  # (B, {width})"
    )
