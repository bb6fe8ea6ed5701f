"""1 x 1 convolutions of 1 x 1 maps as the matrix products that they are: convolved, they take 2 to 5 times as long.

Such are the layers of squeeze-and-excitation and the last one of a MobileNetV3. Measured: benchmarks/step_profile.py.
"""

from types import MethodType

import torch.nn.functional as F
from torch import Tensor, nn


def fast_pointwise(model: nn.Module) -> int:
    """Let the dense 1 x 1 convolutions of `model` multiply matrices where a map is 1 x 1; returns how many may.

    Parameters, `state_dict` and types stay the same, and outputs but for the order of the sums. Copies, pickles and
    other devices are as in `lwcl.depthwise`.
    """
    layers = [module for module in model.modules() if is_eligible(module)]
    for layer in layers:
        layer.__dict__["forward"] = MethodType(forward, layer)
    return len(layers)


def is_eligible(module: nn.Module) -> bool:
    """Whether `module` is a dense 1 x 1 convolution of stride 1 without padding."""
    if type(module) is not nn.Conv2d or module.kernel_size != (1, 1):
        return False
    return module.groups == 1 and module.stride == (1, 1) and module.padding == (0, 0)


# Of this name because pickle stores a bound method as its object and name, and so restores `nn.Conv2d.forward`.
def forward(self: nn.Conv2d, images: Tensor) -> Tensor:
    """What `nn.Conv2d.forward` computes, (n, c, h, w) to (n, d, h, w)."""
    if images.device.type != "cpu" or images.dim() != 4 or images.shape[2:] != (1, 1):
        return nn.Conv2d.forward(self, images)
    return F.linear(images.flatten(1), self.weight.flatten(1), self.bias)[:, :, None, None]
