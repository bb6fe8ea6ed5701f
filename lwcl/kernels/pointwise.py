"""1 x 1 convolutions of small maps as matrix products, which are faster.

On 1 x 1 maps, convolutions take 2 to 5 times as long: squeeze-and-excitation and the last layer of a MobileNetV3.
Without AVX-512 the gradients of maps up to 4 x 4 pixels take longer too: 1.2 to 2.1 times in MobileNetV3-Large (64 px,
batch 128, AMD EPYC Zen 3; oneDNN's convolutions against MKL's products). Measured by benchmarks/step_profile.py.
"""

from types import MethodType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Pixels of the largest map to multiply, by torch's name of the CPU; 1 on others.
MAX_MATMUL_PIXELS = {"AVX2": 16}


def use_fast_pointwise(model: nn.Module) -> int:
    """Makes the dense 1 x 1 convolutions of `model` multiply matrices if maps are small; returns the number of layers.

    Parameters, `state_dict` and types stay the same, and so do outputs except for the order of the sums. For copies,
    pickles and other devices see `lwcl.kernels.depthwise`.
    """
    layers = [module for module in model.modules() if supports_fast_pointwise(module)]
    max_pixels = MAX_MATMUL_PIXELS.get(torch.backends.cpu.get_cpu_capability(), 1)
    for layer in layers:
        layer.__dict__ |= {"forward": MethodType(FastPointwise.forward, layer), "max_pixels": max_pixels}
    return len(layers)


def supports_fast_pointwise(module: nn.Module) -> bool:
    """Whether `module` is a dense 1 x 1 convolution of stride 1 without padding."""
    if type(module) is not nn.Conv2d or module.kernel_size != (1, 1):
        return False
    return module.groups == 1 and module.stride == (1, 1) and module.padding == (0, 0)


class FastPointwise(nn.Conv2d):
    """Lends its `forward` to layers; see `lwcl.kernels.depthwise.FastDepthwise`."""

    def forward(self, images: Tensor) -> Tensor:
        """What `nn.Conv2d.forward` computes, (n, c, h, w) -> (n, d, h, w)."""
        if images.device.type != "cpu" or images.dim() != 4 or not is_small_map(images, self.__dict__["max_pixels"]):
            return nn.Conv2d.forward(self, images)
        return F.linear(images.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


def is_small_map(images: Tensor, max_pixels: int) -> bool:
    """Whether the maps (n, c, h, w) have at most `max_pixels` pixels and are channels_last in memory."""
    pixels = images.shape[2] * images.shape[3]
    return pixels == 1 or (pixels <= max_pixels and images.is_contiguous(memory_format=torch.channels_last))
