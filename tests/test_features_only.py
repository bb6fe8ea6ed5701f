"""Exports as backbones of detectors and segmenters: timm's `features_only`."""

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from lwcl.checkpoints.encoder_file import export_timm
from lwcl.models.encoder import Encoder
from lwcl.models.loaded import InputSpec

ROOT = Path(__file__).parents[1]
#: One small model of several families, and its stride.
ARCHS = {
    "mobilenetv3_small_050": 32,
    "efficientnet_b0": 32,
    "resnet18": 32,
    "test_convnext": 32,
    "mobilenetv2_035": 32,
    "regnetx_002": 32,
    "edgenext_xx_small": 32,
    "repvit_m1": 32,
    "test_vit": 16,
}


def exported(folder: Path, arch: str, size: int) -> Encoder:
    """An export for images of `size` pixels, and its encoder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = Encoder(arch, image_size=size).eval()
    export_timm(folder, encoder, InputSpec(size, (0.5,) * 3, (0.5,) * 3), {})
    return encoder


@pytest.mark.parametrize("arch", ARCHS)
def test_an_export_gives_the_feature_maps_of_its_encoder(arch: str, tmp_path: Path) -> None:
    encoder, images = exported(tmp_path / "export", arch, 64), torch.randn(2, 3, 64, 64)
    model: Any = timm.create_model(
        f"local-dir:{tmp_path / 'export'}", pretrained=True, features_only=True, out_indices=(-2, -1)
    ).eval()
    twin: Any = timm.create_model(arch, features_only=True, out_indices=(-2, -1), **encoder.arguments).eval()
    own = {name.replace("_", "."): tensor for name, tensor in encoder.backbone.state_dict().items()}
    named = {name.replace("_", "."): name for name in twin.state_dict()}  # some have stem_0 for stem.0
    named = {name.removeprefix("model."): full for name, full in named.items()}
    shared = {full: own[name] for name, full in named.items() if name in own}
    twin.load_state_dict(shared | {full: model.state_dict()[full] for full in named.values() if full not in shared})
    assert len(shared) > 0.9 * len(named)
    with torch.inference_mode():
        maps, wanted = model(images), twin(images)
    assert [tuple(one.shape) for one in maps] == [tuple(one.shape) for one in wanted]
    assert [one.shape[1] for one in maps] == model.feature_info.channels()
    assert all(torch.equal(one, other) for one, other in zip(maps, wanted, strict=True))
    assert model.feature_info.reduction()[-1] == ARCHS[arch]
    assert 64 // maps[-1].shape[-1] == ARCHS[arch]


def test_the_detector_example_learns_and_detects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    exported(tmp_path / "export", "mobilenetv3_small_050", 64)
    monkeypatch.setattr(sys, "argv", ["detector.py", str(tmp_path / "export"), "--size", "96"])
    runpy.run_path(str(ROOT / "examples" / "detector.py"), run_name="__main__")
    first, second, found = capsys.readouterr().out.splitlines()
    assert (first[:6], second[:6]) == ("step 1", "step 2")
    assert found.startswith("boxes found in the first image: ")
