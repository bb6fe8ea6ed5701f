"""Strided 1 x 1 convolutions of few channels: the heap stays whole, the numbers stay the same."""

import copy
import os
import pickle
import subprocess
import sys

import pytest
import timm
import torch
from torch import nn

from lwcl.kernels.strided import avoid_strided_pointwise

#: Dies by a signal without `use_cpu_kernels`, with oneDNN of torch 2.14; a write beyond a block shows when it is freed.
STEP = """
import sys, timm, torch
from lwcl.kernels.selection import use_cpu_kernels
torch.set_num_threads(1)
arch, size = sys.argv[1], int(sys.argv[2])
net = timm.create_model(arch, num_classes=0).train().to(memory_format=torch.channels_last)
use_cpu_kernels(net, net)
images = torch.randn(8, 3, size, size).contiguous(memory_format=torch.channels_last)
for _ in range(2):
    net(images).sum().backward()
"""


@pytest.mark.parametrize(("isa", "size"), [("AVX2", 64), ("", 224)])
def test_a_net_that_begins_with_a_strided_1_x_1_convolution_survives_a_step(isa, size):
    environment = {**os.environ, **({"ONEDNN_MAX_CPU_ISA": isa} if isa else {})}
    words = [sys.executable, "-c", STEP, "mobileone_s0", str(size)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-500:]


@pytest.mark.parametrize("channels", [1, 3, 15])
@pytest.mark.parametrize("stride", [2, 3, (1, 2)])
@pytest.mark.parametrize("side", [9, 64])
def test_outputs_and_gradients_are_those_of_the_strided_convolution(channels, stride, side):
    exact = nn.Conv2d(channels, 24, 1, stride=stride).double()
    mended = copy.deepcopy(exact).float().to(memory_format=torch.channels_last)
    assert avoid_strided_pointwise(mended) == 1
    images = torch.randn(4, channels, side, side)
    results = []
    for layer, given in ((exact, images.double()), (mended, images.contiguous(memory_format=torch.channels_last))):
        given.requires_grad_()
        output = layer(given)
        results.append([output, *torch.autograd.grad(output.square().sum(), [given, *layer.parameters()])])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(other.double(), one, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 8, 1),
        nn.Conv2d(3, 8, 3, stride=2),
        nn.Conv2d(3, 8, 1, stride=2, padding=1),
        nn.Conv2d(16, 8, 1, stride=2),
        nn.Conv2d(8, 8, 1, stride=2, groups=8),
    ],
    ids=["stride", "3x3", "padding", "channels", "groups"],
)
def test_other_convolutions_stay_as_they_are(layer):
    assert avoid_strided_pointwise(layer) == 0


def test_a_net_keeps_its_parameters_and_an_unpickled_one_is_plain():
    net = timm.create_model("mobileone_s0", num_classes=0).eval()
    images, names = torch.randn(2, 3, 32, 32), list(net.state_dict())
    plain = net(images)
    assert avoid_strided_pointwise(net) > 0
    assert list(net.state_dict()) == names
    torch.testing.assert_close(net(images), plain, rtol=1e-4, atol=1e-5)
    assert torch.equal(pickle.loads(pickle.dumps(net))(images), plain)  # noqa: S301
