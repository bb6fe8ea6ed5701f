"""ONNX and int8 files: equal to the network, refused if they are not, evaluated like any encoder."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from runs import made_images, ran

from lwcl.checkpoints import onnx_file
from lwcl.checkpoints.load import load_encoder
from lwcl.checkpoints.onnx_encoder import OnnxBackbone, onnx_input
from lwcl.checkpoints.onnx_file import (
    Parity,
    ParityError,
    check_parity,
    made_batches,
    measure_parity,
    write_onnx,
)
from lwcl.checkpoints.quantize import node_choice, quantize_onnx
from lwcl.commands import export_onnx
from lwcl.config.device_options import ExportOptions
from lwcl.errors import UsageError
from lwcl.evaluation.int8_check import CosineSummary, Int8Check, as_written, summarise_cosines
from lwcl.evaluation.latency import Latency
from lwcl.models.loaded import InputSpec, LoadedEncoder
from lwcl.reporting.console import Screen
from lwcl.runs.guard import write_settings

SPEC = InputSpec(64, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def small_encoder(arch: str = "test_efficientnet") -> LoadedEncoder:
    """A random encoder for images of 64 pixels."""
    loaded = load_encoder(f"random/{arch}", image_size=SPEC.size)
    loaded.encoder.eval()
    return dataclasses.replace(loaded, input_spec=SPEC, metadata={"method": "none"})


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of ONNX files of one encoder: plain, with preprocessing, and int8 of both kinds."""
    folder = tmp_path_factory.mktemp("onnx")
    loaded = small_encoder()
    write_onnx(folder / "plain.onnx", loaded, opset=18)
    write_onnx(folder / "preprocess.onnx", loaded, opset=20, with_preprocess=True)
    batches = [onnx_input(images, SPEC, False) for images in made_batches(SPEC)]
    quantize_onnx(folder / "plain.onnx", folder / "portable.onnx", batches)
    quantize_onnx(folder / "plain.onnx", folder / "vnni.onnx", batches, target="vnni")
    return folder


def backbone_of(path: Path) -> OnnxBackbone:
    """The backbone of an ONNX file."""
    backbone = load_encoder(str(path)).encoder.backbone
    assert isinstance(backbone, OnnxBackbone)
    return backbone


@pytest.mark.parametrize("name", ["plain", "preprocess"])
def test_an_onnx_file_gives_the_features_of_the_network_at_other_batch_sizes(files: Path, name: str) -> None:
    parity = measure_parity(small_encoder(), backbone_of(files / f"{name}.onnx"), made_batches(SPEC))
    assert parity.passed
    assert parity.relative < 1e-5
    assert [len(batch) for batch in made_batches(SPEC)] == [2, 5]


def test_an_onnx_file_describes_itself(files: Path) -> None:
    loaded = load_encoder(str(files / "preprocess.onnx"))
    assert (loaded.encoder.arch, loaded.encoder.width, loaded.input_spec) == ("test_efficientnet", 256, SPEC)
    assert loaded.metadata == {"method": "none", "origin": "onnx", "file": "preprocess.onnx", "int8": False}
    assert load_encoder(str(files / "portable.onnx")).metadata["int8"] is True


def test_an_onnx_file_is_whole_and_tells_nothing_of_this_machine(files: Path) -> None:
    for path in files.glob("*.onnx"):
        model = onnx.load_model(str(path), load_external_data=False)
        onnx.checker.check_model(model, full_check=True)
        content = path.read_bytes()
        assert b"site-packages" not in content
        assert str(Path(torch.__file__).parents[1]).encode() not in content
        assert not any(tensor.external_data for tensor in model.graph.initializer)
        assert model.producer_name == "lwcl"
    assert {path.suffix for path in files.iterdir()} == {".onnx"}


@pytest.mark.parametrize(("name", "opset"), [("plain", 18), ("preprocess", 20)])
def test_the_opset_is_the_one_that_was_asked_for(files: Path, name: str, opset: int) -> None:
    model = onnx.load_model(str(files / f"{name}.onnx"))
    assert {entry.version for entry in model.opset_import if not entry.domain} == {opset}


