"""Multi-crop: MoCo's local crops against the formula written slowly, and the views that each method asks for."""

from typing import Any

import pytest
import torch
from test_formulas import drawn
from test_view_groups import images as images  # a fixture
from test_view_groups import loader
from torch import Tensor

from lwcl.losses import info_nce, l2_normalise
from lwcl.methods.light_moco import LightMoCo
from lwcl.methods.method import Batch, methods
from lwcl.methods.moco import MoCo
from lwcl.models.memory import Queue
from lwcl.settings import field_names

B, D, K, T = 5, 4, 7, 0.3
WITH_LOCAL_CROPS = [name for name, kind in methods().items() if "local_crops" in field_names(kind)]


class Stub:
    """A net whose student takes embeddings for images; its key encoder mirrors them, to be another one."""

    def __init__(self, queue: Tensor) -> None:
        self.queue = Queue(K, D, start=queue)

    def student(self, view: Tensor) -> Tensor:
        return l2_normalise(view)

    def key(self, view: Tensor) -> Tensor:
        return l2_normalise(view.flip(1))


def loss_of(method: MoCo, views: list[Tensor], queue: Tensor) -> float:
    nobody = torch.full((B,), -1)
    return float(method.loss(Stub(queue.clone()), Batch(tuple(views), nobody, nobody), 0.0).total)  # type: ignore[arg-type]


def slow(query: Tensor, key_view: Tensor, queue: Tensor) -> float:
    """InfoNCE of a view's queries with the keys of another view."""
    queries, keys = l2_normalise(query), l2_normalise(key_view.flip(1))
    return float(info_nce((queries * keys).sum(1), queries @ queue.T, T))


@pytest.mark.parametrize("symmetric", [False, True])
def test_local_crops_are_queries_of_the_keys_of_global_views(symmetric: bool) -> None:
    *views, queue = drawn(7, (B, D), (B, D), (B, D), (B, D), (K, D))
    first, second, *local = views
    method = MoCo(temperature=T, symmetric=symmetric, local_crops=2, local_weight=0.6)
    expected = 0.0
    for query, key in [(first, second), (second, first)][: 1 + symmetric]:
        parts = [slow(crop, key, queue) for crop in local]
        expected += 0.4 * slow(query, key, queue) + 0.6 * sum(parts) / 2
    assert loss_of(method, views, queue) == pytest.approx(expected, rel=1e-12)


def test_local_crops_of_no_weight_change_nothing_and_never_enter_the_queue() -> None:
    *views, queue = drawn(8, (B, D), (B, D), (B, D), (K, D))
    plain = loss_of(MoCo(temperature=T), views[:2], queue)
    assert loss_of(MoCo(temperature=T, local_crops=1, local_weight=0.0), views, queue) == pytest.approx(plain)
    net, nobody = Stub(queue.clone()), torch.full((B,), -1)
    MoCo(temperature=T, local_crops=1).loss(net, Batch(tuple(views), nobody, nobody), 0.0)  # type: ignore[arg-type]
    assert [len(rows) for rows in net.queue.staged] == [B], "the keys of one global view"


def test_light_moco_smooths_the_target_of_local_crops_too() -> None:
    *views, queue = drawn(9, (B, D), (B, D), (B, D), (K, D))
    settings: dict[str, Any] = {"temperature": T, "local_crops": 1, "local_weight": 1.0, "queue_size": K}
    plain = loss_of(LightMoCo(**settings, symmetric=False, smoothing=0.0), views, queue)
    assert plain == pytest.approx(slow(views[2], views[1], queue), rel=1e-12)
    smoothed = loss_of(LightMoCo(**settings, symmetric=False, smoothing=0.2, neighbours=3), views, queue)
    queries, keys = l2_normalise(views[2]), l2_normalise(views[1].flip(1))
    nearest = (queries @ queue.T).topk(3).values.mean(1)
    assert smoothed - plain == pytest.approx(float(0.2 * ((queries * keys).sum(1) - nearest).mean() / T), rel=1e-9)


@pytest.mark.parametrize("name", WITH_LOCAL_CROPS)
def test_local_crops_are_small_parts_and_global_views_are_the_rest(name: str) -> None:
    kind = methods()[name]
    assert [spec.crop_scale for spec in kind().view_groups()] == [None], "without them, the run's scale"
    method = kind(local_crops=4, local_size=96 / 224, local_scale=0.14)  # type: ignore[call-arg]
    whole, local = method.view_groups()
    assert (whole.count, whole.crop_scale, whole.pixels(224)) == (2, (0.14, 1.0), 224)
    assert (local.count, local.crop_scale, local.pixels(224)) == (4, (0.05, 0.14), 96)


@pytest.mark.parametrize("view_backend", ["tensor", "opencv"])
@pytest.mark.parametrize("name", WITH_LOCAL_CROPS)
def test_either_applier_makes_the_local_crops_of_a_method(name: str, view_backend: str, images: Any) -> None:
    method = methods()[name](local_crops=2)  # type: ignore[call-arg]
    (batch,) = loader(images, method.view_specs(), view_backend=view_backend).batches(0, 1)
    assert [view.shape[-1] for view in batch.views] == [32, 32, 16, 16]


def test_a_method_with_a_teacher_has_no_local_crops() -> None:
    assert sorted(WITH_LOCAL_CROPS) == ["light-moco", "moco", "simclr", "swav"]
