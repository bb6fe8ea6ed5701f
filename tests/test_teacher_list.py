"""Teachers of timm: that the list is timm's own, what is said of licences, and sizes that patches fit.

`LWCL_UPDATE_GOLDEN=1 pytest tests/test_teacher_list.py` writes lwcl/models/teachers.txt anew (minutes).
"""

import dataclasses
import os
import re
from importlib.metadata import version
from pathlib import Path

import pytest
import timm
import torch
from runs import made_images

from lwcl.checkpoints.load import load_encoder
from lwcl.cli import main
from lwcl.config.auto import RunFacts, resolve_plan
from lwcl.config.catalogue import find_entries
from lwcl.config.plan import plan_run
from lwcl.metrics.cost import count_macs
from lwcl.models.teachers import TimmTeacher, known_teachers, licence_warning, patch_multiple
from lwcl.training.resolve import round_sizes_to_patches

PATH = Path(__file__).parents[1] / "lwcl/models/teachers.txt"
HEAD = f"# timm {version('timm')}: name, licence, width of the features, pixels of the input, MACs"
#: Names of weights without class labels: DINO, MAE, I-JEPA, TIPS, EUPE, SEER, MobileCLIP, semi-supervised ResNets.
LABEL_FREE = re.compile(r"dino|mae|ijepa|tips|eupe|seer|mclip|fb_ssl|fb_swsl")
FINE_TUNED = re.compile(r"_ft_in(?!1k$)|mae_ft|mae_in1k_ft|seer_ft|ijepa_ft")


def names() -> list[str]:
    """The weights of timm that were trained without class labels; the semi-supervised ResNets were fine-tuned."""
    return [name for name in timm.list_pretrained() if LABEL_FREE.search(name) and not FINE_TUNED.search(name)]


def described(name: str) -> TimmTeacher:
    """What timm says of a teacher, and what its architecture costs; no weights are made."""
    known = timm.get_pretrained_cfg(name)
    with torch.device("meta"):
        model = timm.create_model(name, pretrained=False, num_classes=0)
    size = known.input_size[-1]
    return TimmTeacher(name, str(known.license), model.head_hidden_size, size, count_macs(model, size))


def test_the_list_has_the_label_free_weights_of_the_installed_timm_and_their_licences() -> None:
    if os.environ.get("LWCL_UPDATE_GOLDEN"):
        PATH.write_text("\n".join([HEAD, *(" ".join(map(str, described(name))) for name in names())]) + "\n", "utf-8")
    if PATH.read_text(encoding="utf-8").splitlines()[0] != HEAD:
        pytest.skip("another timm is installed than the list was made from")
    assert {teacher.name for teacher in known_teachers()} == set(names())
    for teacher in known_teachers():
        known = timm.get_pretrained_cfg(teacher.name)
        assert (teacher.licence, teacher.size) == (str(known.license), known.input_size[-1])


@pytest.mark.parametrize("name", ["convnextv2_atto.fcmae", "vit_small_patch14_dinov2.lvd142m"])
def test_width_and_cost_of_a_teacher_are_those_of_its_architecture(name: str) -> None:
    (listed,) = (teacher for teacher in known_teachers() if teacher.name == name)
    assert listed == described(name)


def test_permissive_teachers_come_first_and_cheap_ones_before_dear_ones() -> None:
    warned = [bool(licence_warning(teacher.licence)) for teacher in known_teachers()]
    assert warned == sorted(warned)
    free = [teacher.macs for teacher in known_teachers() if not licence_warning(teacher.licence)]
    assert free == sorted(free)


def test_a_teacher_is_listed_as_the_command_takes_it_with_its_facts() -> None:
    (entry,) = find_entries("teachers", "timm/vit_small_patch14_dinov2.lvd142m")
    assert entry.about == "apache-2.0, 384 features, 518 px, 46.7 GMACs"


@pytest.mark.parametrize(
    ("licence", "word"),
    [
        ("apache-2.0", ""),
        ("mit", ""),
        ("cc-by-nc-4.0", "no commercial use"),
        ("fair-noncommercial-research-license", "no commercial use"),
        ("apple-amlr", "no commercial use"),
        ("dinov3-license", "terms of its own"),
        ("None", "states no licence"),
        ("unknown", "states no licence"),
    ],
)
def test_a_licence_that_restricts_is_said(licence: str, word: str) -> None:
    assert word in licence_warning(licence)
    assert bool(licence_warning(licence)) == bool(word)


@pytest.mark.parametrize(
    ("arch", "size", "fitting"),
    [
        ("vit_small_patch14_dinov2.lvd142m", 128, 126),
        ("vit_small_patch14_dinov2", 518, 518),
        ("vit_small_patch14_dinov2", 10, 14),
        ("deit_tiny_patch16_224", 100, 96),
        ("swin_tiny_patch4_window7_224", 64, 64),
        ("resnet18", 63, 63),
    ],
)
def test_a_size_is_rounded_down_to_whole_patches(arch: str, size: int, fitting: int) -> None:
    assert patch_multiple(arch, size) == fitting


def test_sizes_of_student_and_teacher_are_settled_to_whole_patches_with_the_reason() -> None:
    chosen = {"data": ["photos"], "arch": "vit_small_patch14_dinov2", "teacher": "timm/vit_base_patch14_dinov2.lvd142m"}
    facts = RunFacts(images=10_000, short_side=64, cpus=2, accelerated=False)
    config = round_sizes_to_patches(resolve_plan(plan_run("distill", {**chosen, "teacher_size": 224 + 4}), facts))
    assert (config.options.image_size, config.options.teacher_size) == (56, 224)
    assert "instead of 228" in str(config.values["teacher_size"])
    plain = resolve_plan(plan_run("distill", {**chosen, "arch": "resnet18"}), facts)
    assert round_sizes_to_patches(plain) == plain


@pytest.mark.parametrize("key", ["licence", "teacher licence"])
def test_a_restrictive_licence_is_said_at_the_start_and_in_the_model_card(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = dataclasses.replace(load_encoder("random/test_resnet"), metadata={key: "cc-by-nc-4.0"})
    monkeypatch.setattr("lwcl.training.teacher.load_encoder", lambda *spec, **more: loaded)
    words = ["--data", str(made_images(tmp_path / "images", 16)), "--arch", "test_efficientnet", "--image-size", "32"]
    words += ["--method", "regression", "--teacher", "random/test_resnet", "--batch-size", "8", "--epochs", "1"]
    words += ["--threads", "1", "--workers", "0", "--device", "cpu", "--out", str(tmp_path / "run")]
    assert main.main(["compress", *words]) == 0
    assert "no commercial use" in capsys.readouterr().err
    card = (tmp_path / "run/export/README.md").read_text(encoding="utf-8")
    assert "teacher licence: cc-by-nc-4.0" in card.replace("\\", "")