def test_the_input_with_preprocessing_is_that_of_an_image_decoder(files: Path) -> None:
    shapes = {}
    for name in ("plain", "preprocess"):
        tensor = onnx.load_model(str(files / f"{name}.onnx")).graph.input[0].type.tensor_type
        shapes[name] = (tensor.elem_type, [side.dim_value or side.dim_param for side in tensor.shape.dim])
    assert shapes["plain"] == (onnx.TensorProto.FLOAT, ["batch", 3, 64, 64])
    assert shapes["preprocess"] == (onnx.TensorProto.UINT8, ["batch", 64, 64, 3])


def test_undoing_the_normalisation_gives_the_pixels_back() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3, 1).reshape(1, 3, 16, 16)
    mean, std = (torch.tensor(values)[:, None, None] for values in (SPEC.mean, SPEC.std))
    fed = onnx_input((pixels / 255 - mean) / std, SPEC, True)
    assert torch.equal(torch.from_numpy(fed), pixels.permute(0, 2, 3, 1))


def quantised_convolutions(path: Path) -> list[bool]:
    """For each convolution of a file, whether its weights are int8."""
    graph = onnx.load_model(str(path)).graph
    dequantised = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    return [node.input[1] in dequantised for node in graph.node if node.op_type == "Conv"]


def largest_weight(path: Path) -> int:
    """The largest absolute value of the int8 weights of a file."""
    tensors = [one for one in onnx.load_model(str(path)).graph.initializer if one.data_type == onnx.TensorProto.INT8]
    return max(int(abs(onnx.numpy_helper.to_array(one).astype(int)).max()) for one in tensors)


def test_the_portable_setting_keeps_the_first_convolution_in_float_and_seven_bits(files: Path) -> None:
    first, *others = quantised_convolutions(files / "portable.onnx")
    assert not first
    assert others
    assert all(others)
    assert all(quantised_convolutions(files / "vnni.onnx"))
    assert largest_weight(files / "portable.onnx") <= 64 < largest_weight(files / "vnni.onnx")


def test_of_a_transformer_only_the_matrix_products_are_quantised(tmp_path: Path) -> None:
    loaded = small_encoder("test_vit")
    write_onnx(tmp_path / "vit.onnx", loaded, opset=18)
    graph = onnx.load_model(str(tmp_path / "vit.onnx")).graph
    assert node_choice(graph, "portable") == {
        "op_types_to_quantize": ["Conv", "MatMul", "Gemm"],
        "reduce_range": True,
    }
    quantize_onnx(tmp_path / "vit.onnx", tmp_path / "int8.onnx", [onnx_input(made_batches(SPEC)[1], SPEC, False)])
    images = made_batches(SPEC)[1]
    cosines = summarise_cosines(backbone_of(tmp_path / "int8.onnx")(images), backbone_of(tmp_path / "vit.onnx")(images))
    assert cosines.mean > 0.99


@pytest.mark.parametrize("name", ["portable", "vnni"])
def test_int8_is_a_third_of_the_size_or_less_and_near_the_network(files: Path, name: str) -> None:
    assert (files / f"{name}.onnx").stat().st_size < 0.4 * (files / "plain.onnx").stat().st_size
    images = made_batches(SPEC)[1]
    file = load_encoder(str(files / f"{name}.onnx"))
    wanted = backbone_of(files / "plain.onnx")(images)
    for one in (file, as_written(file)):
        assert summarise_cosines(one.encoder.features(images), wanted).mean > 0.98


def test_cosines_are_summarised_by_mean_percentile_and_least() -> None:
    wanted = torch.tensor([[1.0, 0.0]]).repeat(200, 1)
    found = wanted.clone()
    found[0] = torch.tensor([0.0, 1.0])
    summary = summarise_cosines(found, wanted)
    assert (summary.mean, summary.least) == (pytest.approx(0.995), 0.0)
    assert summary.percentile_1 == pytest.approx(1.0, abs=0.02)


