"""What an encoder is exported as: a folder for timm, or of a network that computes over time a file of lwcl's."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lwcl.checkpoints.encoder_file import export_timm, save_encoder, timm_snippet
from lwcl.models.archs import is_video_arch
from lwcl.models.encoder import Encoder
from lwcl.models.loaded import InputSpec
from lwcl.models.video import TEMPORAL

ENCODER_FILE = "encoder.safetensors"


def exports_to_timm(encoder: Encoder) -> bool:
    """Whether timm's model of its architecture computes what it computes, but for the mean over frames."""
    return not is_video_arch(encoder.arch) and encoder.arguments.get(TEMPORAL) != "shift"


def export_encoder(folder: Path, encoder: Encoder, input_spec: InputSpec, metadata: Mapping[str, Any]) -> None:
    """Writes the encoder for those who use it: for plain timm, else as a file that describes itself."""
    if exports_to_timm(encoder):
        return export_timm(folder, encoder, input_spec, metadata)
    folder.mkdir(parents=True, exist_ok=True)
    return save_encoder(folder / ENCODER_FILE, encoder, input_spec, dict(metadata))


def usage_text(folder: Path, encoder: Encoder) -> str:
    """How to use an export: a few lines of Python."""
    if not exports_to_timm(encoder):
        text = video_snippet(folder, encoder) if is_video_arch(encoder.arch) else lwcl_snippet(folder, encoder)
        return f"Use it:\n{text}"
    text = f"Use it in plain timm:\n{timm_snippet(folder, encoder.width)}"
    if encoder.frames:
        text += f"\nclip = model(frames).mean(0)  # of the features ({encoder.frames}, {encoder.width}) of its frames"
    return text


def video_snippet(folder: Path, encoder: Encoder) -> str:
    """Lines of Python that load an export in plain torchvision."""
    file = json.dumps(str(folder / ENCODER_FILE), ensure_ascii=False)
    name = encoder.arch.partition("/")[2]
    rest = "fc = torch.nn.Identity()"
    if name == "s3d":
        rest = "classifier, model.avgpool = torch.nn.Identity(), torch.nn.AdaptiveAvgPool3d(1)"
    return (
        "import torch, torchvision\nfrom safetensors.torch import load_file\n"
        f"model = torchvision.models.video.{name}()\n"
        f"model.{rest}\n"
        f"tensors = load_file({file})\n"
        'model.load_state_dict({n[9:]: t for n, t in tensors.items() if n.startswith("backbone.")})\n'
        f"features = model.eval()(clips)  # (B, 3, {encoder.frames}, H, W) -> (B, {encoder.width})"
    )


def lwcl_snippet(folder: Path, encoder: Encoder) -> str:
    """Lines of Python that load an export by lwcl: plain timm would leave the temporal shift out."""
    return (
        "from lwcl.checkpoints.load import load_encoder\n"
        f"encoder = load_encoder({json.dumps(str(folder), ensure_ascii=False)}).encoder.eval()\n"
        f"features = encoder.features(clips)  # (B, {encoder.frames}, 3, H, W) -> (B, {encoder.width})"
    )
