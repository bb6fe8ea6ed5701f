"""timm and Hugging Face model folders as encoders: `config.json` beside `model.safetensors`, as an export is."""

import json
from pathlib import Path
from typing import Any

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from lwcl.checkpoints.foreign.importer import resize_input
from lwcl.checkpoints.foreign.safe_reading import named_tensors, read_untrusted
from lwcl.errors import UsageError
from lwcl.models.encoder import Encoder
from lwcl.models.loaded import InputSpec, LoadedEncoder
from lwcl.models.pixel_format import pixel_format_from

CONFIG_FILE = "config.json"
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
MAX_CONFIG_BYTES = 1 << 20
SUPPORTED_ARGUMENTS = {"img_size", "output_stride", "bn_eps", "num_classes", "in_chans"}  # of timm.create_model


def timm_weights(folder: Path) -> Path | None:
    """The weight file of a timm folder, None if the folder is not one."""
    files = (folder / name for name in WEIGHT_FILES)
    return next((path for path in files if path.is_file()), None) if (folder / CONFIG_FILE).is_file() else None


def is_timm_weights(path: Path) -> bool:
    """Whether a file is the weight file of a timm folder."""
    return path.name in WEIGHT_FILES and (path.parent / CONFIG_FILE).is_file()


def load_timm_folder(path: Path, arch: str | None = None, image_size: int | None = None) -> LoadedEncoder:
    """Load the timm folder with the weight file `path`, without its classifier.

    Raises `UsageError` if config.json does not describe a timm model, or a tensor of the backbone is missing.
    """
    config = read_timm_config(path.parent / CONFIG_FILE)
    if arch not in (None, config["architecture"]):
        raise UsageError(f"{path}: holds {config['architecture']}, not {arch}.", remedy="Leave --arch out.")
    input_spec = input_spec_from_config(path.parent, config)
    encoder = encoder_from_config(path.parent, config, input_spec)
    load_backbone(path, encoder, config["pretrained_cfg"].get("classifier") or ())
    input_spec = resize_input(path, encoder, input_spec, image_size)
    facts = {"origin": "timm folder", "file": path.name}
    own = config.get("lwcl")
    licence = (own.get("licence") if isinstance(own, dict) else None) or config["pretrained_cfg"].get("license")
    facts |= {"licence": licence} if isinstance(licence, str) else {}
    return LoadedEncoder(str(path.parent), encoder, input_spec, facts)


def load_backbone(path: Path, encoder: Encoder, classifier: str | list[str] | tuple[str, ...]) -> None:
    """Load the tensors of `path` strictly, those of the classifier left out. Raises `UsageError`."""
    roots = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    prefixes = tuple(f"{root}." for root in roots)
    tensors = named_tensors(path, read_untrusted(path))
    own = {name: tensor for name, tensor in tensors.items() if not name.startswith(prefixes)}
    try:
        encoder.backbone.load_state_dict(own)
    except RuntimeError as error:
        why = " ".join(str(error).split())[:500]
        raise UsageError(
            f"{path}: its tensors are not those of {encoder.arch}.", why, "Check that config.json belongs to this file."
        ) from error


def read_timm_config(path: Path) -> dict[str, Any]:
    """timm's config.json with `pretrained_cfg` and `model_args` filled in. Raises `UsageError` if it is not one."""
    try:
        with open(path, "rb") as file:
            config = dict(json.loads(file.read(MAX_CONFIG_BYTES)))
        if not isinstance(config.get("architecture"), str):
            raise ValueError("It has no timm architecture.")
        for name in ("pretrained_cfg", "model_args"):
            config[name] = dict(config.get(name) or {})
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UsageError(
            f"{path}: is not the config of a timm model.",
            str(error),
            "Give a folder written by timm's save_for_hf or `lwcl export`.",
        ) from error
    return config


def input_spec_from_config(folder: Path, whole: dict[str, Any]) -> InputSpec:
    """The input in a `pretrained_cfg`, ImageNet's where it says nothing; the pixels in ours. Raises `UsageError`."""
    config = whole["pretrained_cfg"]
    try:
        pixels = pixel_format_from((whole.get("lwcl") or {}).get("pixel_format"))
        size = int((config.get("input_size") or (3, 224, 224))[-1])
        mean = tuple(map(float, config.get("mean") or IMAGENET_DEFAULT_MEAN))
        std = tuple(map(float, config.get("std") or IMAGENET_DEFAULT_STD))
        return InputSpec(size, mean, std, float(config.get("crop_pct") or 0.875), pixels)
    except (TypeError, ValueError, IndexError) as error:
        raise UsageError(f"{folder}: the pretrained_cfg in its config.json is damaged.", str(error)) from error


def encoder_from_config(folder: Path, config: dict[str, Any], input_spec: InputSpec) -> Encoder:
    """An encoder of a config's architecture, not loaded yet. Raises `UsageError` for arguments that lwcl lacks."""
    arguments = {name: value for name, value in config["model_args"].items() if value is not None}
    side = arguments.get("img_size") or input_spec.size
    with torch.random.fork_rng(devices=[]):
        encoder = Encoder(
            config["architecture"],
            image_size=side if isinstance(side, int) else int(max(side)),
            output_stride=arguments.get("output_stride"),
            bn_eps=arguments.get("bn_eps"),
            channels=arguments.get("in_chans", 3),
            frames=input_spec.pixel_format.frames,
        )
    pooling = pooling_of(encoder.backbone) or arguments.get("global_pool")  # some models do not say
    fixed = {"global_pool": pooling}
    supported = SUPPORTED_ARGUMENTS | {name for name, value in fixed.items() if arguments.get(name) == value}
    if others := sorted(arguments.keys() - supported):
        raise UsageError(
            f"{folder}: its model was built with {', '.join(f'{name}={arguments[name]}' for name in others)}.",
            "lwcl builds this architecture without.",
            "Give a model that was built with timm's defaults.",
        )
    return encoder


def pooling_of(backbone: Any) -> Any:
    """The global pooling of a timm model by timm's name for it, None if the model does not say."""
    pool = getattr(backbone, "global_pool", None) or getattr(getattr(backbone, "head", None), "global_pool", None)
    return getattr(pool, "pool_type", pool)
