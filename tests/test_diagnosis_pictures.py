"""The pictures of a diagnosis: what they show, and that they can be read without colour."""

import re
from pathlib import Path

import numpy
import pytest
from runs import made_images, picture

from lwcl.data.dataset import open_images
from lwcl.diagnosis.plots import heat, maps, thumbnails
from lwcl.diagnosis.plots.pictures import points_per_map, queries_per_sheet
from lwcl.diagnosis.run_pictures import good_crops
from lwcl.models.loaded import InputSpec


def test_many_encoders_share_the_room_of_a_page() -> None:
    assert points_per_map(1) == 1000 and 2 * 20 * points_per_map(20) <= 10_000
    assert queries_per_sheet(1) == 5 and queries_per_sheet(100) == 1


def test_right_and_wrong_differ_by_frame_and_sign() -> None:
    photo = numpy.asarray(picture(0))
    row = thumbnails.NeighbourRow(photo, [photo] * 3, [True, False, None], "a <cat> & a dog")
    text = thumbnails.neighbour_sheet([row])
    assert text.count("stroke-dasharray") == 1 and text.count("<rect") == 2
    assert all(text.count(sign) == 1 for sign in thumbnails.MARK_PATHS.values())
    assert text.count("<image") == 4 and "&lt;cat&gt; &amp; a dog" in text


def test_clusters_stand_in_the_order_of_their_classes() -> None:
    counts = numpy.array([[0, 9, 0], [1, 1, 1], [8, 0, 0], [0, 0, 7]])
    assert heat.order_clusters(counts, numpy.array([1, -1, 0, 2])).tolist() == [
        [8, 0, 0],
        [0, 9, 0],
        [0, 0, 7],
        [1, 1, 1],
    ]
    assert ">100<" in heat.heat_map(counts, ("a", "b", "c"))


def test_more_than_ten_classes_are_grey_on_a_map_and_unwritten_on_a_heat_map() -> None:
    names = [str(number) for number in range(11)]
    points, labels = numpy.random.default_rng(0).normal(size=(22, 2)), numpy.arange(22) % 11
    assert set(re.findall(r"fill: (#\w+)", maps.draw_map(points, maps.PointClasses(labels, names)))) == {"#8c8c8c"}
    assert len(set(re.findall(r"fill: (#\w+)", maps.draw_map(points, maps.PointClasses(labels % 10, names[:10]))))) == 6
    assert heat.heat_map(numpy.eye(13, dtype=int), [*names, "a", "b"]).count("100") == 0


def test_principal_components_are_those_of_the_covariance() -> None:
    x = numpy.random.default_rng(0).normal(size=(200, 3)) * (3, 1, 0.1)
    points, shares = maps.principal_components(x, 2)
    values = numpy.linalg.eigvalsh(numpy.cov(x.T))[::-1]
    assert shares == pytest.approx(values[:2] / values.sum())
    assert points.var(0, ddof=1) == pytest.approx(values[:2])


def test_a_collapsed_embedding_has_a_map_too() -> None:
    x = numpy.full((20, 4), 0.5)
    assert not maps.tsne_coordinates(x, 0).any()
    assert "<svg" in maps.draw_map(maps.tsne_coordinates(x, 0), None)


def test_a_map_keeps_groups_apart_and_is_seeded() -> None:
    x = numpy.repeat(numpy.eye(2), 20, 0) * 10 + numpy.random.default_rng(0).normal(size=(40, 2))
    points = maps.tsne_coordinates(x, 0)
    inner = numpy.linalg.norm(points[:20] - points[:20].mean(0), axis=1).max()
    assert numpy.linalg.norm(points[:20].mean(0) - points[20:].mean(0)) > inner
    assert numpy.array_equal(points, maps.tsne_coordinates(x, 0))


def test_a_broken_image_is_left_out_of_the_pictures_and_counted(tmp_path: Path) -> None:
    folder = made_images(tmp_path, 12)
    (folder / "003.png").write_bytes(b"no image")
    images = open_images([str(folder)])
    good, pixels, note = good_crops(images, InputSpec.for_arch("test_efficientnet", 32))
    assert len(good) == len(pixels[0]) == 11 and "003.png" not in list(good.names)
    assert len({crop.numpy().tobytes() for crop in pixels[0]}) == 11, "none stands twice"
    assert note == " Left out: 1 broken image."
