"""`lwcl probe`: every protocol from images to a report, what must not move, and what is refused and how."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from runs import made_images
from torch import Tensor

from lwcl import engine
from lwcl.checkpoints.encoder_file import save_encoder
from lwcl.commands import probe as probing
from lwcl.config.eval_options import ProbeOptions
from lwcl.config.probe_protocols import PROTOCOLS
from lwcl.config.recipes import Optimization
from lwcl.config.validation import parse_options
from lwcl.data.dataset import open_images
from lwcl.data.label_fractions import sample_label_fraction, selection_mask
from lwcl.errors import DataError, LwclError, TrainingDivergedError, UsageError
from lwcl.methods.method import Batch
from lwcl.methods.probe import LinearProbe
from lwcl.models.encoder import Encoder, weights_hash
from lwcl.models.loaded import InputSpec
from lwcl.models.probe import ProbeNet, check_weights_unchanged
from lwcl.reporting.knn import EncoderResult
from lwcl.reporting.probe import ProbeRow, probe_verdict
from lwcl.settings import field_names
from lwcl.system.compute import Compute

ARCH = "test_efficientnet"
ENCODER = f"random/{ARCH}"
COLOURS = {"red": (200, 40, 40), "green": (40, 180, 60), "blue": (50, 60, 190)}


def coloured(folder: Path, count: int, suffix: str = ".png") -> Path:
    """Images of three classes that differ in colour, `count` of each."""
    for number in range(count):
        for name, colour in COLOURS.items():
            place = folder / name
            place.mkdir(parents=True, exist_ok=True)
            shade = tuple(min(255, channel + 3 * (number % 7)) for channel in colour)
            Image.new("RGB", (24, 24), shade).save(place / f"{number:03}{suffix}")
    return folder


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """56 images of each class to train on, and 6 to judge by."""
    folder = tmp_path_factory.mktemp("colours")
    coloured(folder / "train", 56)
    coloured(folder / "val", 6)
    return folder


def probed(data: Path | str, out: Path | None = None, encoder: str = ENCODER, **options: Any) -> dict[str, Any]:
    """The report that a small probe leaves, as JSON."""
    quick: dict[str, Any] = {"image_size": 32, "device": "cpu", "threads": 1, "workers": 0}
    chosen = {**quick, "data": (str(data),), "out": str(out) if out else None, **options}
    assert probing.run_probe([encoder], parse_options(ProbeOptions, chosen), quiet=True) == 0
    return json.loads((out / "report.json").read_text()) if out else {}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_protocol_goes_from_images_to_a_report(colours: Path, tmp_path: Path, protocol: str) -> None:
    epochs = {} if protocol == "logistic" else {"epochs": 2}
    report = probed(colours, tmp_path, protocol=protocol, **epochs)
    (row,) = report["facts"]["encoders"]
    assert len(row["curve"]) == (0 if protocol == "logistic" else 2)
    assert row["untrained"]
    assert report["kind"] == "probe" and f"({protocol})" in report["title"]
    assert report["facts"]["training images"] == (3 if ":1%" in protocol else 18 if ":10%" in protocol else 168)
    assert (tmp_path / "report.html").exists()
    if row["curve"]:
        assert row["top1"] == pytest.approx(row["curve"][-1]), "the last epoch counts"
        assert row["best"][1] == pytest.approx(max(row["curve"]))


@pytest.mark.parametrize(("protocol", "more"), [("fast", {}), ("logistic", {}), ("compress", {"epochs": 10})])
def test_classes_that_differ_in_colour_are_told_apart(colours: Path, tmp_path: Path, protocol: str, more: Any) -> None:
    report = probed(colours, tmp_path, protocol=protocol, **more)
    assert report["facts"]["encoders"][0]["top1"] > 0.9


def test_the_same_seed_twice_gives_the_same_and_another_seed_another(tmp_path: Path) -> None:
    for name, count in (("train", 60), ("val", 40)):
        made_images(tmp_path / "data" / name, count, tuple("abc"))
    rows = []
    for number, seed in enumerate((1, 1, 2)):
        report = probed(tmp_path / "data", tmp_path / str(number), seed=seed, protocol="transfer", epochs=4)
        rows.append({name: value for name, value in report["facts"]["encoders"][0].items() if name != "seconds"})
    assert rows[0] == rows[1]
    assert rows[0]["curve"] != rows[2]["curve"]


def test_an_encoder_stands_beside_an_untrained_one_and_the_teacher(colours: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    save_encoder(tmp_path / "mine.safetensors", Encoder(ARCH), InputSpec.for_arch(ARCH, 32), {"origin": "test"})
    mine = str(tmp_path / "mine.safetensors")
    report = probed(colours, tmp_path, encoder=mine, teacher="random/test_convnext", fractions="10,100")
    rows = report["facts"]["encoders"]
    assert [(row["name"], row["untrained"], row["teacher"]) for row in rows] == [
        (mine, False, False),
        (ENCODER, True, False),
        ("random/test_convnext", True, True),
    ]
    assert rows[0]["gain"] is not None and rows[1]["gain"] is None
    assert [(at["fraction"], at["images"]) for at in rows[0]["fractions"]] == [(0.1, 18), (1.0, 168)]
    assert rows[0]["fractions"][1]["top1"] == rows[0]["top1"]
    assert [picture["title"] for picture in report["pictures"]] == ["Top-1", "Top-1 by epoch", "Top-1 by fraction"]
    assert f"{100 * rows[0]['top1']:.1f}%" in report["title"]
    alone = probed(colours, tmp_path / "alone", encoder=mine, random_init=False)
    assert len(alone["facts"]["encoders"]) == 1


def judged(name: str, top1: float, **more: Any) -> EncoderResult:
    """A row with an interval of two points."""
    return EncoderResult(name, ARCH, top1, (top1 - 0.01, top1 + 0.01), 1.0, (1.0, 1.0), **more)


def test_the_verdict_tells_last_and_best_epoch_the_gain_and_the_teacher() -> None:
    rows = [
        ProbeRow(judged("mine", 0.6, gain=(0.2, (0.15, 0.25))), (0.3, 0.65, 0.65, 0.6), "", 1.0, 9),
        ProbeRow(judged("random/x", 0.4, untrained=True), (0.4,), "", 1.0, 9),
        ProbeRow(judged("big", 0.9), (0.9,), "", 1.0, 9, teacher=True),
    ]
    told = probe_verdict(rows, 1000)
    assert told.startswith("mine: linear probe top-1 60.0% on 1,000 images (95% interval 59.0 to 61.0), significantly")
    assert "better than" in told and "+20.0 points" in told
    assert "Best epoch: 2 of 4, 65.0%." in told
    assert told.endswith("Teacher big: 90.0%.")


def labelled_batches(epochs: int) -> list[Batch]:
    """Two batches of four an epoch, of random pixels."""
    pixels = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    each = [Batch((pixels[i],), i, i % 2) for i in (torch.arange(4), torch.arange(4, 8))]
    return each * epochs


def trained(finetune: bool) -> tuple[ProbeNet, dict[str, Tensor], list[int]]:
    """A net after three epochs, judged after each; its tensors before; batches that batch norm had seen by then."""
    method = LinearProbe(finetune=finetune)
    torch.manual_seed(0)
    net = method.build(Encoder(ARCH))
    assert isinstance(net, ProbeNet)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    recipe, compute = Optimization(epochs=3, lr=0.1, warmup=0.0), Compute(torch.device("cpu"))
    optimizer, seen = engine.build_optimizer(net, recipe, 0.1, 0.0), []
    fitted = engine.fit(
        method, net, labelled_batches(3), recipe, optimizer, compute, steps_per_epoch=2, start=0, seed=0
    )
    counter = next(name for name in before if name.endswith("num_batches_tracked"))
    for step in fitted:
        if step.number % 2 == 0:
            engine.extract_features(net.student, labelled_batches(1), compute, 8)
            seen.append(int(net.state_dict()[counter]))
    return net, before, seen


def test_a_probe_moves_the_classifier_and_nothing_else() -> None:
    net, before, seen = trained(finetune=False)
    moved = {name for name, tensor in net.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {"classifier.linear.weight", "classifier.linear.bias"}
    assert seen == [0, 0, 0] and net.training and not net.student.training


def test_finetuning_moves_all_and_batch_norm_trains_in_every_epoch() -> None:
    net, before, seen = trained(finetune=True)
    moved = {name for name, tensor in net.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved >= {f"student.backbone.{name}" for name, _ in net.student.backbone.named_parameters()}
    assert seen == [2, 4, 6], "judging after an epoch must not leave batch norm in eval mode"


def test_a_frozen_weight_that_moves_is_found_out() -> None:
    encoder = Encoder(ARCH)
    before = weights_hash(encoder)
    check_weights_unchanged("mine", encoder, before)
    encoder.state_dict()["backbone.conv_stem.weight"].view(-1)[0] += 1e-6
    with pytest.raises(TrainingDivergedError, match="changed"):
        check_weights_unchanged("mine", encoder, before)


def test_a_share_holds_every_class_and_smaller_shares_are_within_larger_ones(colours: Path) -> None:
    images = open_images([str(colours)], "train")
    shares = [sample_label_fraction(images, share, 0) for share in (0.05, 0.1, 1.0)]
    assert [len(share) for share in shares] == [9, 18, 168]
    assert set(shares[0].tolist()) < set(shares[1].tolist()) < set(shares[2].tolist())
    assert torch.bincount(images.labels[shares[1]]).tolist() == [6, 6, 6]
    assert set(sample_label_fraction(images, 0.1, 1).tolist()) != set(shares[1].tolist())
    out = selection_mask(images, 0.2, 0)
    assert torch.bincount(images.labels[out]).tolist() == [11, 11, 11]


def split(folder: Path, train: dict[str, int], val: tuple[str, ...] = ("cat", "dog")) -> Path:
    """Class folders with so many images each to train on, and four in all to judge by."""
    for name, count in train.items():
        made_images(folder / "train" / name, count)
    made_images(folder / "val", 4, val)
    return folder


@pytest.mark.parametrize(
    ("train", "val", "options", "error", "words"),
    [
        ({"cat": 1, "dog": 1}, ("cat", "dog"), {}, DataError, "single training image"),
        ({"cat": 1, "dog": 1}, ("cat", "dog"), {"protocol": "logistic"}, DataError, "single training image"),
        ({"cat": 9, "dog": 9}, ("cat", "dog"), {"protocol": "semi:1%"}, DataError, "2 classes without an image: cat"),
        ({"cat": 9, "dog": 9}, ("cat", "dog"), {"fractions": "1,100"}, DataError, "1% of the labels"),
        ({"cat": 9, "dog": 9}, ("cat", "emu"), {}, DataError, "emu"),
        ({"cat": 9}, ("cat",), {}, DataError, "without labels"),
        ({"cat": 9, "dog": 9}, ("cat", "dog"), {"protocol": "mocco"}, UsageError, "moco"),
        ({"cat": 9, "dog": 9}, ("cat", "dog"), {"protocol": "logistic", "lr": 1}, UsageError, "--lr"),
        ({"cat": 9, "dog": 9}, ("cat", "dog"), {"fractions": "0,5"}, UsageError, "--fractions"),
        ({"cat": 9, "dog": 9}, ("cat", "dog"), {"fractions": "a"}, UsageError, "--fractions"),
        ({"cat": 9, "dog": 9}, ("cat", "dog"), {"fractions": "150"}, UsageError, "at most 100"),
        ({"cat": 9, "dog": 9}, ("cat", "dog"), {"protocol": "semi:10%", "fractions": "5"}, UsageError, "of its own"),
        (
            {"cat": 9, "dog": 9},
            ("cat", "dog"),
            {"protocol": "moco", "batch_size": 64},
            UsageError,
            "batch of 64",
        ),
        ({"cat": 9, "dog": 9}, ("cat", "dog"), {"encoder": "random/resnet81"}, UsageError, "resnet81"),
        ({"cat": 9, "dog": 9}, ("cat", "dog"), {"encoder": "nowhere"}, UsageError, "nowhere"),
    ],
)
def test_what_cannot_be_probed_is_refused_in_a_sentence(
    tmp_path: Path, train: Any, val: Any, options: Any, error: type[LwclError], words: str
) -> None:
    with pytest.raises(error, match=re.escape(words)) as caught:
        probed(split(tmp_path, train, val), **options)
    assert caught.value.remedy


def test_images_without_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="without labels"):
        probed(made_images(tmp_path, 8))


def test_an_empty_folder_to_judge_by_is_refused(colours: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        probed(colours, val=(str(tmp_path),))


def test_classes_of_another_folder_must_be_known(colours: Path, tmp_path: Path) -> None:
    made_images(tmp_path, 6, ("red", "yellow"))
    with pytest.raises(DataError, match="yellow"):
        probed(colours, val=(str(tmp_path),))


def test_damaged_weights_and_another_architecture_are_refused(colours: Path, tmp_path: Path) -> None:
    encoder, path = Encoder(ARCH), tmp_path / "sick.safetensors"
    encoder.state_dict()["backbone.conv_stem.weight"].view(-1)[3] = float("nan")
    save_encoder(path, encoder, InputSpec.for_arch(ARCH, 32), {})
    with pytest.raises(TrainingDivergedError, match="conv_stem"):
        probed(colours, encoder=str(path))
    with pytest.raises(UsageError, match="resnet18"):
        probed(colours, encoder=str(path), arch="resnet18")


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_number_of_a_protocol_is_a_setting_and_has_a_source(name: str) -> None:
    settings = PROTOCOLS[name].settings
    assert set(settings) <= {"augmentation", "crop_min", *field_names(Optimization), *field_names(LinearProbe)}
    assert all(len(cited.source.split()) >= 2 for cited in settings.values())


def test_the_text_names_every_protocol() -> None:
    text = (Path(__file__).parents[1] / "docs" / "probe.md").read_text()
    assert all(f"`{name}`" in text for name in PROTOCOLS)
