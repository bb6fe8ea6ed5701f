"""Checkpoints of other code: each layout gives its network's own answers, read, guessed and converted."""

import json
import math
import re
from pathlib import Path

import foreign_files as files
import pytest
import timm
import torch
import torchvision
from torch import nn

from lwcl.checkpoints.foreign.importer import import_encoder
from lwcl.checkpoints.foreign.matching import match_architecture
from lwcl.checkpoints.load import load_encoder
from lwcl.cli import main
from lwcl.commands.convert import convert
from lwcl.errors import UsageError
from lwcl.models.encoder import Encoder

IMAGENET = (0.485, 0.456, 0.406)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))


def answers(encoder: Encoder, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    encoder.eval()
    with torch.no_grad():
        return encoder.features(images), encoder(images)


def must_answer_alike(encoder: Encoder, net: files.Network, images: torch.Tensor) -> None:
    for got, wanted in zip(answers(encoder, images), net.answers(images), strict=True):
        assert got.shape == wanted.shape
        assert float((got - wanted).abs().max() / wanted.abs().max()) < 1e-6


@pytest.mark.parametrize("name", files.CASES)
def test_a_checkpoint_gives_the_features_and_embeddings_of_its_network(
    name: str, tmp_path: Path, images: torch.Tensor
) -> None:
    case = files.CASES[name]()
    files.save_pickled(tmp_path / "checkpoint.pth.tar", case.content)
    arch = case.net.backbone.default_cfg["architecture"]
    loaded, matched = import_encoder(tmp_path / "checkpoint.pth.tar", arch, None, case.part)
    must_answer_alike(loaded.encoder, case.net, images)
    assert matched.layout == case.layout
    assert matched.missing == ()
    assert matched.unexpected == case.unexpected
    assert matched.head == tuple(layer.out_features for layer in case.net.head if isinstance(layer, nn.Linear))


@pytest.mark.parametrize("save", [files.save_pickled, files.save_old, files.save_tensors])
@pytest.mark.parametrize("name", ["moco-v2", "swav", "torchvision"])
def test_the_kind_of_file_changes_nothing(name: str, save: object, tmp_path: Path, images: torch.Tensor) -> None:
    case = files.CASES[name]()
    save(tmp_path / "weights", case.content)
    must_answer_alike(load_encoder(str(tmp_path / "weights"), arch=files.ARCH).encoder, case.net, images)


@pytest.mark.parametrize(
    ("arch", "told", "guessed"),
    [
        ("resnet18", None, "resnet18"),
        ("resnet34", "resnet18", "resnet34"),  # a deeper network is not mistaken for the part of it that fits
        ("resnet50", "resnet50", "resnet50"),
        ("resnet26", "resnet26", "resnet26"),
        ("mobilenetv3_large_100", "mobilenetv3", "mobilenetv3_large_100"),
        ("mobilenetv3_small_100", None, "mobilenetv3_small_100"),
        ("efficientnet_b1", "efficientb1", "efficientnet_b1"),
        ("vit_tiny_patch16_224", "not an architecture", "deit_tiny_patch16_224"),
        ("vit_small_patch8_224", None, "vit_small_patch8_224"),
        ("convnext_atto", None, "convnext_atto"),
    ],
)
def test_the_architecture_is_guessed_from_names_and_shapes(arch: str, told: str | None, guessed: str) -> None:
    with torch.device("meta"):
        state = timm.create_model(arch).state_dict()
    fit = match_architecture(Path("file"), state, None, told)
    assert (fit.arch, fit.missing, fit.alien) == (guessed, (), ())
    assert {name.rpartition(".")[0] for name in fit.rest} <= {"fc", "classifier", "head", "head.fc"}


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "mobilenet_v2"])
def test_torchvisions_mobile_networks_answer_as_they_do_there(name: str, tmp_path: Path, images: torch.Tensor) -> None:
    network = files.unsettled(getattr(torchvision.models, name)())
    files.save_tensors(tmp_path / "weights.bin", network.state_dict())
    loaded, matched = import_encoder(tmp_path / "weights.bin", None, None)
    with torch.no_grad():
        wanted = network.features(images).mean((2, 3))
        wanted = network.classifier[:2](wanted) if "v3" in name else wanted
    assert torch.allclose(answers(loaded.encoder, images)[0], wanted, atol=1e-6)
    assert matched.head == ()
    assert [name.rpartition(".")[0] for name in matched.unexpected] == [
        "classifier.3" if "v3" in name else "classifier.1"
    ] * 2


