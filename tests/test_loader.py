"""Batches of images that are decoded each time: no larger than views need, and no further ahead than they are used."""

import io
import itertools
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from crash import ended, started
from PIL import Image
from torch.utils.data import Dataset

from lwcl.config.augmentation import AUGMENTATIONS, Augmentation
from lwcl.data.dataset import BrokenImage, ImageSet, open_images
from lwcl.data.decode_and_crop import CropDataset
from lwcl.data.loader import BatchCrops, Loader, StudentViews
from lwcl.data.workers import load_in_workers
from lwcl.errors import DataError
from lwcl.methods.method import ViewSpec
from lwcl.models.loaded import InputSpec
from lwcl.system.compute import Compute

COUNT, SIDE = 12, 160
INPUT = InputSpec(16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
AUGMENTATION = Augmentation(**AUGMENTATIONS["moco-v2"])


@pytest.fixture
def photos(tmp_path: Path) -> ImageSet:
    """JPEG files much larger than a view."""
    for number in range(COUNT):
        y, x = np.mgrid[0:SIDE, 0 : SIDE + 40]
        pixels = np.stack([x + 20 * number, y, x + y], axis=2).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG")
        (tmp_path / f"{number:02}.jpg").write_bytes(file.getvalue())
    return open_images([str(tmp_path)])


def loader(images: ImageSet, **more: object) -> Loader:
    """Batches of four, two views each."""
    settings: dict[str, object] = {
        **{"images": images, "store": None, "student": StudentViews((ViewSpec(),) * 2, AUGMENTATION, INPUT)},
        **{"batch_size": 4, "seed": 0, "compute": Compute(torch.device("cpu")), "on_broken": fail_on_broken},
    }
    return Loader(**settings | more)  # type: ignore[arg-type]


def fail_on_broken(bad: BrokenImage) -> None:
    """All images are good."""
    raise AssertionError(bad)


@pytest.mark.parametrize(("short_side", "height"), [(None, 160), (81, 160), (80, 80), (40, 40), (28, 40)])
def test_photos_are_decoded_at_a_part_of_their_size_but_not_below_what_views_need(
    photos: ImageSet, short_side: int | None, height: int
) -> None:
    own = loader(photos, short_side=short_side)
    (cut,) = own.decode_crops(iter([BatchCrops((0, 1), torch.arange(COUNT))]), {16: [0, 1]}, 0)
    assert set(cut.heights.tolist()) == {height}
    assert cut.crops[16].shape == (2, COUNT, 3, 16, 16)


def test_views_of_photos_decoded_small_are_near_those_of_whole_ones(photos: ImageSet) -> None:
    whole, small = (next(iter(loader(photos, short_side=side).batches(0, 1))) for side in (None, 80))
    apart = [(one - other).abs().mean() for one, other in zip(whole.views, small.views, strict=True)]
    assert torch.equal(whole.index, small.index)
    assert max(apart) < 0.1  # of a range of 2; boxes are whole pixels


@pytest.mark.parametrize("workers", [0, 1])
def test_a_long_run_of_decoded_images_is_not_listed_before_its_first_batch(
    photos: ImageSet, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = itertools.count()
    crops = Loader.crops

    def counted(self: Loader, start: int, stop: int) -> object:
        for batch in crops(self, start, stop):
            assert next(asked) < 20, "further ahead than anyone needs"
            yield batch

    monkeypatch.setattr(Loader, "crops", counted)
    batches = loader(photos, workers=workers).batches(0, 1000)
    assert [len(next(batches).index) for _ in range(4)] == [4] * 4
    batches.close()


def test_crops_hold_no_more_pixels_than_they_may(photos: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    cuts: list[int] = []
    cut = CropDataset.cut

    def counted(self: CropDataset, crops: list[int], found: list[object]) -> object:
        cuts.append(len(found))
        return cut(self, crops, found)  # type: ignore[arg-type]

    monkeypatch.setattr(CropDataset, "cut", counted)
    monkeypatch.setattr("lwcl.data.decode_and_crop.MAX_PENDING_PIXELS", 3 * SIDE * (SIDE + 40))
    (whole,) = loader(photos).decode_crops(iter([BatchCrops((0,), torch.arange(COUNT))]), {16: [0]}, 0)
    assert (cuts, len(whole.heights)) == ([3, 3, 3, 3], COUNT)


class Changed(Dataset[object]):
    """A set whose archive has changed."""

    def __getitem__(self, place: int) -> object:
        raise DataError("The archive has changed.", remedy="Start again.")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_a_worker_keeps_its_words(workers: int) -> None:
    with pytest.raises(DataError, match=r"^The archive has changed\.\nStart again\.$"):
        list(load_in_workers(Changed(), [[0]], workers))


class Heavy(Dataset[bytes]):
    """Items that fill a pipe, made by workers who leave their numbers in a folder."""

    def __init__(self, told: Path) -> None:
        self.told = told

    def __getitem__(self, number: int) -> bytes:
        (self.told / str(os.getpid())).touch()
        return bytes(2**20)


def test_workers_leave_when_their_process_is_killed(tmp_path: Path) -> None:
    def work() -> None:
        batches = load_in_workers(Heavy(tmp_path), [[number] for number in range(50)], 2)
        next(batches), next(batches)  # one of each worker, who goes on until the pipe is full
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGKILL)

    assert ended(started(work)) == -signal.SIGKILL
    workers = [path.name for path in tmp_path.iterdir()]
    assert len(workers) == 2
    deadline = time.monotonic() + 30
    while any(map(is_running, workers)):
        assert time.monotonic() < deadline, "a worker is still there"
        time.sleep(0.1)


def is_running(pid: str) -> bool:
    """Whether there is such a process, and it has not ended."""
    try:
        return bool(Path("/proc", pid, "cmdline").read_bytes())
    except OSError:
        return False
