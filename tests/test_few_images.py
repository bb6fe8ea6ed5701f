"""The default recipe on a handful of images: settled, or refused with the least number of images."""

import json
from pathlib import Path

import pytest
from runs import made_images, ran

WORDS = "--arch test_efficientnet --image-size 32 --threads 1 --workers 0 --device cpu --epochs 1 --dry-run --json"


@pytest.mark.parametrize("count", [2, 3, 15])
def test_a_few_images_are_enough_for_the_default_recipe(tmp_path: Path, count: int) -> None:
    assert ran(["pretrain", "--data", str(made_images(tmp_path, count)), *WORDS.split()]) == 0


@pytest.mark.parametrize("count", [2, 3, 5, 9, 15])
def test_a_few_images_are_enough_for_a_recipe_with_neighbours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], count: int
) -> None:
    words = ["pretrain", "--recipe", "light", "--data", str(made_images(tmp_path, count)), *WORDS.split()]
    assert ran(words) == 0
    settings = json.loads(capsys.readouterr().out)["settings"]
    assert settings["neighbours"]["value"] <= settings["queue_size"]["value"]
    assert "the queue holds no more" in settings["neighbours"]["origin"]


def test_neighbours_that_were_chosen_are_not_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["--recipe", "light", "--neighbours", "9"]
    assert ran(["pretrain", "--data", str(made_images(tmp_path, 3)), *chosen, *WORDS.split()]) == 2
    assert "needs 9 neighbours" in capsys.readouterr().err


def test_one_image_is_refused_with_the_least_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ran(["pretrain", "--data", str(made_images(tmp_path, 1)), *WORDS.split()]) == 4
    assert capsys.readouterr().err.startswith(
        "1 image: training compares images with each other, so it needs at least 2"
    )
