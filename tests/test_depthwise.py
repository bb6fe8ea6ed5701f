"""The fast gradients of depthwise convolutions are autograd's."""

import copy
import pickle
from collections.abc import Iterator

import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

from lwcl.kernels.depthwise import SUPPORTED_INSTRUCTION_SETS, use_fast_depthwise

pytestmark = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in SUPPORTED_INSTRUCTION_SETS,
    reason="made for x86 with AVX2 or AVX-512",
)
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2}


def depthwise(side: int, stride: int, channels: int = 24, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, side, stride, side // 2, groups=channels, bias=bias)


def distance(got: Tensor, wanted: Tensor) -> float:
    """Relative to the norm of what is wanted."""
    return float((got.double() - wanted).norm() / wanted.norm())


def gradients(layer: nn.Conv2d, images: Tensor, upstream: Tensor) -> list[Tensor]:
    """Of the images and of each parameter."""
    images = images.clone().requires_grad_()
    return list(torch.autograd.grad(layer(images), [images, *layer.parameters()], upstream))


def check(layer: nn.Conv2d, images: Tensor) -> None:
    """`layer` made fast gives the same output and the gradients that autograd finds in float64."""
    exact = copy.deepcopy(layer).double()
    plain = layer(images)
    assert use_fast_depthwise(layer) == 1
    assert torch.equal(layer(images), plain)
    upstream = torch.randn_like(plain)
    wanted = gradients(exact, images.double(), upstream.double())
    for got, want in zip(gradients(layer, images, upstream), wanted, strict=True):
        assert got.dtype == images.dtype
        assert got.shape == want.shape
        assert distance(got, want) < TOLERANCE[images.dtype], tuple(images.shape)


def maps() -> Iterator[tuple[int, int]]:
    """Heights and widths: all squares up to 16, and narrow and flat ones."""
    yield from ((side, side) for side in range(1, 17))
    yield from ((1, 2), (1, 7), (2, 1), (2, 3), (3, 8), (4, 1), (9, 2), (12, 7))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [3, 5])
