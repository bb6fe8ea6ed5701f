"""1 x 1 convolutions of small maps as the matrix products that they are: convolved, they take longer.

Of 1 x 1 maps they take 2 to 5 times as long: the layers of squeeze-and-excitation and the last one of a MobileNetV3.
Without AVX-512 so do, in their gradients, maps of up to 4 x 4 pixels: at 64 px, batch 128, those of MobileNetV3-Large
1.2 to 2.1 times on an AMD EPYC (Zen 3), with oneDNN's convolutions on the one side and MKL's products on the other.
Measured: benchmarks/step_profile.py.
"""

from types import MethodType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Pixels of the largest map that is multiplied, by what torch says of the CPU; 1 on others.
MAX_MATMUL_PIXELS = {"AVX2": 16}


def use_fast_pointwise(model: nn.Module) -> int:
    """Let the dense 1 x 1 convolutions of `model` multiply matrices where maps are small; returns how many may.

    Parameters, `state_dict` and types stay the same, and outputs but for the order of the sums. Copies, pickles and
    other devices are as in `lwcl.kernels.depthwise`.
    """
    layers = [module for module in model.modules() if supports_fast_pointwise(module)]
    most = MAX_MATMUL_PIXELS.get(torch.backends.cpu.get_cpu_capability(), 1)
    for layer in layers:
        layer.__dict__ |= {"forward": MethodType(forward, layer), "multiplied": most}
    return len(layers)


def supports_fast_pointwise(module: nn.Module) -> bool:
    """Whether `module` is a dense 1 x 1 convolution of stride 1 without padding."""
    if type(module) is not nn.Conv2d or module.kernel_size != (1, 1):
        return False
    return module.groups == 1 and module.stride == (1, 1) and module.padding == (0, 0)


# Of this name because pickle stores a bound method as its object and name, and so restores `nn.Conv2d.forward`.
def forward(self: nn.Conv2d, images: Tensor) -> Tensor:
    """What `nn.Conv2d.forward` computes, (n, c, h, w) to (n, d, h, w)."""
    if images.device.type != "cpu" or images.dim() != 4 or not is_small_map(images, self.__dict__["multiplied"]):
        return nn.Conv2d.forward(self, images)
    return F.linear(images.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


def is_small_map(images: Tensor, most: int) -> bool:
    """Whether the maps (n, c, h, w) have at most so many pixels, with their channels side by side in memory."""
    pixels = images.shape[2] * images.shape[3]
    return pixels == 1 or (pixels <= most and images.is_contiguous(memory_format=torch.channels_last))
