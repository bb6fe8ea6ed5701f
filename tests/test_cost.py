"""What a backbone costs: known counts, nothing hidden, nothing changed, and in bounded time."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from lwcl.metrics import cost as costs
from lwcl.metrics.cost import count_macs, measure_cost
from lwcl.models.backbone import build_backbone


@pytest.fixture(autouse=True)
def little_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "TIMING_SECONDS", 0.05)


def small_net() -> nn.Module:
    """A convolution of 3 x 3 x 3 x 8 at half the resolution, and a linear layer 8 -> 5."""
    layers = [nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(8, 5))


def test_parameters_multiply_accumulates_and_bytes_are_those_by_hand() -> None:
    found = measure_cost(small_net(), 16, threads=1)
    parameters = 27 * 8 + 8 + 2 * 8 + 8 * 5 + 5
    assert found.parameters == parameters
    assert found.macs == 27 * 8 * 8 * 8 + 8 * 5
    assert found.megabytes == pytest.approx((4 * (parameters + 2 * 8) + 8) / 1e6)
    assert (found.threads, found.size) == (1, 16)


@pytest.mark.parametrize(
    ("arch", "millions", "parameters"),
    [("resnet18", 1813.6, 11_176_512), ("mobilenetv3_large_100", 215.3, 4_202_032)],
)
def test_known_architectures_have_their_known_counts(arch: str, millions: float, parameters: int) -> None:
    """torchvision's documentation: 1.81 and 0.22 GFLOPS with the classifier, whose 0.5 and 1.3 million are not here."""
    backbone, _ = build_backbone(arch)
    assert count_macs(backbone, 224) / 1e6 == pytest.approx(millions, abs=0.1)
    assert sum(p.numel() for p in backbone.parameters()) == parameters


def test_attention_is_counted_though_a_cpu_would_fuse_it() -> None:
    backbone, _ = build_backbone("vit_tiny_patch16_224", image_size=32)
    width, tokens, blocks = 192, 5, 12
    linear = blocks * tokens * 12 * width**2
    attention = blocks * 2 * tokens**2 * width
    assert count_macs(backbone, 32) == linear + attention + 4 * 768 * width


def test_what_an_output_stride_adds_is_counted() -> None:
    plain, dense = (build_backbone("resnet18", output_stride=stride)[0] for stride in (None, 8))
    assert count_macs(dense, 64) > 3 * count_macs(plain, 64)


@pytest.mark.parametrize("training", [True, False])
def test_a_backbone_is_left_as_it_is(training: bool) -> None:
    net = small_net().train(training)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    measure_cost(net, 16, channels_last=True, threads=1)
    assert all(tensor.equal(before[name]) for name, tensor in net.state_dict().items())
    assert all(p.requires_grad and p.device.type == "cpu" and p.is_contiguous() for p in net.parameters())
    assert net.training is training
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


class Timed(nn.Module):
    """Takes times that are set, on a clock of its own, and remembers what it was asked."""

    now = 0.0
    seconds: Callable[[int], float]
    asked: list[tuple[int, int, bool, bool]]

    def forward(self, images: Tensor) -> Tensor:
        if images.device.type != "meta":
            how = torch.get_num_threads(), torch.is_inference_mode_enabled(), self.training
            Timed.asked.append((len(images), *how))
            Timed.now += Timed.seconds(len(images))
        return images


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Timed]:
    """Makes a net that takes these seconds, one after the other, the last of them for ever."""
    monkeypatch.setattr(costs, "time", SimpleNamespace(perf_counter=lambda: Timed.now))
    monkeypatch.setattr(costs, "TIMING_SECONDS", 0.7)

    def made(for_one: list[float], for_many: list[float]) -> Timed:
        left = {1: for_one.copy(), 32: for_many.copy()}
        Timed.seconds = staticmethod(lambda count: left[count].pop(0) if len(left[count]) > 1 else left[count][0])
        Timed.asked = []
        return Timed()

    return made


def test_times_are_medians_after_a_warm_up(times: Callable[..., Timed]) -> None:
    found = measure_cost(times([0.5, 0.02, 0.03, 0.2], [0.3, 0.16, 0.12, 0.14]), 8)
    assert found.latency_1 == pytest.approx(30)
    assert found.latency_32 == pytest.approx(140)


def test_times_are_those_of_inference_with_the_threads_that_are_told(times: Callable[..., Timed]) -> None:
    before = torch.get_num_threads()
    assert measure_cost(times([0.02], [0.02]), 8, threads=before + 1).threads == before + 1
    assert {how[1:] for how in Timed.asked} == {(before + 1, True, False)}
    assert torch.get_num_threads() == before


def test_one_run_is_a_time_where_there_is_none_for_more(times: Callable[..., Timed]) -> None:
    found = measure_cost(times([0.04], [0.9]), 8)
    assert found.latency_32 == pytest.approx(900)
    assert [count for count, *_ in Timed.asked].count(32) == 1


def test_what_would_take_too_long_is_not_timed(times: Callable[..., Timed]) -> None:
    found = measure_cost(times([0.05], [1]), 8)
    assert found.latency_1 == pytest.approx(50)
    assert found.latency_32 is None
    assert {count for count, *_ in Timed.asked} == {1}


def test_a_fast_net_is_not_timed_for_ever(times: Callable[..., Timed]) -> None:
    measure_cost(times([1e-9], [1e-9]), 8)
    assert len(Timed.asked) == 2 * (costs.MAX_TIMED_RUNS + 1)


def test_convolutions_are_timed_in_the_memory_format_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def noted(net: nn.Module, images: Tensor) -> float:
        weight = next(p for p in net.parameters() if p.dim() == 4)
        formats = [x.is_contiguous(memory_format=torch.channels_last) for x in (weight, images)]
        seen.extend(formats)
        return 0.0

    monkeypatch.setattr(costs, "median_latency", noted)
    measure_cost(small_net(), 16, channels_last=True)
    assert all(seen)
    seen.clear()
    measure_cost(small_net(), 16)
    assert not any(seen)
