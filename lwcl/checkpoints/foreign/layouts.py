"""Finds the encoder in a checkpoint: which method's code wrote it, and under which prefix the encoder is.

Supported layouts: the released code of MoCo, ssl-small, light-moco, DisCo, SEED, CompRess, SwAV, DINO, Barlow
Twins, VICReg, MoCo v3, SimSiam and VISSL, and plain, wrapped and Lightning state dicts.
"""

import collections
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from lwcl.checkpoints.foreign.safe_reading import named_tensors, unreadable_file_error
from lwcl.errors import UsageError
from lwcl.settings import unknown_name_error


class CheckpointLayout(NamedTuple):
    """A layout: prefixes that all occur in it, and the prefix of each part, the default part first."""

    name: str
    marks: tuple[str, ...]
    parts: dict[str, str]


class EncoderTensors(NamedTuple):
    """The selected part: its tensors, other tensors that may hold its head, and the `arch` stored in the file.

    `projects`: a single linear layer behind the backbone is a projection, not a classifier.
    """

    layout: str
    tensors: dict[str, Tensor]
    beside: dict[str, Tensor]
    arch: str | None
    projects: bool


#: The first layout whose marks all occur applies.
LAYOUTS = (
    CheckpointLayout("SEED converted to MoCo", ("student.", "encoder_q."), {"student": "encoder_q."}),
    CheckpointLayout(
        "DisCo", ("encoder_q.", "teacher_encoder_q."), {"student": "encoder_q.", "teacher": "teacher_encoder_q."}
    ),
    CheckpointLayout("MoCo", ("encoder_q.",), {"student": "encoder_q.", "key": "encoder_k."}),
    CheckpointLayout("MoCo v3", ("base_encoder.",), {"student": "base_encoder.", "key": "momentum_encoder."}),
    CheckpointLayout("SEED", ("student.", "teacher."), {"student": "student.", "teacher": "teacher."}),
    CheckpointLayout("SwAV", ("projection_head.",), {"": ""}),
    CheckpointLayout("Barlow Twins or VICReg", ("backbone.", "projector."), {"": "backbone."}),
    CheckpointLayout("SimSiam", ("encoder.", "predictor."), {"": "encoder."}),
    CheckpointLayout("backbone and head", ("backbone.", "head."), {"": "backbone."}),
)
MULTI_NETWORK_LAYOUTS = LAYOUTS[:5]  # tensors outside of the selected part belong to another network
PLAIN, LINEAR, COMPRESS, DINO, LIGHTNING, VISSL = "plain", "linear probe", "CompRess", "DINO", "Lightning", "VISSL"
VISSL_PATH = ("classy_state_dict", "base_model", "model", "trunk")
CLASSIFIER_LAYOUTS = (PLAIN, LINEAR, LIGHTNING)  # their single linear layer is a classifier
EMA_KEYS = ("state_dict_ema", "model_ema")  # averaged weights: those that timm loads where both are there
STATE_DICT_KEYS = (*EMA_KEYS, "state_dict", "model", "model_state_dict", "teacher", "student", "net", "network")
COMPILED = re.compile(r"(^|\.)(?:_orig_mod\.)+")  # of parts that torch.compile has wrapped
CLASSIFIER_PREFIXES = ("head.fc.", "head.classifier.")  # beside a backbone: a classifier (mmpretrain), no projection
WRAPPER_PREFIXES = re.compile(r"(?:(?:module|_orig_mod|model|encoder|backbone|net|network|_feature_blocks)\.)*")


