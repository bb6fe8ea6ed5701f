"""`lwcl bench`: latency, size, memory and accuracy of PyTorch and ONNX encoders side by side."""

import json
from pathlib import Path

import pytest
import torch
from runs import made_images, ran

from lwcl.checkpoints.load import load_encoder
from lwcl.checkpoints.onnx_file import write_onnx
from lwcl.evaluation.latency import measure_latency
from lwcl.evaluation.memory import peak_megabytes
from lwcl.reporting.pareto import BenchPoint, pareto_front, pareto_svg


def point(name: str, latency: float, top1: float) -> BenchPoint:
    """An encoder of one megabyte."""
    return BenchPoint(name, latency, top1, (top1 - 1, top1 + 1), 1.0)


def test_the_front_holds_what_no_other_beats_in_both() -> None:
    points = [point("slow best", 9, 60), point("fast", 1, 40), point("beaten", 5, 39), point("tied", 1, 30)]
    assert [one.name for one in pareto_front(points)] == ["fast", "slow best"]
    assert pareto_front([]) == []


def test_the_picture_names_every_encoder_as_text() -> None:
    svg = pareto_svg([point("runs/a", 1, 40), point("<b>", 2, 50)])
    assert svg.startswith("<svg")
    assert "runs/a" in svg
    assert "&lt;b&gt;" in svg


def test_a_batch_takes_longer_than_an_image_and_threads_are_restored() -> None:
    loaded, before = load_encoder("random/test_efficientnet", image_size=64), torch.get_num_threads()
    one, many = (measure_latency(loaded, batch, seconds=0.2) for batch in (1, 16))
    assert 0 < one.median < many.median
    assert one.iqr >= 0
    assert (one.batch, many.batch, one.threads) == (1, 16, 1)
    assert torch.get_num_threads() == before


@pytest.mark.slow
def test_a_larger_network_takes_more_memory() -> None:
    small, large = (peak_megabytes(f"random/{arch}", None, 64) for arch in ("test_efficientnet", "resnet34"))
    assert small is not None
    assert large is not None
    assert large > small + 60, "ResNet-34 has 85 MB of weights"


def test_encoders_are_put_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, file = made_images(tmp_path / "data", 24, ("cat", "dog")), tmp_path / "model.onnx"
    encoder = load_encoder("random/test_efficientnet", image_size=32)
    write_onnx(file, encoder, opset=18)
    words = ["bench", "random/test_efficientnet", str(file), "--image-size", "32", "--seconds", "0.05"]
    assert ran([*words, "--data", str(data), "--batch-size", "4", "--out", str(tmp_path / "out"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    torch_row, onnx_row = document["facts"]["encoders"]
    assert (torch_row["kind"], onnx_row["kind"]) == ("PyTorch", "ONNX")
    assert onnx_row["megabytes"] == file.stat().st_size / 1e6
    assert torch_row["parameters"] == sum(one.numel() for one in encoder.encoder.backbone.parameters())
    assert torch_row["macs"] > 0
    assert torch_row["top1"] == onnx_row["top1"]
    assert torch_row["memory"] > 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<svg" in page
    assert "Pareto front" in document["verdict"]


def test_without_images_there_is_no_accuracy_and_no_picture(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "random/test_efficientnet", "--image-size", "32", "--seconds", "0.05", "--batch-size", "2"]
    assert ran([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["facts"]["encoders"][0]["top1"] is None
    assert document["pictures"] == []
