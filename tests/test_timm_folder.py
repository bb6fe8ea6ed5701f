"""timm and Hugging Face folders as encoders: the folder, and its weight file alone."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from runs import made_images, pretrain, ran
from timm.models import save_for_hf

from lwcl.checkpoints.encoder_file import export_timm
from lwcl.checkpoints.load import load_encoder
from lwcl.errors import UsageError
from lwcl.models.encoder import Encoder
from lwcl.models.loaded import InputSpec

ARCHS = ("test_efficientnet", "test_resnet", "test_vit", "test_convnext", "test_mambaout")
SPEC = InputSpec(96, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 0.9)


def exported(folder: Path, arch: str = "test_efficientnet", **arguments: Any) -> Encoder:
    """An export of an encoder for images of 96 pixels, and the encoder."""
    encoder = Encoder(arch, image_size=SPEC.size, **arguments).eval()
    export_timm(folder, encoder, SPEC, {})
    return encoder


def images(size: int = SPEC.size) -> torch.Tensor:
    """Two images of noise."""
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def must_be_equal(first: Encoder, second: Encoder) -> None:
    """Asserts that two encoders give the same features to the last bit."""
    with torch.inference_mode():
        assert torch.equal(first.eval().features(images()), second.eval().features(images()))


@pytest.mark.parametrize("arch", ARCHS)
def test_an_export_is_the_encoder_that_it_was_made_of(arch: str, tmp_path: Path) -> None:
    encoder = exported(tmp_path / "export", arch)
    folder = tmp_path / "export"
    for spec in (folder, folder / "model.safetensors", f"local-dir:{folder}"):
        loaded = load_encoder(str(spec))
        must_be_equal(loaded.encoder, encoder)
        assert (loaded.encoder.arch, loaded.input_spec) == (arch, SPEC)
        assert loaded.encoder.arguments == encoder.arguments


def test_arguments_of_the_model_survive_an_export(tmp_path: Path) -> None:
    encoder = exported(tmp_path / "export", "test_efficientnet", output_stride=16, bn_eps=1e-3)
    loaded = load_encoder(str(tmp_path / "export"))
    must_be_equal(loaded.encoder, encoder)
    assert loaded.encoder.arguments == {"output_stride": 16, "bn_eps": 1e-3}


@pytest.mark.parametrize("safe", [True, False])
def test_a_folder_of_timms_own_with_a_classifier_is_its_backbone(safe: bool, tmp_path: Path) -> None:
    model = timm.create_model("test_resnet", num_classes=7).eval()
    save_for_hf(model, tmp_path, safe_serialization=safe)
    loaded = load_encoder(str(tmp_path))
    with torch.inference_mode():
        wanted = model.forward_head(model.forward_features(images()), pre_logits=True)
        assert torch.equal(loaded.encoder.eval().features(images()), wanted)


def test_the_position_embeddings_of_a_folder_are_interpolated_to_another_size(tmp_path: Path) -> None:
    exported(tmp_path / "export", "test_vit")
    loaded = load_encoder(str(tmp_path / "export"), image_size=64)
    assert loaded.input_spec.size == 64
    assert loaded.encoder.eval().features(images(64)).shape == (2, 64)


def changed(folder: Path, **values: Any) -> str:
    """Changes a folder's config.json; gives the folder's name."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))
    return str(folder)


@pytest.mark.parametrize(
    ("values", "noun"),
    [
        ({"architecture": None}, "config of a timm model"),
        ({"architecture": "resnet18"}, "tensors are not those of resnet18"),
        ({"pretrained_cfg": {"input_size": "large"}}, "pretrained_cfg"),
        ({"model_args": {"in_chans": 1}}, "tensors are not those of"),
        ({"model_args": {"global_pool": "max"}}, "global_pool=max"),
        ({"model_args": [1]}, "config of a timm model"),
    ],
)
def test_a_folder_that_does_not_fit_its_config_is_refused(values: dict[str, Any], noun: str, tmp_path: Path) -> None:
    exported(tmp_path / "export")
    with pytest.raises(UsageError, match=noun):
        load_encoder(changed(tmp_path / "export", **values))


def test_another_arch_than_the_config_says_is_refused(tmp_path: Path) -> None:
    exported(tmp_path / "export")
    with pytest.raises(UsageError, match="holds test_efficientnet, not resnet18"):
        load_encoder(str(tmp_path / "export"), arch="resnet18")


def test_a_damaged_weight_file_is_refused(tmp_path: Path) -> None:
    exported(tmp_path / "export")
    weights = tmp_path / "export" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UsageError, match="not readable"):
        load_encoder(str(tmp_path / "export"))


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no encoder\.safetensors"):
        load_encoder(str(tmp_path))


def test_an_export_teaches_and_starts_a_run_and_is_diagnosed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, export = made_images(tmp_path / "data", 24, ("cat", "dog")), tmp_path / "export"
    exported(export)
    assert ran(pretrain(data, tmp_path / "started", "--init", str(export), "--fast-dev-run", "1")) == 0
    words = "--arch test_efficientnet --image-size 32 --epochs 2 --batch-size 8 --threads 1 --workers 0 --device cpu"
    places = ["--data", str(data), "--out", str(tmp_path / "taught"), "--teacher", str(export)]
    assert ran(["compress", *places, *words.split(), "--fast-dev-run", "1", "--quiet"]) == 0
    for command in ("knn", "probe", "diagnose-clustering"):
        assert ran([command, str(export), "--data", str(data), "--quiet", "--no-random-init"]) == 0
        assert "export" in capsys.readouterr().out
