"""Which kernels a net that is trained on a CPU gets."""

from torch import nn

from lwcl.kernels.depthwise import use_fast_depthwise
from lwcl.kernels.pointwise import use_fast_pointwise
from lwcl.kernels.strided import avoid_strided_pointwise


def use_cpu_kernels(net: nn.Module, trained: nn.Module) -> None:
    """Gives `net` this package's convolutions; `trained` is the part of it that gradients are taken of."""
    use_fast_depthwise(trained)
    use_fast_pointwise(net)
    avoid_strided_pointwise(net)