def test_gradients_are_those_of_autograd_in_float64(side: int, stride: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    for height, width in maps():
        images = torch.randn(4, 24, height, width, dtype=dtype).contiguous(memory_format=torch.channels_last)
        check(depthwise(side, stride).to(dtype), images)


@settings(max_examples=60, deadline=None)
@given(
    side=st.sampled_from([3, 5]),
    stride=st.sampled_from([1, 2]),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 40), st.integers(1, 20), st.integers(1, 20)),
    layout=st.sampled_from([torch.channels_last, torch.contiguous_format]),
    bias=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_gradients_are_right_for_any_shape_layout_and_bias(
    side: int, stride: int, shape: tuple[int, int, int, int], layout: torch.memory_format, bias: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    check(depthwise(side, stride, shape[1], bias), torch.randn(shape).contiguous(memory_format=layout))


def test_second_derivatives_are_right() -> None:
    torch.manual_seed(0)
    for side, stride, size in [(3, 1, 2), (3, 2, 4), (5, 1, 3), (5, 2, 5), (5, 1, 1)]:
        layer = depthwise(side, stride, channels=2).double()
        use_fast_depthwise(layer)
        images = torch.randn(2, 2, size, size, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradgradcheck(layer, (images,))


@pytest.mark.parametrize("size", [1, 3, 8])
def test_autocast_gives_float32_gradients_of_a_bfloat16_pass(size: int) -> None:
    torch.manual_seed(0)
    layer = depthwise(5, 2)
    plain, images = copy.deepcopy(layer), torch.randn(4, 24, size, size)
    use_fast_depthwise(layer)
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(images)
        assert output.dtype == torch.bfloat16
        assert torch.equal(output, plain(images))
        output.float().square().sum().backward()
        plain(images).float().square().sum().backward()
    assert layer.weight.grad is not None
    assert plain.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32
    assert distance(layer.weight.grad, plain.weight.grad.double()) < TOLERANCE[torch.bfloat16]


def test_gradients_are_the_same_bits_every_time() -> None:
    torch.manual_seed(0)
    for size in (1, 2, 4, 6, 13):
        layer, images = depthwise(5, 1, 72), torch.randn(32, 72, size, size)
        use_fast_depthwise(layer)
        upstream = torch.randn_like(layer(images))
        first = gradients(layer, images, upstream)
        for _ in range(3):
            assert all(map(torch.equal, gradients(layer, images, upstream), first))


def test_frozen_filters_and_first_layers_get_no_gradient() -> None:
    layer = depthwise(5, 1)
    use_fast_depthwise(layer)
    layer(torch.randn(2, 24, 6, 6)).sum().backward()
    assert layer.weight.grad is not None
    frozen = layer.requires_grad_(False)
    images = torch.randn(2, 24, 6, 6, requires_grad=True)
    layer.weight.grad = None
    frozen(images).sum().backward()
    assert images.grad is not None
    assert layer.weight.grad is None


def test_without_gradients_it_is_the_plain_convolution() -> None:
    layer = depthwise(5, 1, channels=960)
    use_fast_depthwise(layer)
    for size in (1, 6):
        images = torch.randn(8, 960, size, size)
        with torch.inference_mode():
            assert torch.equal(layer(images), F.conv2d(images, layer.weight, padding=2, groups=960))


def test_a_whole_net_keeps_its_state_outputs_and_gradients() -> None:
    torch.manual_seed(0)
    plain = timm.create_model("mobilenetv3_small_050", num_classes=0).double().to(memory_format=torch.channels_last)
    fast = copy.deepcopy(plain)
    assert use_fast_depthwise(fast) == 11
    assert fast.state_dict().keys() == plain.state_dict().keys()
    assert all(type(a) is type(b) for a, b in zip(fast.modules(), plain.modules(), strict=True))
    images = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    outputs = [net(images) for net in (plain, fast)]
    assert torch.equal(*outputs)
    for output in outputs:
        output.square().sum().backward()
    for (name, got), want in zip(fast.named_parameters(), plain.parameters(), strict=True):
        assert got.grad is not None
        assert want.grad is not None
        torch.testing.assert_close(got.grad, want.grad, rtol=1e-6, atol=1e-9, msg=name)


def test_a_deep_copy_is_fast_on_its_own_filters() -> None:
    layer = depthwise(3, 1)
    use_fast_depthwise(layer)
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        twin.weight.zero_()
    images = torch.randn(1, 24, 5, 5)
    assert twin(images).count_nonzero() == 0
    assert layer(images).count_nonzero() > 0
    assert type(twin(images).grad_fn).__name__ == "DepthwiseConvBackward"


def test_a_pickled_layer_comes_back_plain() -> None:
    layer = depthwise(3, 1)
    use_fast_depthwise(layer)
    back = pickle.loads(pickle.dumps(layer))  # noqa: S301 - our own bytes
    images = torch.randn(1, 24, 5, 5)
    assert torch.equal(back(images), layer(images))
    assert type(back(images).grad_fn).__name__ == "ConvolutionBackward0"
    assert use_fast_depthwise(back) == 1


def test_other_convolutions_are_left_alone() -> None:
    others = [
        nn.Conv2d(8, 8, 3, padding=1),
        nn.Conv2d(8, 16, 3, padding=1, groups=8),
        nn.Conv2d(8, 8, 7, padding=3, groups=8),
        nn.Conv2d(8, 8, 5, padding=1, groups=8),
        nn.Conv2d(8, 8, (3, 5), padding=(1, 2), groups=8),
        nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8),
        nn.Conv2d(8, 8, 3, padding=1, groups=8, padding_mode="reflect"),
        Conv2dSame(8, 8, 3, 2, groups=8),
        nn.Conv1d(8, 8, 3, padding=1, groups=8),
    ]
    assert use_fast_depthwise(nn.ModuleList(others)) == 0
    assert all("forward" not in vars(layer) for layer in others)


def test_a_processor_without_these_kernels_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert use_fast_depthwise(depthwise(3, 1)) == 0


def test_tensors_on_another_device_take_the_plain_way() -> None:
    layer = depthwise(5, 2).to("meta")
    use_fast_depthwise(layer)
    assert type(layer(torch.empty(2, 24, 8, 8, device="meta")).grad_fn).__name__ == "ConvolutionBackward0"
