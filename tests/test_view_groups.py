"""Views in groups (multi-crop): sizes, scales and augmentations of each group, however images are read and cropped."""

import dataclasses
import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from runs import made_images, picture
from torch import Tensor

from lwcl import engine
from lwcl.config.augmentation import AUGMENTATIONS, Augmentation
from lwcl.config.recipes import Optimization
from lwcl.config.teacher_options import TeacherCacheSpec, check_cached_views
from lwcl.data.cache.pixels import PixelStore
from lwcl.data.dataset import ImageSet, open_images
from lwcl.data.loader import BatchCrops, Loader, StudentViews, TeacherViews
from lwcl.errors import UsageError
from lwcl.methods import method as registry
from lwcl.methods.method import Method, ViewSpec
from lwcl.methods.moco import MoCo
from lwcl.models.encoder import Encoder
from lwcl.models.loaded import InputSpec
from lwcl.system.compute import Compute

COUNT, SIZE, BATCH = 16, 32, 8
INPUT = InputSpec(SIZE, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
GLOBAL, LOCAL = ViewSpec(count=2), ViewSpec(count=3, size=0.5, crop_scale=(0.05, 0.3), augmentation={"blur_p": 0.0})
MULTI_CROP = (GLOBAL,) * 2 + (LOCAL,) * 3
CPU = Compute(torch.device("cpu"))


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    return open_images((str(made_images(tmp_path / "images", COUNT)),), "train")


def stored() -> PixelStore:
    """The same images, decoded."""
    pixels = torch.stack([torch.from_numpy(numpy.array(picture(number))) for number in range(COUNT)])
    sides = torch.full((COUNT,), pixels.shape[1])
    return PixelStore(pixels.flatten(), torch.arange(COUNT) * pixels[0].numel(), sides, sides, [])


def loader(images: ImageSet, specs: tuple[ViewSpec, ...] = MULTI_CROP, **more: Any) -> Loader:
    """Batches of views by MoCo v2's augmentation."""
    student = StudentViews(specs, Augmentation(**AUGMENTATIONS["moco-v2"]), INPUT)
    settings = {"images": images, "store": stored(), "batch_size": BATCH, "seed": 0, "compute": CPU}
    return Loader(student=student, on_broken=lambda broken: pytest.fail(str(broken)), **settings | more)


def views(of: Loader, start: int = 0, stop: int = 3) -> list[tuple[Tensor, ...]]:
    return [batch.views for batch in of.batches(start, stop)]


def same(some: list[tuple[Tensor, ...]], others: list[tuple[Tensor, ...]]) -> bool:
    pairs = ((a, b) for one, other in zip(some, others, strict=True) for a, b in zip(one, other, strict=True))
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("store", [True, False])
@pytest.mark.parametrize("view_backend", ["tensor", "opencv"])
def test_each_group_has_its_own_size(images: ImageSet, store: bool, view_backend: str) -> None:
    batches = views(loader(images, view_backend=view_backend, **({} if store else {"store": None})))
    shapes = [tuple(view.shape) for view in batches[0]]
    assert shapes == [(BATCH, 3, 32, 32)] * 2 + [(BATCH, 3, 16, 16)] * 3
    flat = [view for batch in batches for view in batch]
    assert all(bool(view.isfinite().all()) for view in flat)
    assert not any(torch.equal(a, b) for a, b in zip(batches[0][2:], batches[0][3:], strict=False)), "crops differ"


@pytest.mark.parametrize("view_backend", ["tensor", "opencv"])
def test_stored_and_decoded_images_give_the_same_local_crops(images: ImageSet, view_backend: str) -> None:
    """Pillow and torch may round a pixel of a crop apart."""
    stored_views, decoded = (views(loader(images, view_backend=view_backend, **more)) for more in ({}, {"store": None}))
    for one, other in zip(stored_views, decoded, strict=True):
        for a, b in zip(one, other, strict=True):
            assert float((a - b).abs().max()) < 3 / 255 / 0.25


def test_workers_change_no_bit_of_a_multi_crop_batch(images: ImageSet) -> None:
    assert same(*(views(loader(images, store=None, workers=workers)) for workers in (0, 2)))


def test_local_crops_leave_the_global_views_as_they_are(images: ImageSet) -> None:
    alone, among = views(loader(images, (GLOBAL,) * 2)), views(loader(images))
    assert same(alone, [batch[:2] for batch in among])


def test_a_group_has_its_own_crop_scale_and_augmentation(images: ImageSet) -> None:
    student, index = loader(images).student, torch.arange(1000)
    sides = torch.full((1000,), 100)
    params = [student.params(crop, index, sides, sides, seed=0, input_spec=INPUT) for crop in range(5)]
    areas = [(p.boxes[:, 2] * p.boxes[:, 3]).double() / 100**2 for p in params]
    assert all(float(area.min()) > 0.18 and float(area.max()) > 0.9 for area in areas[:2]), "the run's: 0.2 to 1"
    assert all(float(area.min()) > 0.04 and float(area.max()) < 0.32 for area in areas[2:])
    assert [bool((p.sigma > 0).any()) for p in params] == [True, True, False, False, False]
    assert all(bool(p.jitter.any()) for p in params), "what a group does not change is the run's"


def test_sizes_are_multiples_of_eight_and_never_tiny() -> None:
    pixels = {(size, side): ViewSpec(size=size).pixels(side) for size in (1, 96 / 224, 0.25) for side in (28, 64, 224)}
    assert [pixels[1, side] for side in (28, 64, 224)] == [28, 64, 224]
    assert [pixels[96 / 224, side] for side in (28, 64, 224)] == [16, 24, 96]
    assert pixels[0.25, 64] == 16


class Told:
    """A teacher that notes which crops it is asked for and what it is shown."""

    def __init__(self, views: TeacherViews) -> None:
        self.views, self.seen = views, list[tuple[BatchCrops, tuple[Tensor, ...]]]()

    def outputs(self, crops: BatchCrops, shown: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        self.seen.append((crops, shown))
        return tuple(crops.index[:, None] + torch.zeros(1, number + 1) for number in range(len(crops.numbers)))


@pytest.mark.parametrize("store", [True, False])
def test_an_online_teacher_sees_every_crop_at_its_own_relative_size(images: ImageSet, store: bool) -> None:
    teacher = Told(TeacherViews(dataclasses.replace(INPUT, size=64)))
    own = loader(images, teacher=teacher, **({} if store else {"store": None}))
    batch = next(own.batches(0, 1))
    ((crops, shown),) = teacher.seen
    assert [view.shape[-1] for view in shown] == [64, 64, 32, 32, 32]
    assert [output.shape[1] for output in batch.teacher_output] == [1, 2, 3, 4, 5]
    for crop, view in zip(crops.numbers, shown, strict=True):
        assert torch.equal(own.view(crop, crops.index, teacher.views.input_spec or INPUT), view)


def test_cached_crops_return_to_their_own_group(images: ImageSet) -> None:
    own = loader(images, teacher=Told(TeacherViews(cached_crops=10)))
    steps = own.steps_per_epoch
    numbers = [crops.numbers for crops in own.crops(0, 3 * steps)][::steps]
    assert numbers == [(0, 1, 2, 3, 4), (5, 6, 7, 8, 9), (0, 1, 2, 3, 4)]
    first = {
        int(i): view for batch in own.batches(0, steps) for i, view in zip(batch.index, batch.views[4], strict=True)
    }
    third = own.batches(2 * steps, 3 * steps)
    assert all(torch.equal(first[int(i)], v) for b in third for i, v in zip(b.index, b.views[4], strict=True))


class Distilled(Method):
    """A method with a teacher and local crops."""

    name, teacher_space = "distilled", "features"

    def view_groups(self) -> tuple[ViewSpec, ...]:
        return GLOBAL, LOCAL


def test_cached_crops_that_would_mix_groups_are_refused() -> None:
    check_cached_views(Distilled(), TeacherCacheSpec("views", 10))
    check_cached_views(MoCo(), TeacherCacheSpec("views", 1))  # it has no teacher
    for crops in (1, 4, 7):
        with pytest.raises(UsageError, match="--teacher-cache"):
            check_cached_views(Distilled(), TeacherCacheSpec("views", crops))


def test_groups_of_a_batch_and_of_its_parts(images: ImageSet) -> None:
    batch = next(loader(images).batches(0, 1))
    whole = Distilled().grouped(batch.views)
    assert [len(group) for group in whole] == [2, 3]
    parts = [Distilled().grouped(part.views) for part in engine.split_microbatches(batch, 2)]
    for group, halves in zip(whole, zip(*parts, strict=True), strict=True):
        assert all(torch.equal(v, torch.cat(pair)) for v, pair in zip(group, zip(*halves, strict=True), strict=True))


@pytest.fixture
def byol(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The example's method; other tests do not see it."""
    path = Path(__file__).parents[1] / "examples/own_method.py"
    monkeypatch.setattr(registry, "METHODS", dict(registry.METHODS))
    spec = importlib.util.spec_from_file_location("own_method", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "own_method", module)
    spec.loader.exec_module(module)
    return module.BYOL


def trained(kind: Any, images: ImageSet, start: int = 0, stop: int = 12, net: Any = None) -> tuple[Any, list[Any]]:
    """A run of BYOL with two local crops, from `start`; its net and its steps."""
    method = kind(hidden=32, dim=16, local_crops=2, target_momentum=0.9)
    torch.manual_seed(0)
    net = net or method.build(Encoder("test_efficientnet", method.head))
    recipe = Optimization(
        epochs=6, batch_size=BATCH, optimizer="sgd", lr=0.05, weight_decay=1e-4, warmup=0.0, momentum=0.0
    )
    optimizer = engine.build_optimizer(net, recipe, 0.05, 1e-4)
    batches = loader(images, method.view_specs()).batches(start, stop)
    fitted = engine.fit(method, net, batches, recipe, optimizer, CPU, steps_per_epoch=2, start=start, seed=0)
    return net, list(fitted)


def test_byol_in_one_file_learns_by_its_own_modules_and_schedule(byol: Any, images: ImageSet) -> None:
    before, (net, steps) = trained(byol, images, 0, 0)[0].state_dict(), trained(byol, images)
    assert steps[-1].metrics["loss"] < steps[0].metrics["loss"]
    moved = {
        name.partition(".")[0] for name, tensor in net.state_dict().items() if not torch.equal(before[name], tensor)
    }
    assert moved == {"student", "predictor", "target"}
    assert net.target.momentum == pytest.approx(1, abs=1e-12), "it rises to 1 at the end of the run"
    assert all(parameter.grad is None for parameter in net.target.parameters())


def test_byol_resumed_in_the_middle_equals_an_unbroken_run(byol: Any, images: ImageSet) -> None:
    whole, _ = trained(byol, images)
    half, _ = trained(byol, images, 0, 5)
    half.target.momentum = 0.0  # no part of a checkpoint: it follows from the position in the run
    resumed, _ = trained(byol, images, 5, 12, half)
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    )
