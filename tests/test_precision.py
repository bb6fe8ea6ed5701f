"""`--precision auto`: bfloat16 only where it is validated and faster; timed once, by real steps, leaving no trace."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lwcl.config.auto import RunFacts, resolve_plan
from lwcl.config.plan import plan_pretrain
from lwcl.config.recipes import Optimization
from lwcl.kernels import bfloat16
from lwcl.methods.method import methods
from lwcl.models.encoder import Encoder
from lwcl.models.net import Net
from lwcl.reporting.console import Screen
from lwcl.system.compute import Compute
from lwcl.training import precision
from lwcl.training.build import build_model
from lwcl.training.precision import TimingJob

ARCH, SIZE = "test_efficientnet", 32
RECIPE = Optimization(epochs=2, batch_size=8, lr=0.01, weight_decay=0.0, warmup=0.0)
METHOD = methods("pretrain")["moco"](queue_size=24, key_momentum=0.9, dim=8, hidden="16")
CPU = Compute(torch.device("cpu"), channels_last=True)


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> Net:
    """A net on which bfloat16 counts as validated, and little time to find out how fast it is."""
    monkeypatch.setattr(precision, "BF16_VALIDATED", {ARCH: "for the tests"})
    monkeypatch.setattr(precision, "TIMING_BUDGET_SECONDS", 0.1)
    monkeypatch.setattr(bfloat16, "bf16_is_emulated", lambda: False)
    torch.manual_seed(0)
    return CPU.place(METHOD.build(Encoder(ARCH, METHOD.head, image_size=SIZE)))


def chosen(net: Net, **changes: Any) -> precision.PrecisionChoice:
    """The choice for a small run."""
    return precision.choose_precision(TimingJob(METHOD, net, dataclasses.replace(RECIPE, **changes), CPU, SIZE))


def never(*_: object) -> dict[str, float]:
    """Stands for what must not happen."""
    raise AssertionError("timed again")


def test_without_a_proof_it_is_float32_and_nothing_is_timed(
    net: Net, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "BF16_VALIDATED", {})
    monkeypatch.setattr(precision, "time_precisions", never)
    found = chosen(net)
    assert found.name == "fp32"
    assert ARCH in found.reason
    assert not (own_cache / "precision.json").exists()


def test_a_cpu_that_is_slow_in_bfloat16_gets_float32_untimed_and_a_warning_where_told_otherwise(
    net: Net, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bfloat16, "bf16_is_emulated", lambda: True)
    monkeypatch.setattr(precision, "time_precisions", never)
    assert chosen(net).name == "fp32"
    for told, name in {"auto": "fp32", "fp32": "fp32", "bf16": "bf16"}.items():
        flags = {"arch": ARCH, "image_size": SIZE, "precision": told, "device": "cpu"}
        model = build_model(resolve_plan(plan_pretrain(flags), RunFacts(100, 64, 1, False)), Screen(quiet=True))
        assert model.config.options.precision == name
        assert model.compute.autocast == precision.AUTOCAST_DTYPES[name]
        assert ("faster in fp32" in capsys.readouterr().err) == (told == "bf16")


def test_both_precisions_are_timed_and_the_times_decide(net: Net) -> None:
    found = chosen(net)
    assert set(found.table) == {"fp32", "bf16"}
    assert min(found.table.values()) > 0
    assert found.name == ("bf16" if found.table["fp32"] / found.table["bf16"] >= precision.MIN_SPEEDUP else "fp32")


@pytest.mark.parametrize(("gain", "name"), [(0.5, "fp32"), (1.14, "fp32"), (1.16, "bf16"), (2.5, "bf16")])
def test_a_small_gain_is_a_tie_and_goes_to_float32(gain: float, name: str) -> None:
    found = precision.faster_precision({"fp32": gain, "bf16": 1.0})
    assert found.name == name
    assert f"{gain:.2f}x" in found.reason


def test_times_are_kept_for_the_same_net_and_machine(
    net: Net, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = chosen(net)
    assert list(json.loads((own_cache / "precision.json").read_text()).values()) == [first.table]
    monkeypatch.setattr(precision, "time_precisions", never)
    assert chosen(net) == first
    with pytest.raises(AssertionError, match="timed again"):
        chosen(net, batch_size=16)
    monkeypatch.setattr(precision, "cpu_name", lambda: "another processor")
    with pytest.raises(AssertionError, match="timed again"):
        chosen(net)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1}', '{"a": {"fp32": "x"}}'])
def test_a_damaged_file_of_times_is_not_believed(text: str, net: Net, own_cache: Path) -> None:
    (own_cache / "precision.json").write_text(text)
    assert chosen(net).table
    assert len(json.loads((own_cache / "precision.json").read_text())) == 1


def test_times_that_cannot_be_kept_are_still_used(net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LWCL_CACHE", str(tmp_path / "file"))
    assert chosen(net).table


def test_timing_leaves_no_trace(net: Net) -> None:
    before = {name: value.clone() for name, value in net.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    chosen(net)
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_a_batch_in_parts_is_timed_in_parts(net: Net) -> None:
    assert chosen(net, accumulate=2).table


def test_a_teacher_answers_for_every_view(net: Net) -> None:
    job = TimingJob(METHOD, net, RECIPE, CPU, SIZE, teacher_dim=7)
    batch = precision.noise_batch(job, 4)
    assert [tuple(answer.shape) for answer in batch.teacher_output] == [(4, 7)] * len(METHOD.view_specs())
    assert [tuple(view.shape) for view in batch.views] == [(4, 3, SIZE, SIZE)] * len(METHOD.view_specs())
    assert all(view.is_contiguous(memory_format=torch.channels_last) for view in batch.views)
    assert precision.noise_batch(dataclasses.replace(job, teacher_dim=0), 4).teacher_output == ()