def lukemelas(name: str) -> str:
    """A name of timm's EfficientNet-Lite as lukemelas' code has it; blocks are to be counted through."""
    ranks = {"conv_pw": "_expand_conv", "conv_dw": "_depthwise_conv", "conv_pwl": "_project_conv"}
    first = name.startswith("blocks.0.")
    ranks |= {"conv_pw": "_project_conv"} if first else {}
    kinds = {"bn1": "_bn1", "bn2": "_bn2"} if first else {"bn1": "_bn0", "bn2": "_bn1", "bn3": "_bn2"}
    outside = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
    *place, layer, kind = name.split(".")
    return ".".join((*place, (ranks | kinds if place else outside)[layer], kind))


@pytest.mark.parametrize(("save", "size", "pixels"), [(files.save_pickled, None, 224), (files.save_tensors, 160, 160)])
def test_lukemelas_efficientnets_keep_their_padding_epsilon_and_statistics(
    save: object, size: int | None, pixels: int, tmp_path: Path, images: torch.Tensor
) -> None:
    net = files.Network(arch="tf_efficientnet_lite0")
    state, blocks = {}, []
    for name, tensor in net.backbone.state_dict().items():
        block = re.match(r"blocks\.\d+\.\d+", name)
        blocks += [block[0]] if block and block[0] not in blocks else []
        renamed = lukemelas(name)
        state[renamed.replace(block[0], f"_blocks.{blocks.index(block[0])}") if block else renamed] = tensor
    save(tmp_path / "lite0.pth", state | {"_fc.weight": torch.zeros(1000, 1280), "_fc.bias": torch.zeros(1000)})
    loaded = load_encoder(str(tmp_path / "lite0.pth"), image_size=size)
    assert loaded.encoder.arch == "tf_efficientnet_lite0"
    assert (loaded.input_spec.size, loaded.input_spec.mean, loaded.input_spec.std) == (pixels, (0.5,) * 3, (0.5,) * 3)
    assert sorted(loaded.metadata["unexpected"]) == ["_fc.bias", "_fc.weight"]
    must_answer_alike(loaded.encoder, net, images)


def test_an_epsilon_that_is_not_timms_is_saved_and_exported(tmp_path: Path, images: torch.Tensor) -> None:
    network = files.unsettled(torchvision.models.mobilenet_v3_small())
    torch.save(network.state_dict(), tmp_path / "v3.pth")
    assert convert(str(tmp_path / "v3.pth"), tmp_path / "out", None, None, quiet=True) == 0
    wanted = answers(load_encoder(str(tmp_path / "v3.pth")).encoder, images)[0]
    assert torch.equal(answers(load_encoder(str(tmp_path / "out")).encoder, images)[0], wanted)
    plain = timm.create_model(f"local-dir:{tmp_path / 'out' / 'export'}", pretrained=True).eval()
    with torch.no_grad():
        assert torch.equal(plain(images), wanted)


@pytest.mark.parametrize("name", ["swav", "dino", "barlow-twins", "moco-v1"])
def test_a_converted_file_embeds_as_the_checkpoint_did(name: str, tmp_path: Path, images: torch.Tensor) -> None:
    case = files.CASES[name]()
    files.save_pickled(tmp_path / "c.pth", case.content)
    arch = case.net.backbone.default_cfg["architecture"]
    assert convert(str(tmp_path / "c.pth"), tmp_path / "c.safetensors", arch, None, quiet=True) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.pth", "c.safetensors"]
    loaded = load_encoder(str(tmp_path / "c.safetensors"))
    must_answer_alike(loaded.encoder, case.net, images)
    assert loaded.metadata["layout"] == case.layout


def test_convert_tells_what_it_found_and_writes_nothing_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = files.CASES["swav"]()
    files.save_pickled(tmp_path / "swav.pth", case.content)
    assert convert(str(tmp_path / "swav.pth"), tmp_path / "out", files.ARCH, 96, as_json=True, quiet=True) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["layout"] == "SwAV"
    assert told["head"] == ["linear 64", "norm", "relu", "linear 16"]
    assert (told["tensors missing"], told["tensors ignored"]) == ([], ["prototypes.weight"])
    assert told["input"] == "96 px, mean 0.485 0.456 0.406, std 0.229 0.224 0.225"
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    for out in (tmp_path / "out", tmp_path / "out" / "encoder.safetensors"):
        with pytest.raises(UsageError, match="already exists"):
            convert(str(tmp_path / "swav.pth"), out, files.ARCH, None)
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before
    assert convert(str(tmp_path / "swav.pth"), tmp_path / "two.safetensors", files.ARCH, None) == 0
    assert "linear 64, norm, relu, linear 16" in capsys.readouterr().out


