"""Encoders of few bits: how weights and activations are rounded, what a run leaves, what it says of training."""

import copy
import json
from pathlib import Path

import pytest
import torch
from runs import made_images, pretrain, ran

from lwcl.checkpoints.encoder_file import save_encoder
from lwcl.checkpoints.load import load_encoder
from lwcl.checkpoints.onnx_file import write_onnx
from lwcl.config.train_options import CompressOptions
from lwcl.errors import UsageError
from lwcl.kernels.selection import use_cpu_kernels
from lwcl.losses import l2_normalise
from lwcl.methods.method import Batch
from lwcl.methods.s2_bnn import S2BNN
from lwcl.models.encoder import Encoder
from lwcl.models.loaded import InputSpec, LoadedEncoder
from lwcl.models.low_bits import (
    LowBits,
    bake,
    low_bit_layers,
    round_activations,
    round_weight,
    settle_ranges,
    simulate_bits,
    start_heads,
    weight_bytes,
)
from lwcl.models.momentum_encoder import DropoutFreeMomentumEncoder
from lwcl.runs.twin import with_twin
from lwcl.training.build import load_initial_weights

ARCH, SIZE = "test_efficientnet", 32
BITS = LowBits(2, 8)
FEW_BITS = ["--bits", "2", "--teacher", "self", "--epochs", "1", "--batch-size", "8", "--quiet"]
FEW_BITS += ["--threads", "1", "--workers", "0", "--device", "cpu"]


def images(count: int = 8, seed: int = 0) -> torch.Tensor:
    """Images of noise."""
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def few_bits(bits: LowBits = BITS) -> tuple[Encoder, Encoder]:
    """A float32 encoder, and a copy of few bits whose ranges are known."""
    torch.manual_seed(0)
    twin = Encoder(ARCH, image_size=SIZE)
    student = simulate_bits(copy.deepcopy(twin), bits)
    settle_ranges(student, [images(seed=seed) for seed in range(3)], batch_norm=False)
    return twin.eval(), student


@pytest.mark.parametrize(("bits", "values"), [(1, 2), (2, 3), (4, 15), (8, 255)])
def test_each_output_channel_has_as_many_values_as_its_bits_allow(bits: int, values: int) -> None:
    weight = 2 * torch.rand(4, 3000, generator=torch.Generator().manual_seed(0)) - 1
    for row in round_weight(weight, bits):
        assert len(row.unique()) == values


def test_rounded_weights_follow_their_papers() -> None:
    weight = torch.tensor([[0.1, -0.2, 0.9, -1.2]])  # mean of |w| 0.6; ternary: what is above 0.42 stays
    assert torch.allclose(round_weight(weight, 1), torch.tensor([[0.6, -0.6, 0.6, -0.6]]))
    assert torch.allclose(round_weight(weight, 2), torch.tensor([[0.0, 0.0, 1.05, -1.05]]))
    assert torch.allclose(round_weight(weight, 3), torch.tensor([[0.0, 0.0, 0.8, -1.2]]))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_gradients_pass_straight_through(bits: int) -> None:
    weight = torch.randn(3, 5, requires_grad=True)
    round_weight(weight, bits).sum().backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.ones(3, 5))
    x = torch.tensor([-3.0, -0.5, 0.5, 3.0], requires_grad=True)
    round_activations(x, torch.tensor([-1.0, 1.0]), bits).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 0]


def test_activations_have_even_steps_with_zero_among_them() -> None:
    x = torch.linspace(-2, 4, 1001)
    rounded = round_activations(x, torch.tensor([-1.0, 3.0]), 2).unique()
    assert len(rounded) == 4
    assert 0 in rounded
    assert torch.allclose(rounded.diff(), torch.full((3,), 4 / 3))


def test_first_and_last_layer_keep_eight_bits_and_types_and_weights_stay() -> None:
    twin, student = few_bits(LowBits(1, 4))
    layers = list(low_bit_layers(student))
    assert [layer.low_bits for layer in (layers[0], layers[1], layers[-1])] == [(8, 8), (1, 4), (8, 8)]
    assert [type(one) for one in twin.modules()] == [type(one) for one in student.modules()]
    student.features(images())
    for name, weight in twin.named_parameters():
        assert torch.equal(student.get_parameter(name), weight)


def test_eight_bits_change_features_little_and_one_bit_much() -> None:
    cosines = []
    for bits in (8, 4, 1):
        twin, student = few_bits(LowBits(bits, 8))
        with torch.inference_mode():
            cosines.append(float(torch.cosine_similarity(twin.features(images()), student.features(images())).mean()))
    assert cosines[0] > 0.99
    assert cosines[0] > cosines[1] > cosines[2]


def test_fast_kernels_see_the_rounded_weights() -> None:
    _, student = few_bits()
    fast = copy.deepcopy(student)
    use_cpu_kernels(fast, fast)
    with torch.inference_mode():
        assert torch.allclose(fast.features(images()), student.features(images()), atol=1e-4)


