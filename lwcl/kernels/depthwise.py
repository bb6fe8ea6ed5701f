"""Fast gradients of depthwise convolutions on a CPU: the same sums as autograd's, by faster kernels.

oneDNN (3.12, in torch 2.14) has a fast kernel for the weight gradient of a depthwise convolution, but uses it only for
filters of at most three columns and maps no shorter than the filter. All others are computed as if the groups were
dense 16 x 16 blocks (`ONEDNN_VERBOSE=1` prints `jit` instead of `jit_dw`), several times slower. Here every sum is
rewritten for the fast kernel:

* a 5 x 5 filter as filters of 5 x 3: its outer columns see every other column of the map, and in channels_last memory
  two neighbouring columns of c channels are, without a copy, one column of 2c channels;
* maps shorter than the filter are stacked into one tall map, with rows of zeros between them;
* on a 1 x 1 map only the centre of the filter counts: products, in the forward pass too.

The input gradient at stride 1 is the forward convolution of the output's gradient with the flipped filter, whose kernel
is faster. At stride 2 it is computed in float32: in bfloat16 oneDNN has only a reference kernel. Measured by
benchmarks/depthwise.py.

Shapes: n images, c channels, maps h x w, filters (c, 1, k, k) padded by k // 2, stride s, outputs
(n, c, ceil(h / s), ceil(w / s)); x and g are images and the output's gradient with the channels last, (n, h, w, c).
"""

from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SUPPORTED_INSTRUCTION_SETS = ("AVX2", "AVX512")  # where oneDNN's kernels are the ones described above


def use_fast_depthwise(model: nn.Module) -> int:
    """Replaces the gradients of the depthwise 3 x 3 and 5 x 5 convolutions of `model`; returns the number of layers.

    Parameters, `state_dict`, types and outputs stay the same, bit for bit. A deep copy keeps the fast gradients, an
    unpickled model does not. Tensors on other devices, and CPUs other than x86, use torch's own gradients. Subclasses
    of `nn.Conv2d` (timm's `Conv2dSame`), other filters, paddings and dilations are left alone.
    """
    if torch.backends.cpu.get_cpu_capability() not in SUPPORTED_INSTRUCTION_SETS:
        return 0
    layers = [module for module in model.modules() if supports_fast_depthwise(module)]
    for layer in layers:
        layer.__dict__["forward"] = MethodType(FastDepthwise.forward, layer)
    return len(layers)


def supports_fast_depthwise(module: nn.Module) -> bool:
    """Whether `module` is depthwise, 3 x 3 or 5 x 5, of stride 1 or 2, and padded with zeros by half its side."""
    if type(module) is not nn.Conv2d or module.kernel_size not in ((3, 3), (5, 5)):
        return False
    reach = module.kernel_size[0] // 2
    return (
        module.groups == module.in_channels == module.out_channels
        and module.stride in ((1, 1), (2, 2))
        and module.padding == (reach, reach)
        and module.padding_mode == "zeros"
        and module.dilation == (1, 1)
    )


class FastDepthwise(nn.Conv2d):
    """Lends its `forward` to layers. Pickle stores a bound method as object and name, so it restores a plain layer."""

    def forward(self, images: Tensor) -> Tensor:
        """What `nn.Conv2d.forward` computes, (n, c, h, w) -> (n, c, ceil(h / s), ceil(w / s)), with fast gradients."""
        weight, bias = self.weight, self.bias
        if images.device.type != "cpu" or images.dim() != 4:
            return nn.Conv2d.forward(self, images)
        if torch.is_autocast_enabled("cpu"):
            precision = torch.get_autocast_dtype("cpu")
            images, weight = images.to(precision), weight.to(precision)
            bias = None if bias is None else bias.to(precision)
        output: Tensor = DepthwiseConv.apply(images, weight, bias, self.stride[0])
        return output


