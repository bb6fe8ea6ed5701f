"""1 x 1 convolutions that leave out rows and columns, taken of the pixels that they look at.

The weight gradient of such a convolution of few channels corrupts the heap in oneDNN (3.12, in torch 2.14; reported as
uxlfoundation/oneDNN issue 6035): with the channels last in memory it first gathers the pixels, into room for c channels
each, but steps through that room in blocks of 8 (AVX2) or 16 (AVX-512). The process dies in `backward` without a word,
or trains on with other numbers. The first layers of FastViT, MobileOne and RepVGG are of this kind.
Taken of the pixels themselves, it is a convolution of stride 1, for which nothing is gathered.
"""

from types import MethodType

import torch.nn.functional as F
from torch import Tensor, nn

CHANNEL_BLOCK = 16  # input channels from which on oneDNN's blocks are full, or it has room for them


def avoid_strided_pointwise(model: nn.Module) -> int:
    """Let the strided 1 x 1 convolutions of few channels in `model` see only the pixels they need; returns how many.

    Parameters, `state_dict` and types stay the same, and outputs but for the order of the sums. Copies, pickles and
    other devices are as in `lwcl.kernels.depthwise`.
    """
    layers = [module for module in model.modules() if is_strided_pointwise(module)]
    for layer in layers:
        layer.__dict__["forward"] = MethodType(forward, layer)
    return len(layers)


def is_strided_pointwise(module: nn.Module) -> bool:
    """Whether `module` is a dense 1 x 1 convolution of few channels with a stride and without padding."""
    if type(module) is not nn.Conv2d or module.kernel_size != (1, 1) or module.groups > 1:
        return False
    return module.stride != (1, 1) and module.padding in ((0, 0), "valid") and module.in_channels < CHANNEL_BLOCK


# Of this name because pickle stores a bound method as its object and name, and so restores `nn.Conv2d.forward`.
def forward(self: nn.Conv2d, images: Tensor) -> Tensor:
    """What `nn.Conv2d.forward` computes, (n, c, h, w) to (n, d, ceil(h / s), ceil(w / s))."""
    if images.device.type != "cpu" or images.dim() != 4:
        return nn.Conv2d.forward(self, images)
    down, across = self.stride
    return F.conv2d(images[:, :, ::down, ::across], self.weight, self.bias)