def test_ranges_move_in_training_and_rest_in_evaluation() -> None:
    _, student = few_bits()
    before = next(low_bit_layers(student)).input_range.clone()
    student.eval().features(5 * images())
    assert torch.equal(next(low_bit_layers(student)).input_range, before)
    student.train().features(5 * images())
    assert (next(low_bit_layers(student)).input_range.abs() > before.abs()).all()


def test_the_key_encoder_of_2q_has_ranges_of_its_own_that_move() -> None:
    _, student = few_bits()
    key = DropoutFreeMomentumEncoder(student, 0.9).train()
    before = next(low_bit_layers(key)).input_range.clone()
    key(5 * images())
    assert not torch.equal(next(low_bit_layers(key)).input_range, before)


def test_batch_norm_is_estimated_again_as_the_mean_over_batches() -> None:
    twin, plain = few_bits()
    again = simulate_bits(copy.deepcopy(twin), BITS)
    settle_ranges(again, [images(seed=seed) for seed in range(3)], batch_norm=True)
    norm = next(name for name, one in twin.named_modules() if isinstance(one, torch.nn.BatchNorm2d))
    momentum = twin.get_submodule(norm).momentum
    assert torch.equal(plain.get_buffer(f"{norm}.running_mean"), twin.get_buffer(f"{norm}.running_mean"))
    assert not torch.equal(again.get_buffer(f"{norm}.running_mean"), twin.get_buffer(f"{norm}.running_mean"))
    assert again.get_submodule(norm).momentum == momentum
    assert not again.training


def test_a_baked_backbone_is_plain_and_has_the_rounded_weights() -> None:
    _, student = few_bits()
    plain = bake(student.backbone)
    assert not list(low_bit_layers(plain))
    assert len(list(low_bit_layers(student))) > 10, "the student itself stays"
    assert not any("input_range" in name for name in plain.state_dict())
    layers = list(low_bit_layers(student.backbone))
    weights = [one.weight for one in plain.modules() if isinstance(one, torch.nn.Conv2d | torch.nn.Linear)]
    for layer, weight in zip(layers, weights, strict=True):
        assert torch.equal(weight, round_weight(layer.weight, layer.low_bits.weights))


def test_packed_weights_are_counted_with_their_scales() -> None:
    twin, student = few_bits()
    assert weight_bytes(twin) == 4 * sum(one.numel() for one in twin.backbone.parameters())
    layers = list(low_bit_layers(student))
    saved = sum((32 - one.low_bits.weights) * one.weight.numel() - 32 * len(one.weight) for one in layers)
    assert weight_bytes(student) == weight_bytes(twin) - saved // 8


def test_heads_begin_where_the_twin_is() -> None:
    student, twin = Encoder(ARCH, lambda width: (width,)), Encoder(ARCH, lambda width: (width,))
    features = torch.randn(3, student.width)
    start_heads(student, twin, same_space=True)
    assert torch.equal(student.head(features), features)
    start_heads(student, twin, same_space=False)
    assert torch.equal(student.head(features), twin.head(features))


