"""Little or no shared memory: workers send their batches otherwise, or there are none; the batches stay the same."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from runs import METHODS, made_images, pretrain
from torch import Tensor
from torch.utils.data import Dataset

from lwcl.data.cache.open import open_cached_images
from lwcl.data.cache.policy import CacheMode
from lwcl.data.dataset import open_images
from lwcl.data.workers import load_in_workers
from lwcl.reporting.console import Screen
from lwcl.system import shared_memory
from lwcl.system.shared_memory import PackedTensor, pack_tensors, shared_memory_warning, unpack_tensors


class Item(NamedTuple):
    """What a worker makes: tensors within other things."""

    by_size: dict[int, Tensor]
    others: list[object]


class Items(Dataset[Item]):
    """Tensors of several layouts."""

    def __getitem__(self, number: int) -> Item:
        views = torch.arange(number, number + 2 * 3 * 4 * 5, dtype=torch.uint8).view(2, 4, 5, 3).movedim(3, 1)
        return Item({4: views}, [torch.tensor(number), "name", None, torch.zeros(0, 3)])


def test_a_packed_tensor_comes_back_with_its_values_and_layout() -> None:
    item = Items()[3]
    again = unpack_tensors(pack_tensors(item))
    assert isinstance(pack_tensors(item).by_size[4], PackedTensor)
    assert torch.equal(again.by_size[4], item.by_size[4]) and again.by_size[4].stride() == item.by_size[4].stride()
    assert int(again.others[0]) == 3 and again.others[1:3] == ["name", None] and again.others[3].shape == (0, 3)


@pytest.mark.parametrize("free", [0, 2**62])
def test_batches_are_the_same_whatever_the_shared_memory(free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_memory, "MIN_FREE_BYTES", free)
    assert bool(shared_memory_warning()) == (free > 0)
    batches = list(load_in_workers(Items(), [[0, 1], [2]], 1))
    assert [len(batch) for batch in batches] == [2, 1]
    for item, expected in zip(
        (item for batch in batches for item in batch), map(Items().__getitem__, range(3)), strict=True
    ):
        assert torch.equal(item.by_size[4], expected.by_size[4])
        assert item.by_size[4].stride() == expected.by_size[4].stride()


def test_without_semaphores_this_process_does_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **more: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("multiprocessing.synchronize.SemLock.__init__", refuse)
    assert "--shm-size" in shared_memory_warning()
    assert len(list(load_in_workers(Items(), [[0, 1], [2]], 2))) == 2


@pytest.mark.slow
@pytest.mark.parametrize("options", ["size=1m", "ro,size=1m"])
def test_a_run_in_a_container_with_little_shared_memory_ends_well(options: str, tmp_path: Path) -> None:
    words = pretrain(made_images(tmp_path / "data", 2100), tmp_path / "run", *METHODS["moco"])
    words = [*words, "--workers", "2", "--cache", "off", "--fast-dev-run", "20", "--batch-size", "64"]
    mounted = f'mount -t tmpfs -o {options} tmpfs /dev/shm && exec "$@"'
    unshared = ["unshare", "--mount", "--", "/bin/sh", "-c", mounted, "sh", sys.executable, "-m", "lwcl", *words]
    environment = {**os.environ, "LWCL_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(unshared, env=environment, capture_output=True, text=True, timeout=280)
    if "unshare:" in done.stderr or "mount:" in done.stderr:
        pytest.skip("may not mount")
    assert done.returncode == 0, done.stderr
    assert f"Warning: {shared_memory.SHARED_MEMORY}" in done.stderr and "--workers 0" in done.stderr


def test_a_daemonic_process_does_the_work_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)  # type: ignore[attr-defined]
    assert "daemonic" in shared_memory_warning()
    assert len(list(load_in_workers(Items(), [[0, 1], [2]], 2))) == 2


def test_a_long_name_of_the_temporary_folder_is_no_socket_and_batches_come_by_pipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("long" * 20)))
    assert "TMPDIR" in shared_memory_warning()
    assert len(list(load_in_workers(Items(), [[0, 1], [2]], 1, timeout=20))) == 2


@pytest.mark.parametrize(("mode", "told"), [("off", True), ("jpeg", True), ("ram", False)])
def test_small_shared_memory_is_said_where_workers_decode_however_few_the_images(
    mode: CacheMode, told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shared_memory, "MIN_FREE_BYTES", 2**62)
    images = open_images([str(made_images(tmp_path / "images", 4))])
    open_cached_images(images, 16, mode, Screen(quiet=True), workers=1)
    assert ("--shm-size" in capfd.readouterr().err) is told
