"""The drawn textures: the same everywhere, balanced, told apart by pattern and not by colour, in every part."""

import zlib

import numpy as np
import numpy.typing as npt
import pytest
import torch

from lwcl.data.dataset import open_images
from lwcl.data.demo import textures
from lwcl.data.demo.patterns import PATTERNS

EACH = 12  # images of a class
CHANCE = 1 / len(PATTERNS)
Rows = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def gray() -> Rows:
    """Twelve images of each class in turn, in gray, scaled to mean 0 and deviation 1 each."""
    images = textures.draw_textures(EACH * len(PATTERNS)).mean(axis=3)
    return scaled(images, (1, 2))


def scaled(rows: Rows, axis: int | tuple[int, ...]) -> Rows:
    return (rows - rows.mean(axis, keepdims=True)) / rows.std(axis, keepdims=True)


def correlations(images: Rows) -> Rows:
    """How alike an image is to itself at distances of 1 to 6 pixels, and its skew regardless of sign."""
    rows = [np.abs((images**3).mean((1, 2)))]
    for step in (1, 2, 3, 4, 6):
        across = (images[:, :, step:] * images[:, :, :-step]).mean((1, 2))
        down = (images[:, step:] * images[:, :-step]).mean((1, 2))
        rows += [np.minimum(across, down), np.maximum(across, down)]
    return np.stack(rows, axis=1)


def right(queries: Rows, bank: Rows) -> float:
    """The share of queries whose nearest row of the bank, their own image's left out, is of their class."""
    distances = ((queries[:, None] - bank) ** 2).sum(axis=2)
    np.fill_diagonal(distances, np.inf)
    labels = np.arange(len(bank)) % len(PATTERNS)
    return float((labels[distances.argmin(axis=1)] == labels).mean())


def test_a_texture_is_a_function_of_its_number_on_every_machine() -> None:
    again = textures.draw_texture(30)
    assert again.shape == (64, 64, 3)
    assert np.array_equal(textures.draw_texture(30), again)
    assert not np.array_equal(textures.draw_texture(30 + len(PATTERNS)), again)
    assert zlib.crc32(textures.draw_textures(len(PATTERNS))) == 3270331677


def test_the_textures_are_balanced_over_classes_and_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lwcl.data.demo.textures.draw_textures", lambda count: np.zeros((count, 64, 64, 3), np.uint8))
    train, val = open_images(["textures"], "train"), open_images(["textures"], "val")
    assert train.classes == tuple(PATTERNS) == tuple(sorted(PATTERNS))
    assert torch.bincount(train.labels).tolist() == [125] * 24
    assert torch.bincount(val.labels).tolist() == [40] * 24


def test_every_texture_has_two_tones(gray: Rows) -> None:
    images = textures.draw_textures(len(gray))
    assert images.std(axis=(1, 2)).min() > 10


def test_simple_statistics_tell_classes_apart_in_part(gray: Rows) -> None:
    found = right(*2 * (scaled(correlations(gray), 0),))
    assert 4 * CHANCE < found < 0.8


def test_the_mean_colour_hardly_tells_classes(gray: Rows) -> None:
    colours = textures.draw_textures(len(gray)).mean(axis=(1, 2))
    assert right(colours, colours) < 2.5 * CHANCE


def test_either_half_of_an_image_shows_its_class(gray: Rows) -> None:
    left, other = (scaled(correlations(scaled(half, (1, 2))), 0) for half in (gray[:, :, :32], gray[:, :, 32:]))
    assert right(left, other) > 4 * CHANCE