class DepthwiseConv(torch.autograd.Function):
    """A depthwise convolution (n, c, h, w) * (c, 1, k, k) + (c) whose backward pass is this file's."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
        """torch's convolution, but products for 1 x 1 maps, for which torch takes 30-40 ms instead of 0.2 ms."""
        ctx.save_for_backward(images, weight)
        ctx.stride = stride
        if is_single_pixel(images) and bias is None:
            return images * centre_weights(weight)
        return F.conv2d(images, weight, bias, stride, weight.shape[2] // 2, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        """The gradients of images, weight and bias, if needed."""
        images, weight = ctx.saved_tensors
        of_images, of_weight, of_bias, _ = ctx.needs_input_grad
        with torch.autocast("cpu", enabled=False):  # the forward pass has chosen the precision
            return (
                input_gradient(gradient, images, weight, ctx.stride) if of_images else None,
                weight_gradient(gradient, images, weight, ctx.stride) if of_weight else None,
                gradient.sum((0, 2, 3)) if of_bias else None,
                None,
            )


def is_single_pixel(images: Tensor) -> bool:
    """Whether the maps (n, c, h, w) are 1 x 1."""
    return images.shape[2:] == (1, 1)


def centre_weights(weight: Tensor) -> Tensor:
    """The middle of each filter: (c, 1, k, k) to (c, 1, 1)."""
    middle = weight.shape[2] // 2
    return weight[:, :, middle : middle + 1, middle]


def accumulation_dtype(tensor: Tensor) -> torch.dtype:
    """The precision in which to sum `tensor`."""
    return torch.promote_types(tensor.dtype, torch.float32)


def input_gradient(gradient: Tensor, images: Tensor, weight: Tensor, stride: int) -> Tensor:
    """(n, c, ceil(h / s), ceil(w / s)) to the gradient of the images, (n, c, h, w)."""
    if is_single_pixel(images):
        return gradient * centre_weights(weight)
    reach = weight.shape[2] // 2
    if stride == 1:
        return F.conv2d(gradient, weight.flip(2, 3), padding=reach, groups=len(weight))
    precision = accumulation_dtype(gradient)
    result: Tensor = torch.ops.aten.convolution_backward(
        *(gradient.to(precision), torch.empty_like(images, dtype=precision), weight.to(precision), None),
        *([stride, stride], [reach, reach], [1, 1], False, [0, 0], len(weight), [True, False, False]),
    )[0]
    return result.to(images.dtype)


def weight_gradient(gradient: Tensor, images: Tensor, weight: Tensor, stride: int) -> Tensor:
    """(n, c, ceil(h / s), ceil(w / s)) and (n, c, h, w) to the gradient of the filters, (c, 1, k, k)."""
    side = weight.shape[2]
    reach = side // 2
    if is_single_pixel(images):
        products = (images.to(accumulation_dtype(images)) * gradient).sum(0)
        return F.pad(products.to(weight.dtype).unsqueeze(1), (reach, reach, reach, reach))
    x, g = (tensor.permute(0, 2, 3, 1).contiguous() for tensor in (images, gradient))
    if x.shape[1] < side + -reach % stride:  # shorter ones miss the fast kernel: measured, all sides and strides
        x, g = stack_maps(x, g, reach, stride)
    if side == 3:
        return weight_gradient_three_columns(x, g, 3, stride, stride)
    if x.shape[2] % 2:
        x, g = F.pad(x, (0, 0, 0, 1)), F.pad(g, (0, 0, 0, 2 - stride))
    return weight_gradient_five_columns(x, g) if stride == 1 else weight_gradient_five_columns_strided(x, g)


def stack_maps(x: Tensor, g: Tensor, reach: int, stride: int) -> tuple[Tensor, Tensor]:
    """The n maps and their gradients as one, (1, n * (h + blank), w, c), at least `reach` blank rows after each."""
    rows = -(-(x.shape[1] + reach) // stride)
    x = F.pad(x, (0, 0, 0, 0, 0, rows * stride - x.shape[1]))
    g = F.pad(g, (0, 0, 0, 0, 0, rows - g.shape[1]))
    return x.flatten(0, 1).unsqueeze(0), g.flatten(0, 1).unsqueeze(0)


def weight_gradient_three_columns(x: Tensor, g: Tensor, rows: int, down: int, across: int) -> Tensor:
    """The gradient (c, 1, rows, 3) of filters with three columns and strides (down, across), by the fast kernel."""
    images, gradient = x.permute(0, 3, 1, 2), g.permute(0, 3, 1, 2)
    channels = x.shape[3]
    weight = x.new_empty(channels, 1, rows, 3)
    result: Tensor = torch.ops.aten.convolution_backward(
        *(gradient, images, weight, None),
        *([down, across], [rows // 2, 1], [1, 1], False, [0, 0], channels, [False, True, False]),
    )[1]
    return result


def pair_columns(x: Tensor) -> Tensor:
    """Neighbouring columns as one: (n, h, w, c) to (n, h, w / 2, 2c), even columns first, a view."""
    return x.reshape(x.shape[0], x.shape[1], x.shape[2] // 2, 2 * x.shape[3])


def weight_gradient_five_columns(x: Tensor, g: Tensor) -> Tensor:
    """The gradient (c, 1, 5, 5) at stride 1 and even width: columns 1, 2, 3, and columns 0, 2, 4 from the pairs."""
    near = weight_gradient_three_columns(x, g, 5, 1, 1)
    if x.shape[2] == 2:  # too narrow for the outer columns
        return F.pad(near, (1, 1))
    far = weight_gradient_three_columns(pair_columns(x), pair_columns(g), 5, 1, 1).view(2, -1, 1, 5, 3).sum(0)
    return torch.cat([far[..., :1], near, far[..., 2:]], dim=-1)


def weight_gradient_five_columns_strided(x: Tensor, g: Tensor) -> Tensor:
    """The gradient (c, 1, 5, 5) at stride 2: columns 0, 2, 4 of the filter from even columns of x, 1 and 3 from odd."""
    even_odd = weight_gradient_three_columns(pair_columns(x), torch.cat([g, g], dim=3), 5, 2, 1)
    columns = even_odd.view(2, -1, 1, 5, 3).permute(1, 2, 3, 4, 0).flatten(3)
    return columns[..., :5].contiguous()
