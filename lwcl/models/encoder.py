"""The encoder: a backbone of timm and a projection head."""

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from lwcl.errors import UsageError
from lwcl.losses import l2_normalise
from lwcl.models.backbone import build_backbone
from lwcl.models.video import FRAMES, TEMPORAL, over_frames
from lwcl.system.out_of_memory import is_out_of_memory

if TYPE_CHECKING:
    from lwcl.models.low_bits import LowBits


def hidden_width(hidden: str, width: int) -> int:
    """The hidden width of a head: `2x` of the backbone's `width`, a number, or 0: none. Raises `UsageError`."""
    text = hidden.strip().lower()
    try:
        number = round(float(text[:-1]) * width) if text.endswith("x") else int(text)
    except ValueError:
        number = -1
    if number < 0:
        raise UsageError(
            f"--hidden: invalid width {hidden!r}.",
            remedy="Give a multiple of the backbone's width (1x, 2x), a number, or 0 for no hidden layer.",
        )
    return number


class Encoder(nn.Module):
    """A timm backbone and a projection head; images (B, C, H, W) or clips (B, T, C, H, W) ->
    unit embeddings (B, dim).

    Head: see `mlp`. `bn_eps`: the epsilon of the backbone's batch norms, for weights that were trained with another
    one than timm's (MobileNets and EfficientNets: for others it is unknown). `bits`: see `lwcl.models.low_bits`.
    """

    bits: "LowBits | None" = None

    def __init__(
        self,
        arch: str,
        head: Sequence[int | str] | Callable[[int], Sequence[int | str]] = (),
        *,
        norm: bool = False,
        image_size: int | None = None,
        output_stride: int | None = None,
        bn_eps: float | None = None,
        channels: int = 3,
        frames: int = 0,
        temporal: str | None = None,
    ) -> None:
        super().__init__()
        self.arch = arch
        self.backbone, self.arguments = build_backbone(
            arch,
            image_size=image_size,
            output_stride=output_stride,
            channels=channels,
            frames=frames,
            temporal=temporal,
        )
        norms = [module for module in self.backbone.modules() if isinstance(module, nn.BatchNorm2d)]
        if bn_eps is not None and any(module.eps != bn_eps for module in norms):
            self.arguments["bn_eps"] = bn_eps
            for module in norms:
                module.eps = bn_eps
        self.width = int(cast(Any, self.backbone).head_hidden_size)
        self.head_layers: tuple[int | str, ...] = tuple(head(self.width) if callable(head) else head)
        self.head, self.head_norm = mlp(self.width, self.head_layers, norm), norm
        self.head_widths = tuple(layer.out_features for layer in self.head if isinstance(layer, nn.Linear))

    @property
    def channels(self) -> int:
        """The channels of its images."""
        return int(self.arguments.get("in_chans", 3))

    @property
    def frames(self) -> int:
        """The frames of its clips, 0 for images."""
        return int(self.arguments.get(FRAMES, 0))

    def input_shape(self, size: int) -> tuple[int, ...]:
        """The shape of an image of `size` pixels (C, size, size), or of a clip (T, C, size, size)."""
        return (*([self.frames] if self.frames else []), self.channels, size, size)

    def over_frames(self, frames: int) -> None:
        """Lets an encoder for images take clips: its features are averaged over their frames."""
        over_frames(self.backbone, frames, "mean")
        self.arguments = {**self.arguments, FRAMES: frames, TEMPORAL: "mean"}

    def features(self, images: Tensor) -> Tensor:
        """The pooled features (B, width) of the backbone, which are what is deployed."""
        return cast(Tensor, self.backbone(images))

    def forward(self, images: Tensor) -> Tensor:
        """Unit embeddings (B, dim), at least float32."""
        return l2_normalise(self.head(self.features(images)))


def check_forward(encoder: Encoder, size: int) -> None:
    """Raises `UsageError` unless the encoder (on the CPU) gives features of its width for an image of `size` pixels."""
    training = encoder.training
    try:
        with torch.no_grad():
            shape = tuple(encoder.eval().features(torch.zeros(1, *encoder.input_shape(size))).shape)
        reason = "" if shape == (1, encoder.width) else f"Its features have shape {shape}, not (1, {encoder.width})."
    except Exception as error:  # timm's models raise errors of many classes for a size that they do not support
        if is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
    encoder.train(training)
    if reason:
        raise UsageError(
            f"{encoder.arch} does not support images of {size} px.",
            reason,
            "Give another --image-size, such as a multiple of 32, or the default of the architecture.",
        )


def mlp(width: int, head: Sequence[int | str], norm: bool = False) -> nn.Sequential:
    """A projection head on features (B, width); without layers, the identity.

    `head`: widths of linear layers with ReLU between; with `norm`, batch norm after each, the last without scale and
    shift (MoCo v3, arXiv 2104.02057). Or every layer by name, as other code has them: `linear 128`,
    `linear 128 unbiased`, `norm`, `norm plain` (without scale and shift), `relu`, `gelu`.
    """
    layers: list[nn.Module] = []
    for spec in head if all(isinstance(layer, str) for layer in head) else layer_specs(head, norm):
        kind, *more = str(spec).split()
        if kind == "linear":
            layers.append(nn.Linear(width, width := int(more[0]), bias="unbiased" not in more))
        elif kind == "norm":
            layers.append(nn.BatchNorm1d(width, affine="plain" not in more))
        else:
            layers.append({"relu": nn.ReLU(inplace=True), "gelu": nn.GELU()}[kind])
    return nn.Sequential(*layers)


def layer_specs(widths: Sequence[int | str], norm: bool) -> list[str]:
    """The layers of a head given by its widths; see `mlp`."""
    specs: list[str] = []
    for number, width in enumerate(widths, 1):
        specs += ["relu"] if specs else []
        specs += [f"linear {width} unbiased", "norm" if number < len(widths) else "norm plain"] if norm else []
        specs += [] if norm else [f"linear {width}"]
    return specs


def weights_hash(module: nn.Module) -> str:
    """SHA-256 (hex) of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
