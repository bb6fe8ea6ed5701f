"""Files for OpenVINO and LiteRT: run by their runtime, where that is installed, and not kept where they are wrong."""

import json
from pathlib import Path
from typing import Any

import pytest
from runs import ran

from lwcl.checkpoints import runtime_files

EXPORT = ["export", "random/test_efficientnet", "--image-size", "32"]
PACKAGES = {"openvino": "openvino", "litert": "litert_torch"}


@pytest.mark.parametrize("more", [[], ["--with-preprocess"]])
@pytest.mark.parametrize("kind", PACKAGES)
def test_a_file_of_a_runtime_computes_the_features_of_the_network(kind: str, more: list[str], tmp_path: Path) -> None:
    pytest.importorskip(PACKAGES[kind])
    assert ran([*EXPORT, "--format", kind, "--out", str(tmp_path / "out"), "--quiet", *more]) == 0
    document = json.loads((tmp_path / "out/onnx.json").read_text())
    assert document["runtimes"][kind]["relative"] < 1e-5
    assert runtime_files.RUNTIME_FILES[kind] in document["files"]
    assert "run by its runtime" in (tmp_path / "out/README.md").read_text()


def pretend(monkeypatch: pytest.MonkeyPatch, act: Any) -> None:
    """OpenVINO's converter replaced by a function of (path, onnx)."""
    monkeypatch.setattr(runtime_files, "write_openvino", act)


def test_a_file_that_computes_other_features_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxscript")

    def other(path: Path, onnx: Path) -> Any:
        path.write_text("model")
        return lambda images: -images.reshape(len(images), -1)[:, :256]

    pretend(monkeypatch, other)
    assert ran([*EXPORT, "--format", "openvino", "--out", str(tmp_path / "out"), "--quiet"]) == 3
    assert "features differ" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_a_converter_refuses_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxscript")

    def refuse(path: Path, onnx: Path) -> Any:
        raise RuntimeError("unsupported operator")

    pretend(monkeypatch, refuse)
    assert ran([*EXPORT, "--format", "openvino", "--out", str(tmp_path / "out"), "--quiet"]) == 2
    said = capsys.readouterr().err
    assert "openvino cannot convert test_efficientnet" in said
    assert "unsupported operator" in said


@pytest.mark.parametrize("kind", PACKAGES)
def test_a_missing_runtime_is_named_with_its_extra(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxscript")
    monkeypatch.setitem(__import__("sys").modules, PACKAGES[kind], None)
    assert ran([*EXPORT, "--format", kind, "--out", str(tmp_path / "out"), "--quiet"]) == 2
    assert f"pip install 'lwcl[{kind}]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