def test_position_embeddings_follow_the_size_of_the_images(tmp_path: Path) -> None:
    case = files.CASES["dino"]()
    files.save_pickled(tmp_path / "dino.pth", case.content)
    loaded = load_encoder(str(tmp_path / "dino.pth"), arch="test_vit", image_size=96)
    assert (loaded.input_spec.size, loaded.input_spec.mean) == (96, IMAGENET)
    small = torch.randn(2, 3, 96, 96)
    found = answers(loaded.encoder, small)[0]
    case.net.backbone.set_input_size(img_size=96)
    assert torch.allclose(found, case.net.answers(small)[0], atol=1e-6)


def test_vision_transformers_of_another_size_keep_it(tmp_path: Path) -> None:
    net = files.Network(arch="test_vit", img_size=96)
    files.save_pickled(tmp_path / "vit.pth", net.state())
    assert load_encoder(str(tmp_path / "vit.pth"), arch="test_vit").input_spec.size == 96


def test_loading_an_encoder_changes_no_other_draw(tmp_path: Path) -> None:
    files.save_pickled(tmp_path / "c.pth", files.CASES["moco-v2"]().content)
    drawn = []
    for load in (False, True):
        torch.manual_seed(1)
        if load:
            load_encoder(str(tmp_path / "c.pth"), arch=files.ARCH)
        drawn.append(torch.rand(1))
    assert torch.equal(*drawn)


def test_a_hash_in_the_name_of_a_file_is_no_part_of_it(tmp_path: Path) -> None:
    case = files.CASES["seed-teacher"]()
    files.save_pickled(tmp_path / "a#b.pth", case.content)
    assert load_encoder(str(tmp_path / "a#b.pth"), arch=files.ARCH).metadata["part"] == ""
    assert load_encoder(f"{tmp_path / 'a#b.pth'}#teacher", arch=files.ARCH).metadata["part"] == "teacher"


def plain_weights(seed: int) -> dict[str, torch.Tensor]:
    """The tensors of a small ResNet, as timm names them."""
    torch.manual_seed(seed)
    return timm.create_model("resnet18", num_classes=4).state_dict()


def test_averaged_weights_come_first_and_which_were_read_is_said(tmp_path: Path) -> None:
    plain, averaged = plain_weights(0), plain_weights(1)
    torch.save({"state_dict": plain, "state_dict_ema": averaged}, file := tmp_path / "both.pth")
    loaded = load_encoder(str(file))
    assert torch.equal(loaded.encoder.backbone.state_dict()["conv1.weight"], averaged["conv1.weight"])
    assert loaded.metadata["layout"] == "plain, weights of 'state_dict_ema'"
    other = load_encoder(f"{file}#state_dict")
    assert torch.equal(other.encoder.backbone.state_dict()["conv1.weight"], plain["conv1.weight"])
    torch.save({"state_dict": plain}, tmp_path / "one.pth")
    assert load_encoder(str(tmp_path / "one.pth")).metadata["layout"] == "plain"


def test_a_classifier_beside_a_backbone_is_no_projection_head(tmp_path: Path) -> None:
    tensors = {
        ("head." if name.startswith("fc.") else "backbone.") + name: one for name, one in plain_weights(0).items()
    }
    torch.save({"state_dict": tensors}, file := tmp_path / "mmpretrain.pth")
    loaded = load_encoder(str(file))
    assert loaded.encoder.head_widths == ()
    assert set(loaded.metadata["unexpected"]) == {"head.fc.weight", "head.fc.bias"}


def test_parts_that_were_compiled_are_found(tmp_path: Path) -> None:
    tensors = {name.replace("layer1.", "layer1._orig_mod."): one for name, one in plain_weights(0).items()}
    torch.save(tensors, file := tmp_path / "compiled.pth")
    assert load_encoder(str(file)).encoder.arch == "resnet18"


def test_weights_that_are_not_finite_are_not_converted(tmp_path: Path) -> None:
    tensors = plain_weights(0)
    tensors["layer1.0.conv1.weight"][0] = math.nan
    torch.save(tensors, file := tmp_path / "nan.pth")
    assert main.main(["convert", str(file), str(tmp_path / "out")]) == 3
    assert not (tmp_path / "out").exists()
