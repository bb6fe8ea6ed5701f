"""Imports encoders that lwcl did not train: third-party checkpoints and pretrained timm models."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from lwcl.checkpoints.foreign.heads import ImportedHead, find_head
from lwcl.checkpoints.foreign.layouts import PLAIN, EncoderTensors, find_encoder_tensors
from lwcl.checkpoints.foreign.matching import BATCH_COUNTER, ArchMatch, match_architecture
from lwcl.checkpoints.foreign.safe_reading import read_untrusted, unreadable_file_error
from lwcl.errors import UsageError
from lwcl.models.encoder import Encoder
from lwcl.models.loaded import InputSpec, LoadedEncoder

DEFAULT_IMAGE_SIZE = 224  # pixels; that of the papers' encoders
LITE_PREFIX = "tf_efficientnet_lite"  # trained with mean = std = 0.5, each at its own size


class MatchReport(NamedTuple):
    """How a checkpoint was matched: layout, number of backbone tensors, names of missing and of unused tensors, and the
    widths of the projection head's layers.
    """

    layout: str
    matched: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    head: tuple[int, ...]


def import_encoder(
    path: Path, arch: str | None, image_size: int | None, part: str = ""
) -> tuple[LoadedEncoder, MatchReport]:
    """The encoder of a third-party checkpoint with its projection head, and how it was matched.

    `arch` overrides the detected architecture and `image_size` the input size; `part`: teacher, student or key, for
    layouts with several. Raises `UsageError` unless every tensor of the backbone is there.
    """
    selected = find_encoder_tensors(path, read_untrusted(path), part)
    fit = match_architecture(path, selected.tensors, arch, selected.arch)
    encoder, head = build_imported_encoder(path, selected, fit)
    input_spec = resize_input(path, encoder, input_spec_of(selected, fit, chosen=arch is not None), image_size)
    matched = MatchReport(
        layout=selected.layout,
        matched=len(fit.tensors),
        missing=fit.missing,
        unexpected=tuple(name for name in (*fit.rest, *selected.beside) if name not in head.names),
        head=encoder.head_widths,
    )
    metadata = {"origin": "foreign", "file": path.name, "part": part, **matched._asdict()}
    return LoadedEncoder(f"{path}#{part}" if part else str(path), encoder, input_spec, metadata), matched


def build_imported_encoder(path: Path, selected: EncoderTensors, fit: ArchMatch) -> tuple[Encoder, ImportedHead]:
    """The encoder with the file's tensors, loaded strictly, and its head."""
    left = {name: selected.tensors[name] for name in fit.rest} | selected.beside
    head = find_head(left, fit.width, selected.projects)
    bn_eps = fit.naming.bn_eps if fit.naming else None
    with torch.random.fork_rng(devices=[]):  # these random weights are overwritten
        encoder = Encoder(fit.arch, head.layers, image_size=fit.side, bn_eps=bn_eps)
    state = {f"backbone.{name}": tensor for name, tensor in fit.tensors.items()}
    state |= {f"head.{name}": tensor for name, tensor in head.tensors.items()}
    counters = {name: tensor for name, tensor in encoder.state_dict().items() if name.endswith(BATCH_COUNTER)}
    try:
        encoder.load_state_dict(counters | state)
    except (RuntimeError, NotImplementedError) as error:
        raise unreadable_file_error(path, " ".join(str(error).split())[:500]) from error
    return encoder, head


def input_spec_of(selected: EncoderTensors, fit: ArchMatch, *, chosen: bool) -> InputSpec:
    """Its input: ImageNet's statistics, or timm's for a plain file whose architecture was `chosen` by the user."""
    if fit.arch.startswith(LITE_PREFIX) or (chosen and selected.layout == PLAIN):
        return InputSpec.for_arch(fit.arch, fit.side)
    return InputSpec(fit.side or DEFAULT_IMAGE_SIZE, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)


def resize_input(path: Path, encoder: Encoder, input_spec: InputSpec, size: int | None) -> InputSpec:
    """The input at the requested size; position embeddings are interpolated to it (timm). Raises `UsageError`.

    Models without position embeddings accept any size.
    """
    if size is None or size == input_spec.size:
        return input_spec
    backbone: Any = encoder.backbone
    if "img_size" in encoder.arguments:
        try:
            backbone.set_input_size(img_size=size)
        except (AttributeError, AssertionError, RuntimeError, ValueError) as error:
            what = f"{path}: only accepts images of {input_spec.size} pixels."
            raise UsageError(what, str(error), "Leave --image-size out.") from error
        encoder.arguments["img_size"] = size
    return replace(input_spec, size=size)


def load_timm_encoder(name: str, image_size: int | None) -> LoadedEncoder:
    """A pretrained timm model from the local cache, without its classifier. Raises `UsageError` if it is not cached."""
    encoder = Encoder(name, image_size=image_size)
    try:
        pretrained = timm.create_model(name, pretrained=True, num_classes=0, **encoder.arguments)
    except Exception as error:  # timm and huggingface_hub raise many kinds of errors here
        raise UsageError(
            f"timm/{name}: its weights are not available.",
            f"{type(error).__name__}: {str(error).splitlines()[0]}",
            f"Download them into timm's cache once, or use random/{name} for an untrained encoder.",
        ) from error
    encoder.backbone.load_state_dict(pretrained.state_dict())
    metadata = {"origin": "timm", "licence": str(getattr(timm.get_pretrained_cfg(name), "license", None) or "unknown")}
    return LoadedEncoder(f"timm/{name}", encoder, InputSpec.for_arch(name, image_size), metadata)
