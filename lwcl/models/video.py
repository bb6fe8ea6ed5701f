"""Backbones for clips (B, T, 3, H, W): torchvision's networks for videos, and timm's networks for images over frames.

A network for images is left as it is, with hooks around it: frames become a batch, and their features are averaged.
With `shift`, an eighth of the channels that enter a residual branch comes from the frame before, an eighth from the
one after (TSM, Lin et al. 2019, arXiv 1811.08383: residual shift, 1/8 each way): no parameters, no computation.
"""

import functools
from typing import Any, cast

import torch
import torchvision
from torch import Tensor, nn

from lwcl.errors import UsageError
from lwcl.models.archs import check_arch

#: Arguments of an encoder that are not timm's.
FRAMES, TEMPORAL = "frames", "temporal"
#: Of batch norm's running statistics. torchvision's S3D has 0.001: after 1,000 steps a third of them would still be
#: the initial ones, and what was trained would give nearly the same features for all clips.
MIN_MOMENTUM = 0.1
SHIFTED_SHARE = 8  # one channel in so many comes from the frame before, and one from the frame after
BRANCH_STARTS = ("conv1", "conv_pw", "conv_exp", "pw_exp")  # first layers of residual branches: ResNets, MobileNets
#: Input of torchvision's weights for Kinetics-400 (its documentation): side in pixels, mean and std.
VIDEO_SIDES = {"video/s3d": 224}
VIDEO_SIDE, VIDEO_MEAN, VIDEO_STD = 112, (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)


def build_video_net(arch: str) -> nn.Module:
    """A randomly initialised network of torchvision without its classifier: clips (B, T, 3, H, W) -> (B, width)."""
    net: Any = getattr(torchvision.models.video, check_arch(arch).partition("/")[2])(weights=None)
    if hasattr(net, "fc"):
        width, net.fc = net.fc.in_features, nn.Identity()
    else:  # S3D, which averages over what its classifier gives for each place; its pooling needs 224 px and 16 frames
        width, net.classifier = net.classifier[1].in_channels, nn.Identity()
        net.avgpool = nn.AdaptiveAvgPool3d(1)
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm3d):
            norm.momentum = max(cast(float, norm.momentum), MIN_MOMENTUM)
    vars(net)["head_hidden_size"] = width
    net.register_forward_pre_hook(channels_first)
    return cast(nn.Module, net)


def channels_first(net: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    """A hook: (B, T, C, H, W) as (B, C, T, H, W), as torchvision's networks take it."""
    return inputs[0].transpose(1, 2)


def over_frames(net: nn.Module, frames: int, temporal: str) -> None:
    """Lets an image network take clips of `frames` frames; `temporal`: mean or shift. Raises `UsageError`."""
    if temporal == "shift":
        starts = [start for block in residual_blocks(net) for start in first_layers(block)]
        if not starts:
            raise UsageError(
                f"--temporal shift: no residual branches that it knows in {type(net).__name__}.",
                "It shifts what enters the first convolution of each, as in ResNets and MobileNets.",
                "Give --temporal mean, or another --arch.",
            )
        for start in starts:
            start.register_forward_pre_hook(functools.partial(shift_hook, frames=frames))
    net.register_forward_pre_hook(frames_as_batch)
    net.register_forward_hook(functools.partial(mean_over_frames, frames=frames))


def residual_blocks(net: nn.Module) -> list[nn.Module]:
    """The blocks with a skip connection."""
    return [block for block in net.modules() if hasattr(block, "drop_path") and getattr(block, "has_skip", True)]


def first_layers(block: nn.Module) -> list[nn.Module]:
    """The first layer of a block's residual branch, if it is known."""
    named = dict(block.named_children())
    return [named[name] for name in BRANCH_STARTS if name in named][:1]


def frames_as_batch(net: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    """A hook: (B, T, C, H, W) as (B T, C, H, W)."""
    return inputs[0].flatten(0, 1)


def mean_over_frames(net: nn.Module, inputs: tuple[Tensor, ...], features: Tensor, *, frames: int) -> Tensor:
    """A hook: features (B T, width) as their means (B, width)."""
    return torch.unflatten(features, 0, (-1, frames)).mean(1)


def shift_hook(layer: nn.Module, inputs: tuple[Tensor, ...], *, frames: int) -> Tensor:
    """A hook: the input (B T, C, H, W) of a layer, with channels of the neighbouring frames."""
    return shift_frames(inputs[0], frames)


def shift_frames(x: Tensor, frames: int) -> Tensor:
    """Channels of each frame replaced by the next frame's and the previous one's; zero at the ends of the clip."""
    shifted, share = x.clone(), x.shape[1] // SHIFTED_SHARE
    before, after = (torch.unflatten(one, 0, (-1, frames)) for one in (x, shifted))
    after[:, :-1, :share], after[:, -1, :share] = before[:, 1:, :share], 0
    after[:, 1:, share : 2 * share], after[:, 0, share : 2 * share] = before[:, :-1, share : 2 * share], 0
    return shifted
