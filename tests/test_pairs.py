"""ssl-small's measures against golden values of its own code, and what is defined otherwise here."""

import numpy
import pytest
import torch
from torch import Tensor

from lwcl import losses
from lwcl.losses import l2_normalise
from lwcl.metrics import neighbourhood, pairs

IDENTICAL, TOUCHING, SHIFTED = (0, 0, 10, 10), (10, 0, 10, 10), (0, 0, 100, 100)


def golden() -> tuple[Tensor, Tensor, Tensor]:
    """The original and two views that the golden values were computed on (float64), in 3 classes of 4."""
    stream = numpy.random.RandomState(7)
    first, second, third = (l2_normalise(torch.from_numpy(stream.standard_normal((12, 5)))) for _ in range(3))
    views = first, l2_normalise(first + 1.2 * second), l2_normalise(first + 1.2 * third)
    sums = [float(x.sum()) for x in views]
    assert sums == pytest.approx([-1.1395935672106, 2.411018473953941, -4.05498966891311])
    return views


def test_all_measures_equal_the_published_code() -> None:
    found = pairs.pair_metrics(*golden(), torch.arange(12) // 4, seed=0)
    assert found.alignment_d_sd == pytest.approx(0.6787458521231822)
    assert found.alignment_sd_sd == pytest.approx(1.2229372257218771)
    assert found.uniformity_d == pytest.approx(-2.6234251682114373)
    assert found.uniformity_sd == pytest.approx(-2.815917283692033)
    assert found.exact_uniformity_d == pytest.approx(-2.6234251682114373)
    assert found.intra_d == pytest.approx(2.098651164190032)
    assert found.intra_sd == pytest.approx(2.085845017954654)
    assert found.d_sd[:3] == pytest.approx((0.25, 2 / 3, 11 / 12))
    assert (found.sd_sd or ())[:3] == pytest.approx((1 / 3, 1 / 3, 5 / 12))


def test_without_a_second_view_or_classes_what_needs_them_is_missing() -> None:
    original, first, _ = golden()
    found = pairs.pair_metrics(3 * original, first, seed=0)
    assert (found.sd_sd, found.alignment_sd_sd, found.intra_d, found.intra_sd) == (None, None, None, None)
    assert found.alignment_d_sd == pytest.approx(0.6787458521231822), "rows are normed"


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pairs.pair_metrics(*golden(), seed=0)
    monkeypatch.setattr(neighbourhood, "METRIC_CHUNK_BYTES", 4 * 12 * 5)
    parts = pairs.pair_metrics(*golden(), seed=0)
    assert (parts.d_sd, parts.sd_sd) == (whole.d_sd, whole.sd_sd)
    assert parts.exact_uniformity_d == pytest.approx(whole.exact_uniformity_d)


def test_one_point_finds_no_view_and_perfect_views_are_all_found() -> None:
    point = torch.ones(10, 4) / 2
    assert pairs.instance_discrimination(point, point, (1, 9)) == (0, 0)
    x = l2_normalise(torch.randn(30, 6, generator=torch.Generator().manual_seed(0)))
    assert pairs.instance_discrimination(x, x, (1,)) == (1,)


def test_a_copy_of_the_view_among_the_others_is_a_tie_that_is_not_found() -> None:
    x = l2_normalise(torch.randn(300, 96, generator=torch.Generator().manual_seed(0)))
    near = neighbourhood.nearest_neighbours(x, 20)
    nearest = x[near.indices[:, 0]]
    assert pairs.instance_discrimination(x, nearest, (1, 2)) == (0, 1)
    assert pairs.instance_discrimination(x, nearest, (1, 2), near) == (0, 1)


def test_sampled_uniformity_is_near_the_exact_one_and_follows_its_seed() -> None:
    x = l2_normalise(torch.randn(1000, 16, generator=torch.Generator().manual_seed(0)))
    exact = float(losses.uniformity(x))
    assert pairs.exact_uniformity(x) == pytest.approx(exact, abs=1e-4)
    sampled = [pairs.sampled_uniformity(x, seed=seed) for seed in (0, 0, 1)]
    assert sampled == pytest.approx([exact] * 3, abs=0.05)
    assert sampled[0] == sampled[1] != sampled[2]


def test_a_class_of_one_image_has_no_intra_class_alignment() -> None:
    x = l2_normalise(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)))
    expected = float((x[0] - x[1]).square().sum())
    assert pairs.intra_class_alignment(x, torch.tensor([0, 0, 1, -1, -1])) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("first", "second", "right", "published"),
    [
        (IDENTICAL, IDENTICAL, 1.0, 1.5316455696202531),
        (IDENTICAL, TOUCHING, 0.0, 0.0582010582010582),
        (SHIFTED, (50, 50, 100, 100), 2500 / 17500, 0.14949135007759068),
    ],
)
def test_overlap_is_right_where_the_published_code_adds_a_pixel(
    first: tuple[int, ...], second: tuple[int, ...], right: float, published: float
) -> None:
    one, other = torch.tensor([first]).float(), torch.tensor([second]).float()
    assert float(pairs.crop_iou(one, other)) == pytest.approx(right)
    low, high = (
        torch.maximum(one[:, :2], other[:, :2]),
        torch.minimum(pairs.bottom_right(one), pairs.bottom_right(other)),
    )
    shared = float((high - low + 1).prod())
    quirk = shared / (first[2] * first[3] + second[2] * second[3] - shared)
    assert quirk == pytest.approx(published)
    assert quirk != pytest.approx(right, abs=1e-3)


def test_pairs_of_crops_fall_into_bands_by_their_overlap() -> None:
    bands = pairs.hardness_masks(torch.tensor([0.0, 0.001, 0.05, 0.2, 0.25, 1.0]))
    assert {name: chosen.nonzero().flatten().tolist() for name, chosen in bands.items()} == {
        "super-hard": [1],
        "hard": [2, 3],
        "easy": [4, 5],
    }
