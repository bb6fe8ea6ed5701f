"""Backbones without a classifier: timm's models, torchvision's for videos; zero initialisation of residual branches."""

from collections.abc import Iterator
from typing import Any

import timm
from torch import nn

from lwcl.errors import UsageError
from lwcl.models.archs import check_arch, is_video_arch
from lwcl.models.video import FRAMES, TEMPORAL, build_video_net, over_frames


def batch_norms(net: nn.Module) -> Iterator[nn.modules.batchnorm._BatchNorm]:
    """The batch-norm layers of a network."""
    return (module for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))


def build_backbone(
    arch: str,
    *,
    image_size: int | None = None,
    output_stride: int | None = None,
    channels: int = 3,
    frames: int = 0,
    temporal: str | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """A randomly initialised network without its classifier, and the arguments it was created with.

    With `frames` it takes clips of so many, see `lwcl.models.video`.
    """
    if is_video_arch(arch):
        if output_stride or channels != 3:
            raise UsageError(f"{arch} takes RGB and has no --output-stride.", remedy="Leave it out.")
        return build_video_net(arch), {FRAMES: frames} if frames else {}
    net, arguments = build_image_net(arch, image_size=image_size, output_stride=output_stride, channels=channels)
    if frames:
        over_frames(net, frames, temporal or "mean")
        arguments |= {FRAMES: frames, TEMPORAL: temporal or "mean"}
    return net, arguments


def build_image_net(
    arch: str, *, image_size: int | None, output_stride: int | None, channels: int
) -> tuple[nn.Module, dict[str, Any]]:
    """A randomly initialised timm model without its classifier, and the arguments it was created with.

    `image_size` is passed only to models with a fixed input size (vision transformers). Raises `UsageError` if timm
    cannot build it.
    """
    arguments: dict[str, Any] = {}
    if output_stride not in (None, 8, 16, 32):
        raise UsageError(f"--output-stride: invalid value {output_stride}.", remedy="Give 8, 16 or 32.")
    try:
        known = timm.get_pretrained_cfg(arch)
        if known is None or known.fixed_input_size:
            arguments |= {"img_size": image_size} if image_size else {}
        if channels != 3:
            arguments["in_chans"] = channels
        if output_stride:
            arguments["output_stride"] = output_stride
        return timm.create_model(arch, pretrained=False, num_classes=0, **arguments), arguments
    except (RuntimeError, TypeError, ValueError, AssertionError, NotImplementedError) as error:
        if not timm.is_model(arch) and ":" not in arch:
            check_arch(arch)  # raises an error with the nearest names
        given = ", ".join(f"{name}={value}" for name, value in arguments.items()) or "its defaults"
        raise UsageError(
            f"timm cannot build {arch!r} with {given}.",
            str(error),
            "Try another --image-size, leave --output-stride out, or see `lwcl list archs`.",
        ) from error


def zero_init_residuals(backbone: nn.Module) -> int:
    """Zero-initialises the residual branches of MobileNet-like blocks, as timm's ResNets do; returns their number.

    The last normalisation of a branch gets weight 0 (Goyal et al., arXiv 1706.02677, 5.1): each block starts as the
    identity.
    """
    count = 0
    for block in backbone.modules():
        if getattr(block, "has_skip", False):
            norms = [module for module in block.children() if isinstance(module, nn.BatchNorm2d)]
            for norm in norms[-1:]:
                nn.init.zeros_(norm.weight)
                count += 1
    return count