def test_a_file_beyond_the_limits_of_parity_is_refused() -> None:
    check_parity(Parity(1.0, 9e-5, 0.99999, 7))
    for wrong in (Parity(1.0, 2e-4, 1.0, 7), Parity(0.0, 0.0, 0.99, 7), Parity(1.0, float("nan"), 1.0, 7)):
        with pytest.raises(ParityError):
            check_parity(wrong)
    assert ParityError.exit_code == 3


def test_nothing_is_kept_of_an_export_without_parity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(onnx_file, "MAX_RELATIVE_DIFFERENCE", 0.0)
    words = ["export", "random/test_efficientnet", "--image-size", "32", "--format", "onnx"]
    assert ran([*words, "--out", str(tmp_path / "out")]) == 3
    assert "features differ" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_export_with_int8_is_judged_stored_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = made_images(tmp_path / "data", 40, ("cat", "dog")), tmp_path / "out"
    words = ["export", "random/test_efficientnet", "--image-size", "32", "--int8", "--calibrate", str(data)]
    assert ran([*words, "--calibrate-images", "20", "--out", str(out), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    names = {"README.md", "config.json", "model.safetensors", "model.onnx", "model-int8.onnx", "onnx.json"}
    assert {path.name for path in out.iterdir()} == names
    assert document == json.loads((out / "onnx.json").read_text())
    assert document["parity"]["relative"] < 1e-4
    check = document["int8"]
    assert check["as_run"]["mean"] > 0.9
    assert (check["images"], check["knn"]["images"], check["latency"]["threads"]) == (20, 8, 1)
    for name, facts in document["files"].items():
        assert facts["bytes"] == (out / name).stat().st_size
    assert "## ONNX files\n" in (out / "README.md").read_text()
    for name in ("model.onnx", "model-int8.onnx"):
        assert ran(["knn", str(out / name), "--data", str(data), "--quiet"]) == 0
        assert name in capsys.readouterr().out


def test_probes_and_diagnoses_take_an_onnx_file_but_do_not_train_it(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, file = made_images(tmp_path / "data", 24, ("cat", "dog")), str(files / "preprocess.onnx")
    assert ran(["probe", file, "--data", str(data), "--quiet"]) == 0
    assert ran(["diagnose-clustering", file, "--data", str(data), "--quiet"]) == 0
    capsys.readouterr()
    tune = ["probe", file, "--data", str(data), "--protocol", "finetune", "--batch-size", "8", "--quiet"]
    for words in (tune, ["export", file, "--out", str(tmp_path / "a")], ["convert", file, str(tmp_path / "b")]):
        assert ran(words) == 2
        assert "not trained, converted or exported" in capsys.readouterr().err


def test_hashes_of_weights_tell_onnx_files_apart(files: Path) -> None:
    digests = {bytes(backbone_of(path).state_dict()["sha256"].tolist()) for path in files.glob("*.onnx")}
    assert len(digests) == 4


def without_description(path: Path, to: Path) -> Path:
    """The same graph without lwcl's description: as another program writes it."""
    model = onnx.load_model(str(path))
    del model.metadata_props[:]
    onnx.save_model(model, str(to))
    return to


def test_files_that_are_not_lwcls_are_refused(files: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.onnx").write_bytes((files / "plain.onnx").read_bytes()[:2000])
    (tmp_path / "empty.onnx").touch()
    (tmp_path / "text.onnx").write_text("not a model")
    without_description(files / "plain.onnx", tmp_path / "other.onnx")
    for name, noun in {"cut": "cannot read", "empty": "cannot read", "text": "cannot read", "other": "written"}.items():
        with pytest.raises(UsageError, match=noun):
            load_encoder(str(tmp_path / f"{name}.onnx"))
    with pytest.raises(UsageError, match="no such encoder"):
        load_encoder(str(tmp_path / "nowhere.onnx"))
    with pytest.raises(UsageError, match="64 px only"):
        load_encoder(str(files / "plain.onnx"), image_size=96)
    with pytest.raises(UsageError, match="holds test_efficientnet"):
        load_encoder(str(files / "plain.onnx"), arch="resnet18")


WRONG = {
    "no data": (["--int8"], 2, "needs images to calibrate with"),
    "empty data": (["--int8", "--calibrate", "EMPTY"], 4, "EMPTY"),
    "opset": (["--format", "onnx", "--opset", "17"], 2, "torch wrote opset 18"),
    "future": (["--format", "onnx", "--opset", "99"], 2, "opset 99"),
    "format": (["--format", "tflite"], 2, "--format"),
    "size": (["--format", "onnx", "--image-size", "8"], 2, "--image-size"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_uses_say_what_to_do(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "EMPTY").mkdir()
    more, code, noun = WRONG[case]
    words = [str(tmp_path / word) if word == "EMPTY" else word for word in more]
    assert ran(["export", "random/test_efficientnet", "--out", str(tmp_path / "out"), *words]) == code
    said = capsys.readouterr().err
    assert noun in said
    assert len(said.strip().splitlines()[-3:]) >= 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_with_its_extra(
    package: str, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    assert ran(["export", "random/test_efficientnet", "--format", "onnx", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert f"{package} is needed" in said
    assert "pip install 'lwcl[export]'" in said
    if package == "onnxruntime":
        assert ran(["knn", str(files / "plain.onnx"), "--data", "digits"]) == 2


def check_with(as_run: float, unfused: float) -> Int8Check:
    """A check with these mean cosines."""
    run, written = (CosineSummary(mean, mean, mean) for mean in (as_run, unfused))
    return Int8Check(run, written, 16, None, Latency(1.0, 0.1, 1, 1), Latency(2.0, 0.1, 1, 1))


@pytest.mark.parametrize(
    ("as_run", "unfused", "warnings"),
    [
        (0.99, 0.99, []),
        (0.9, 0.99, ["saturate", "below 0.98"]),
        (0.97, 0.97, ["below 0.98"]),
        (0.985, 0.995, ["saturate"]),
    ],
)
def test_saturation_and_low_cosines_are_warned_of(
    as_run: float, unfused: float, warnings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    export_onnx.warn_of_int8(check_with(as_run, unfused), Screen(quiet=True))
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Warning")]
    assert len(said) == len(warnings)
    assert all(word in line for word, line in zip(warnings, said, strict=True))


def test_calibration_images_are_those_of_the_run_unless_given(tmp_path: Path) -> None:
    """Those of its student, where its teacher sees others, and read as the run reads them."""
    write_settings(tmp_path, {"data": ["photos/"], "channels": "auto"})
    assert export_onnx.calibration_images(str(tmp_path), ExportOptions()) == (("photos/",), ())
    write_settings(tmp_path, {"data": ["photos/"], "student_data": ["depth/"], "value_range": "0,9"})
    read = (("value_range", "0,9"),)
    assert export_onnx.calibration_images(str(tmp_path), ExportOptions()) == (("depth/",), read)
    assert export_onnx.calibration_images(str(tmp_path), ExportOptions(calibrate=("other/",))) == (("other/",), read)


def test_images_are_not_calibrated_and_checked_on_alike_where_there_are_enough(tmp_path: Path) -> None:
    from lwcl.data.dataset import open_images

    images = open_images([str(made_images(tmp_path, 40))])
    first, rest = export_onnx.split_calibration(images, ExportOptions(calibrate_images=20))
    assert (len(first), len(rest), set(first.names) & set(rest.names)) == (20, 20, set())
    first, rest = export_onnx.split_calibration(images, ExportOptions(calibrate_images=30))
    assert (len(first), sorted(rest.names)) == (30, sorted(first.names))


def test_a_copied_file_needs_nothing_beside_it(files: Path, tmp_path: Path) -> None:
    shutil.copy(files / "plain.onnx", tmp_path / "alone.onnx")
    features: Any = load_encoder(str(tmp_path / "alone.onnx")).encoder(made_batches(SPEC)[0])
    assert torch.allclose(features.norm(dim=1), torch.ones(2))