def find_encoder_tensors(path: Path, content: Any, part: str = "") -> EncoderTensors:
    """The tensors of the selected part ("": the layout's default). Raises `UsageError` if there are none."""
    content = content if isinstance(content, Mapping) else {}
    kind, which, inner, part = unpack_checkpoint(path, content, part)
    tensors = strip_wrappers(named_tensors(path, inner))
    if not tensors:
        names = ", ".join(map(str, list(content)[:5])) or "nothing with names"
        raise unreadable_file_error(path, f"It has no tensors where checkpoints have them; it holds {names}.")
    layout = next((one for one in LAYOUTS if all(split_by_prefix(tensors, mark)[0] for mark in one.marks)), None)
    parts = layout.parts if layout else {"": ""}
    if part not in ("", *parts):
        raise unknown_part_error(path, layout.name if layout else kind or PLAIN, part, tuple(filter(None, parts)))
    prefix = parts[part] if part else next(iter(parts.values()))
    mine, others = split_by_prefix(tensors, prefix)
    mine, beside = split_by_prefix(mine, most_common_prefix(mine))
    name = kind or (layout.name if layout else PLAIN)
    arch = content.get("arch")
    classifies = layout is LAYOUTS[-1] and any(other.startswith(CLASSIFIER_PREFIXES) for other in others)
    return EncoderTensors(
        layout=f"{name}, weights of {which!r}" if which else name,
        tensors=mine,
        beside=beside if layout in MULTI_NETWORK_LAYOUTS else beside | others,
        arch=arch if isinstance(arch, str) and part != "teacher" else None,
        projects=name not in CLASSIFIER_LAYOUTS and not classifies,
    )


def unpack_checkpoint(path: Path, content: Mapping[Any, Any], part: str) -> tuple[str, str, Mapping[Any, Any], str]:
    """The layout, if the outermost names identify it (else ""), which of several weights was taken, and their tensors.

    Averaged weights (EMA) come first, as in timm; `part` selects others by name. The last is the part to select within.
    """
    inner = {name: content[name] for name in STATE_DICT_KEYS if isinstance(content.get(name), Mapping)}
    if "teacher" in inner and "student" in inner:
        if part not in ("", "teacher", "student"):
            raise unknown_part_error(path, DINO, part, ("teacher", "student"))
        return DINO, "", inner[part or "teacher"], ""
    trunk: Any = content
    for name in VISSL_PATH:
        trunk = trunk.get(name) if isinstance(trunk, Mapping) else None
    if isinstance(trunk, Mapping):
        return VISSL, "", trunk, part
    if "model" in inner and "opt" in content:
        return COMPRESS, "", inner["model"], part
    kind = LINEAR if "best_acc1" in content else LIGHTNING if "pytorch-lightning_version" in content else ""
    if part in inner:
        return kind, part if len(inner) > 1 else "", inner[part], ""
    name = next(iter(inner), "")
    return kind, name if len(inner) > 1 else "", inner.get(name, content), part


def unknown_part_error(path: Path, layout: str, part: str, parts: tuple[str, ...]) -> UsageError:
    """The error for a part that the layout does not have."""
    if not parts:
        return unreadable_file_error(path, f"#{part}: its layout ({layout}) has only one part.", f"Leave #{part} out.")
    return unknown_name_error(f"part of {path} ({layout})", part, parts)


def split_by_prefix(tensors: Mapping[str, Tensor], prefix: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors whose names start with the prefix, which is stripped; and the others."""
    mine = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    return mine, {name: tensor for name, tensor in tensors.items() if not name.startswith(prefix)}


def strip_wrappers(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the `_orig_mod.` of torch.compile anywhere in a name, and the `module.` of DataParallel before all."""
    tensors = {COMPILED.sub(r"\1", name): tensor for name, tensor in tensors.items()}
    mine, others = split_by_prefix(tensors, "module.")
    return strip_wrappers(mine) if mine and not others else tensors


def most_common_prefix(tensors: Mapping[str, Tensor]) -> str:
    """The prefix of wrapper names that most tensors have (Lightning: `model.`, `encoder.`, `backbone.`)."""
    counts = collections.Counter(match[0] for name in tensors if (match := WRAPPER_PREFIXES.match(name)))
    return counts.most_common(1)[0][0] if counts else ""