def test_the_loss_of_s2_bnn_is_the_cross_entropy_over_dimensions() -> None:
    method, student = S2BNN(), Encoder(ARCH, (6,)).eval()
    teacher = torch.randn(4, 6)
    batch = Batch((images(4),), torch.arange(4), torch.full((4,), -1), (teacher,))
    with torch.inference_mode():
        loss = method.loss(method.build(student), batch, 0.0)
        target = (l2_normalise(teacher) / 0.2).softmax(1)
        wanted = -(target * (student(images(4)) / 0.2).log_softmax(1)).sum(1).mean()
    assert torch.allclose(loss.total, wanted)


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on labelled images with splits."""
    folder = tmp_path_factory.mktemp("twin")
    for split in ("train", "val"):
        made_images(folder / "data" / split, classes=("a", "b"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LWCL_CACHE", str(folder / "cache"))
        assert ran(pretrain(folder / "data", folder / "run")) == 0
    return folder / "run"


def compress(twin: Path, out: Path, *more: str) -> list[str]:
    """The words of a small run of two bits."""
    return ["compress", "--init", str(twin), "--out", str(out), *FEW_BITS, *more]


@pytest.mark.parametrize("method", ["regression", "s2-bnn", pytest.param("1q", marks=pytest.mark.slow), "2q"])
def test_a_run_of_few_bits_is_compared_with_no_training(
    method: str, twin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ran(compress(twin, tmp_path / "run", "--method", method)) == 0
    report = json.loads((tmp_path / "run/report.json").read_text())
    rows = {row["name"]: row for row in report["facts"]["few_bits"]}
    assert list(rows) == ["float32 twin", "post-training", "post-training, batch norm", "trained"]
    assert rows["float32 twin"]["cosine"] == pytest.approx(1)
    assert all(row["top1"] is not None and row["bytes"] < rows["float32 twin"]["bytes"] for row in [rows["trained"]])
    assert report["verdict"].startswith("Training was ")
    assert "Few bits" in capsys.readouterr().out
    settings = report["settings"]
    assert (settings["arch"]["value"], settings["teacher"]["value"]) == (ARCH, str(twin))


def test_the_encoder_of_a_run_is_loaded_with_its_bits_and_the_export_with_rounded_weights(
    twin: Path, tmp_path: Path
) -> None:
    assert ran(compress(twin, tmp_path / "run")) == 0
    loaded, plain = (load_encoder(str(tmp_path / name)).encoder.eval() for name in ("run", "run/export"))
    assert loaded.bits == BITS
    assert plain.bits is None
    with torch.inference_mode():
        assert not torch.equal(plain.features(images()), loaded.features(images()))
        assert torch.equal(plain.features(images()), bake(loaded.backbone)(images()))
    assert all(len(row.unique()) <= 3 for row in list(plain.backbone.parameters())[3].detach().flatten(1))


@pytest.mark.parametrize("by", ["ranges", "batch-norm"])
def test_without_training_a_run_is_the_twin_quantised(by: str, twin: Path, tmp_path: Path) -> None:
    assert ran(compress(twin, tmp_path / "run", "--bits-by", by)) == 0
    report = json.loads((tmp_path / "run/report.json").read_text())
    assert report["verdict"].startswith("No training: mean cosine ")
    float32, few = load_encoder(str(twin)).encoder, load_encoder(str(tmp_path / "run")).encoder
    for name, weight in float32.backbone.named_parameters():
        assert torch.equal(few.backbone.get_parameter(name), weight)
    assert any(layer.input_range.any() for layer in low_bit_layers(few))


def test_a_stopped_run_of_few_bits_goes_on_as_if_it_had_not_stopped(twin: Path, tmp_path: Path) -> None:
    whole, halves = (compress(twin, tmp_path / name, "--epochs", "2") for name in ("whole", "halves"))
    assert ran(whole) == 0
    assert ran([*halves, "--fast-dev-run", "4"]) == 0
    (tmp_path / "halves/report.json").unlink()
    assert ran(halves) == 0
    assert (tmp_path / "whole/encoder.safetensors").read_bytes() == (
        tmp_path / "halves/encoder.safetensors"
    ).read_bytes()


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        ({"bits": "2"}, "--bits needs the float32 encoder"),
        ({"bits": "2", "teacher": "self"}, "--bits needs the float32 encoder"),
        ({"teacher": "self"}, "--teacher self requires --bits"),
        ({"bits_by": "ranges"}, "--bits-by requires --bits"),
        ({"activation_bits": "4"}, "--activation-bits requires --bits"),
    ],
)
def test_bits_without_a_twin_and_a_twin_without_bits_are_refused(flags: dict[str, str], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        with_twin(flags, {}, "--config")


@pytest.mark.parametrize("bits", [0, 9])
def test_bits_beyond_one_to_eight_are_refused(bits: int) -> None:
    with pytest.raises(UsageError, match="--bits"):
        CompressOptions(bits=bits)


def test_the_teacher_is_the_twin_unless_another_is_named(tmp_path: Path) -> None:
    _, file, _ = with_twin({"bits": "2", "teacher": "big"}, {}, "--config")
    assert (file["init"], file["teacher"]) == ("big", "big")
    flags, file, _ = with_twin({"bits": "2", "teacher": "big", "init": "small"}, {}, "--config")
    assert (flags["teacher"], file["init"], file["teacher"]) == ("big", "small", "big")


def test_other_architecture_than_the_twins_is_refused(twin: Path, tmp_path: Path) -> None:
    assert ran(compress(twin, tmp_path / "run", "--arch", "test_resnet")) == 2


def test_an_encoder_of_few_bits_is_no_float32_twin(tmp_path: Path) -> None:
    twin, student = few_bits()
    save_encoder(tmp_path / "few.safetensors", student, InputSpec.for_arch(ARCH, SIZE), {})
    with pytest.raises(UsageError, match="its weights have 2 bits"):
        load_initial_weights(twin, str(tmp_path / "few.safetensors"), head=False)


def test_an_onnx_file_is_no_float32_twin(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    loaded = load_encoder(f"random/{ARCH}", image_size=SIZE)
    write_onnx(tmp_path / "model.onnx", loaded, opset=18)
    with pytest.raises(UsageError, match="not trained"):
        load_initial_weights(loaded.encoder, str(tmp_path / "model.onnx"), head=False)


def test_weights_of_few_bits_are_written_to_onnx(twin: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    assert ran(compress(twin, tmp_path / "run", "--bits", "8", "--bits-by", "ranges")) == 0
    assert ran(["export", str(tmp_path / "run"), "--int8", "--quiet"]) == 0
    few, file = (load_encoder(str(tmp_path / name)) for name in ("run", "run/export/model-int8.onnx"))
    assert isinstance(few, LoadedEncoder)
    with torch.inference_mode():
        pairs = few.encoder.eval().features(images()), file.encoder.features(images())
    assert torch.cosine_similarity(*pairs).mean() > 0.98
