"""Encoders that others trained, as lwcl's own: a checkpoint of other code, or a pretrained timm model."""

from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from lwcl.checkpoints.encoder_file import Images, Loaded
from lwcl.checkpoints.foreign.heads import Head, find_head
from lwcl.checkpoints.foreign.layouts import PLAIN, Found, find
from lwcl.checkpoints.foreign.matching import COUNTER, Fit, best_fit
from lwcl.checkpoints.foreign.safe_reading import read_file, refused
from lwcl.errors import UsageError
from lwcl.models.encoder import Encoder

SIDE = 224  # of the images that the papers' encoders were trained on
LITE = "tf_efficientnet_lite"  # trained with mean = std = 0.5, at a size of its own for each


class Matched(NamedTuple):
    """How a checkpoint was read: its layout; its tensors that are the backbone (how many), that the backbone lacks, and
    that were left out; the widths of its projection head's layers.
    """

    layout: str
    matched: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    head: tuple[int, ...]


def read_foreign(path: Path, arch: str | None, image_size: int | None, part: str = "") -> tuple[Loaded, Matched]:
    """The encoder of a checkpoint that other code wrote, with its projection head, and how it was matched.

    `arch` overrules the guess, `image_size` the size of images; `part`: teacher, student or key, where a layout has
    several. Raises `UsageError` unless every tensor of the backbone is there.
    """
    found = find(path, read_file(path), part)
    fit = best_fit(path, found.tensors, arch, found.arch)
    encoder, head = assembled(path, found, fit)
    images = resized(path, encoder, images_of(found, fit, chosen=arch is not None), image_size)
    matched = Matched(
        layout=found.layout,
        matched=len(fit.tensors),
        missing=fit.missing,
        unexpected=tuple(name for name in (*fit.rest, *found.beside) if name not in head.names),
        head=encoder.head_widths,
    )
    facts = {"origin": "foreign", "file": path.name, "part": part, **matched._asdict()}
    return Loaded(f"{path}#{part}" if part else str(path), encoder, images, facts), matched


def assembled(path: Path, found: Found, fit: Fit) -> tuple[Encoder, Head]:
    """The encoder with the file's tensors, loaded strictly, and its head."""
    left = {name: found.tensors[name] for name in fit.rest} | found.beside
    head = find_head(left, fit.width, found.projects)
    bn_eps = fit.naming.bn_eps if fit.naming else None
    with torch.random.fork_rng(devices=[]):  # what is drawn here is overwritten; no other draw may change by it
        encoder = Encoder(fit.arch, head.layers, image_size=fit.side, bn_eps=bn_eps)
    state = {f"backbone.{name}": tensor for name, tensor in fit.tensors.items()}
    state |= {f"head.{name}": tensor for name, tensor in head.tensors.items()}
    counters = {name: tensor for name, tensor in encoder.state_dict().items() if name.endswith(COUNTER)}
    try:
        encoder.load_state_dict(counters | state)
    except (RuntimeError, NotImplementedError) as error:
        raise refused(path, " ".join(str(error).split())[:500]) from error
    return encoder, head


def images_of(found: Found, fit: Fit, *, chosen: bool) -> Images:
    """The images it takes: with ImageNet's statistics, but as timm has them for a plain file of a `chosen` arch."""
    if fit.arch.startswith(LITE) or (chosen and found.layout == PLAIN):
        return Images.of(fit.arch, fit.side)
    return Images(fit.side or SIDE, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)


def resized(path: Path, encoder: Encoder, images: Images, size: int | None) -> Images:
    """The images at the size that is asked for; position embeddings are interpolated to it (timm). Raises `UsageError`.

    Models without such take images of many sizes.
    """
    if size is None or size == images.size:
        return images
    backbone: Any = encoder.backbone
    if "img_size" in encoder.arguments:
        try:
            backbone.set_input_size(img_size=size)
        except (AttributeError, AssertionError, RuntimeError, ValueError) as error:
            raise UsageError(
                f"{path}: takes images of {images.size} pixels only.", str(error), "Leave --image-size out."
            ) from error
        encoder.arguments["img_size"] = size
    return Images(size, images.mean, images.std, images.crop_pct)


def timm_encoder(name: str, image_size: int | None) -> Loaded:
    """A pretrained timm model from the local cache, without its classifier. Raises `UsageError` if it is not there."""
    encoder = Encoder(name, image_size=image_size)
    try:
        pretrained = timm.create_model(name, pretrained=True, num_classes=0, **encoder.arguments)
    except Exception as error:  # timm and huggingface_hub raise many kinds here; all mean: not to be had
        raise UsageError(
            f"timm/{name}: its weights cannot be had.",
            f"{type(error).__name__}: {str(error).splitlines()[0]}",
            f"Fetch them into timm's cache once, or write random/{name} for an untrained one.",
        ) from error
    encoder.backbone.load_state_dict(pretrained.state_dict())
    return Loaded(f"timm/{name}", encoder, Images.of(name, image_size), {"origin": "timm"})
