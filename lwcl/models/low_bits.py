"""Quantisation-aware training of low-bit encoders: fake quantisation in float32, straight-through gradients.

Weights have a scale per output channel: sign times the mean of |w| at 1 bit (XNOR-Net, arXiv 1603.05279, eq. 6), three
values at 2 bits (TWN, arXiv 1605.04711, eq. 3 and 6), even steps up to the largest |w| above. Activations have 2^bits
even steps between moving extremes of each layer's input, zero among them (arXiv 1712.05877, 3.1). The first and the
last layer keep 8 bits.

Each layer is rounded by hooks, so types, parameters and fast kernels stay; a range per layer is added to the
`state_dict`.
"""

import copy
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lwcl.models.backbone import batch_norms
from lwcl.models.encoder import Encoder

EDGE_BITS = 8  # of the first and the last layer
RANGE_MOMENTUM = 0.1  # share of a new batch in the moving extremes, as of batch norm's statistics
TERNARY_THRESHOLD = 0.7  # of the mean |w|: smaller weights are 0 (TWN, eq. 6)


class LowBits(NamedTuple):
    """Bits of weights and of activations."""

    weights: int
    activations: int


def simulate_bits(encoder: Encoder, bits: LowBits) -> Encoder:
    """Lets the convolutions and linear layers of the backbone compute with these bits, in place; returns the encoder.

    A layer's range is empty, and its input not quantised, until the layer has seen a batch in train mode.
    """
    layers = [module for module in encoder.backbone.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    for layer in layers:
        at_edge = layer is layers[0] or layer is layers[-1]
        vars(layer)["low_bits"] = LowBits(*(max(EDGE_BITS, count) for count in bits)) if at_edge else bits
        layer.register_buffer("input_range", torch.zeros(2))
        layer.register_forward_pre_hook(enter_layer)
        layer.register_forward_hook(leave_layer, always_call=True)
    encoder.bits = bits
    return encoder


def low_bit_layers(net: nn.Module) -> Iterator[Any]:
    """The layers that compute with few bits."""
    return (module for module in net.modules() if "low_bits" in vars(module))


def enter_layer(layer: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A hook: rounds the input, and puts a rounded weight before the layer's own."""
    if inputs[0].is_meta:  # the cost is counted, nothing is computed
        return inputs
    bits, x = layer.low_bits, inputs[0].float()
    if layer.training:
        with torch.no_grad():
            extremes = torch.stack([x.min().clamp(max=0), x.max().clamp(min=0)])
            layer.input_range.lerp_(extremes, RANGE_MOMENTUM if layer.input_range.any() else 1.0)
    vars(layer)["weight"] = round_weight(layer.weight, bits.weights)
    return (round_activations(x, layer.input_range, bits.activations), *inputs[1:])


def leave_layer(layer: nn.Module, inputs: object, output: object) -> None:
    """A hook: the layer has its own weight again."""
    vars(layer).pop("weight", None)


def round_activations(x: Tensor, extremes: Tensor, bits: int) -> Tensor:
    """`x` on 2^bits even steps between the extremes (2,); outside them it is clipped and has no gradient."""
    if not extremes.any():
        return x
    levels = 2**bits - 1
    scale = ((extremes[1] - extremes[0]) / levels).clamp_min(1e-12)
    zero = (-extremes[0] / scale).round().int()
    rounded: Tensor = torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, levels)
    return rounded


def round_weight(weight: Tensor, bits: int) -> Tensor:
    """A weight (out, ...) with a scale per output channel; its gradient is that of the rounded one."""
    rows = weight.detach().flatten(1)
    size = rows.abs()
    rounded: Tensor
    if bits > 2:
        top = 2 ** (bits - 1) - 1
        steps = (size.amax(1, keepdim=True) / top).clamp_min(1e-12)
        rounded = (rows / steps).round() * steps
    elif bits == 2:
        kept = size > TERNARY_THRESHOLD * size.mean(1, keepdim=True)
        scale = (size * kept).sum(1, keepdim=True) / kept.sum(1, keepdim=True).clamp_min(1)
        rounded = rows.sign() * kept * scale
    else:
        rounded = torch.where(rows < 0, -1.0, 1.0) * size.mean(1, keepdim=True)
    return rounded.view_as(weight) + (weight - weight.detach())  # exact, with the gradient of a sum


@torch.no_grad()
def settle_ranges(encoder: Encoder, batches: Iterable[Tensor], *, batch_norm: bool) -> None:
    """Takes the layers' ranges from batches (B, 3, H, W), and with `batch_norm` its statistics too, as their mean.

    Post-training quantisation; the statistics of the float32 encoder no longer fit the rounded layers' outputs.
    """
    encoder.eval()
    norms = list(batch_norms(encoder.backbone)) if batch_norm else []
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
    for module in (*low_bit_layers(encoder), *norms):
        module.training = True
    for images in batches:
        encoder.features(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    encoder.eval()


def bake(backbone: nn.Module) -> nn.Module:
    """A copy with rounded weights as its own and exact activations: a plain network, for files of other programs."""
    plain = copy.deepcopy(backbone)
    for layer in list(low_bit_layers(plain)):
        layer.weight.data = round_weight(layer.weight.data, vars(layer).pop("low_bits").weights)
        del layer.input_range
        for hooks in (layer._forward_pre_hooks, layer._forward_hooks, layer._forward_hooks_always_called):
            hooks.clear()
    return plain


def weight_bytes(encoder: Encoder) -> int:
    """Bytes of the backbone's parameters if the rounded weights are packed; scales, biases and norms in float32."""
    packed = {id(layer.weight): layer.low_bits.weights for layer in low_bit_layers(encoder.backbone)}
    scales: int = sum(32 * len(layer.weight) for layer in low_bit_layers(encoder.backbone))
    bits: int = sum(packed.get(id(one), 32) * one.numel() for one in encoder.backbone.parameters())
    return (bits + scales) // 8


def start_heads(student: Encoder, twin: Encoder, *, same_space: bool) -> None:
    """Initialises the student's head to reproduce the float32 encoder's output, where shapes allow.

    `same_space`: the target is the twin's own features, so a square linear head begins as the identity. Otherwise the
    head begins as the twin's.
    """
    head = list(student.head)
    if not same_space and head and student.head_layers == twin.head_layers and student.head_norm == twin.head_norm:
        student.head.load_state_dict(twin.head.state_dict())
    elif len(head) == 1 and isinstance(head[0], nn.Linear) and head[0].in_features == head[0].out_features:
        nn.init.eye_(head[0].weight)
        nn.init.zeros_(head[0].bias)
