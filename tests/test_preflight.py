"""Warnings that save an evening: before the first step, and after the first epoch."""

import json
from pathlib import Path

import pytest
import torch
from runs import made_images
from test_formulas import drawn

from lwcl.cli import main
from lwcl.config.auto import RunFacts, resolve_plan
from lwcl.config.plan import ResolvedConfig, plan_run
from lwcl.data.cache.build import CacheBuilder
from lwcl.data.dataset import open_images
from lwcl.losses import l2_normalise
from lwcl.metrics.health import views_in_common
from lwcl.models.encoder import Encoder
from lwcl.models.net import Net
from lwcl.training.monitor import compare_views
from lwcl.training.preflight import copies_warning, early_warnings

FACTS = RunFacts(images=10_000, short_side=64, cpus=2, accelerated=False)


def config(arch: str = "resnet18", **chosen: object) -> ResolvedConfig:
    command = "distill" if "teacher" in chosen else "pretrain"
    return resolve_plan(plan_run(command, {"data": ["photos"], "arch": arch, **chosen}), FACTS)  # type: ignore[arg-type]


def words(steps: int = 1000, arch: str = "resnet18", **chosen: object) -> str:
    return " ".join(early_warnings(config(arch, **chosen), Net(Encoder(arch)), steps))


def test_an_ordinary_run_is_warned_of_nothing() -> None:
    assert words() == ""


def test_a_tiny_net_is_warned_of_unless_it_has_a_teacher() -> None:
    assert "parameters" in words(arch="test_efficientnet")
    assert words(arch="test_efficientnet", teacher="random/resnet18") == ""


def test_what_begins_after_the_end_of_a_run_is_warned_of() -> None:
    assert "--smoothing-warmup 3: the run has 0.5 epochs, so smoothing never begins" in words(
        recipe="light", epochs=0.5
    )
    assert "the prototypes are never trained" in words(recipe="swav", epochs=1)
    assert words(recipe="light", epochs=3.5) == ""


def test_a_short_run_is_warned_of_unless_it_has_a_teacher() -> None:
    assert "299 steps" in words(299)
    assert words(300) == words(299, teacher="random/resnet18") == ""


@pytest.mark.parametrize("chosen", [{"batch_size": 8}, {"batch_size": 64, "accumulate": 8}])
def test_small_parts_of_a_batch_are_warned_of_where_they_are_normalised(chosen: dict[str, int]) -> None:
    assert "Batch norm sees 8 images" in words(**chosen)
    assert words(batch_size=16) == ""
    assert words(arch="deit_tiny_patch16_224", **chosen) == "", "it has no batch norm"


def test_batch_norm_sees_the_parts_of_a_batch_that_imitate_several_gpus() -> None:
    assert "Batch norm sees 8 images" in words(method="moco", recipe="moco-v2", batch_size=64, bn_splits=8)
    assert "Batch norm sees 8 images" in words(batch_size=16, devices=2)
    assert words(batch_size=16, devices=2, sync_bn=True) == ""


def test_views_of_an_image_have_all_or_nothing_in_common() -> None:
    first, second = (l2_normalise(x) for x in drawn(20, (2000, 16), (2000, 16)))
    assert views_in_common((first, first)) == 1
    assert views_in_common((first, second)) == pytest.approx(0, abs=0.03)
    cone = torch.tensor([10.0] + [0.0] * 15)
    inside = l2_normalise(first + cone), l2_normalise(second + cone)
    assert views_in_common(inside) == pytest.approx(0, abs=0.05), "though alignment is low in a narrow cone"
    assert compare_views((first, second))
    assert not compare_views((first, l2_normalise(first + 0.5 * second)))


@pytest.mark.parametrize(("crop", "warned"), [(("0.02", "0.02"), True), (("1", "1"), False)])
def test_views_without_overlap_are_warned_of_once_the_net_has_seen_some(
    crop: tuple[str, str], warned: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = made_images(tmp_path / "images", 64)
    words = ["--data", str(data), "--arch", "test_efficientnet", "--image-size", "32", "--epochs", "27"]
    words += ["--batch-size", "32", "--lr", "1e-5", "--workers", "0", "--threads", "1", "--device", "cpu"]
    augmentation = ["--augmentation", "plain", "--crop-min", crop[0], "--crop-max", crop[1]]
    assert main.main(["pretrain", *words, *augmentation, "--log-every", "1", "--out", str(tmp_path / "run")]) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "two views of an image" in line]
    assert len(told) == warned
    assert all("step 50:" in line for line in told)


def test_a_swav_that_stays_at_its_collapse_is_reported_and_fails_under_strict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = made_images(tmp_path / "images", 16)
    words = ["--data", str(data), "--arch", "test_efficientnet", "--image-size", "32", "--epochs", "8", "--strict"]
    words += ["--batch-size", "8", "--lr", "1e-9", "--workers", "0", "--threads", "1", "--device", "cpu"]
    words += ["--method", "swav", "--temperature", "100", "--local-crops", "0", "--log-every", "1"]
    assert main.main(["pretrain", *words, "--out", str(tmp_path / "run")]) == 3
    told = [line for line in capsys.readouterr().err.splitlines() if "--epsilon" in line]
    assert len(told) == 1
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert losses[-1] == pytest.approx(8.006, abs=0.01)


def of_copies(folder: Path) -> str:
    """What is said of the copies in a folder of images, of which one is broken."""
    (folder / "000.png").write_bytes(b"no image")
    return copies_warning(
        CacheBuilder(images=open_images([str(folder)]), short_side=None, max_bad=0.5).pixel_store("ram")
    )


def test_copies_are_counted_before_training_and_the_stand_in_of_a_broken_image_is_none(tmp_path: Path) -> None:
    images = made_images(tmp_path / "images", 9)
    assert of_copies(images) == ""
    for number in (3, 5):
        (images / f"copy-{number}.png").write_bytes((images / f"00{number}.png").read_bytes())
    assert of_copies(images).startswith("2 of 10 images looked at are copies of others, pixel for pixel")


def test_equal_images_are_blamed_before_training(tmp_path: Path) -> None:
    images = made_images(tmp_path / "images", 5)
    for path in images.iterdir():
        path.write_bytes((images / "001.png").read_bytes())
    assert "All of 4 images looked at are the same" in of_copies(images)
