"""1 x 1 convolutions of 1 x 1 maps as matrix products: the same numbers, and nothing else changes."""

import copy
import pickle

import pytest
import timm
import torch
from torch import nn

from lwcl.kernels import pointwise
from lwcl.kernels.pointwise import use_fast_pointwise


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("side", [1, 2, 4])
def test_a_product_gives_the_convolutions_outputs_and_gradients(bias, dtype, side, monkeypatch):
    monkeypatch.setitem(pointwise.MAX_MATMUL_PIXELS, torch.backends.cpu.get_cpu_capability(), 16)
    plain = nn.Conv2d(40, 24, 1, bias=bias).to(dtype)
    fast = copy.deepcopy(plain)
    assert use_fast_pointwise(fast) == 1
    images = torch.randn(8, 40, side, side, dtype=dtype).contiguous(memory_format=torch.channels_last)
    upstream = torch.randn(8, 24, side, side, dtype=dtype)
    found = []
    for layer in (plain, fast):
        given = images.clone().requires_grad_()
        output = layer(given)
        found.append([output, *torch.autograd.grad(output, [given, *layer.parameters()], upstream)])
    for one, other in zip(*found, strict=True):
        assert one.shape == other.shape
        torch.testing.assert_close(one, other)


def test_under_autocast_the_product_is_of_bfloat16():
    layer = nn.Conv2d(16, 8, 1)
    use_fast_pointwise(layer)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(2, 16, 1, 1)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("side", "layout", "small"),
    [
        (5, torch.channels_last, False),
        (4, torch.channels_last, True),
        (4, torch.contiguous_format, False),
        (1, torch.contiguous_format, True),
    ],
)
def test_maps_that_are_larger_or_lie_otherwise_in_memory_are_convolved_as_before(side, layout, small, monkeypatch):
    monkeypatch.setitem(pointwise.MAX_MATMUL_PIXELS, torch.backends.cpu.get_cpu_capability(), 16)
    layer = nn.Conv2d(16, 8, 1)
    use_fast_pointwise(layer)
    convolved = []
    monkeypatch.setattr(nn.Conv2d, "forward", lambda self, images: convolved.append(images))
    output = layer(torch.randn(2, 16, side, side).contiguous(memory_format=layout))
    assert bool(convolved) != small
    assert (output is not None) == small
    assert output is None or output.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(8, 8, 3, padding=1),
        nn.Conv2d(8, 8, 1, groups=2),
        nn.Conv2d(8, 8, 1, stride=2),
        nn.Conv2d(8, 8, 1, padding=1),
    ],
    ids=["3x3", "groups", "stride", "padding"],
)
def test_other_convolutions_are_left_alone(layer):
    assert use_fast_pointwise(layer) == 0


def test_a_net_keeps_its_parameters_and_an_unpickled_one_is_plain():
    net = timm.create_model("mobilenetv3_small_050", num_classes=0).eval()
    images, names = torch.randn(2, 3, 32, 32), list(net.state_dict())
    plain = net(images)
    assert use_fast_pointwise(net) > 10
    assert list(net.state_dict()) == names
    torch.testing.assert_close(net(images), plain, rtol=1e-4, atol=1e-5)
    again = pickle.loads(pickle.dumps(net))  # noqa: S301
    assert torch.equal(again(images), plain)
