"""A checkpoint comes back bit for bit, and the one before it survives a kill or a full disk at any moment of a save."""

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from crash import KILLED, ended, in_child, started
from hypothesis import given, settings
from hypothesis import strategies as st
from saving import identical, must_be, saved, silent, state
from torch import nn

from lwcl.checkpoints import training_state
from lwcl.errors import StorageError
from lwcl.system.atomic_files import CRASH_POINTS

POINTS = [point for point in CRASH_POINTS if point.startswith("checkpoint.")]


def test_every_kind_of_tensor_comes_back_bit_for_bit(tmp_path: Path) -> None:
    weight, long = torch.randn(3, 4), torch.arange(10.0)
    tensors = {
        "net": {
            "tied.a": weight, "tied.b": weight, "transposed": weight.T, "head": long[:4], "tail": long[6:],
            "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
            "parameter": nn.Parameter(weight), "odd": torch.tensor([float("nan"), float("-inf"), -0.0, 1e-45]),
        },
        "other": {
            "scalar": torch.tensor(3.5), "int64": torch.tensor([2**62, -1]), "bool": torch.tensor([True, False]),
            "bfloat16": torch.randn(5).bfloat16(), "empty": torch.empty(0, 7), "uint8": torch.arange(5).byte(),
            "empty too": torch.empty(0), "expanded": torch.ones(1).expand(6),
        },
        "nothing": {},
    }  # fmt: skip
    training_state.save_checkpoint(tmp_path, 7, tensors, {})
    found = training_state.latest_checkpoint(tmp_path, silent)
    assert found is not None
    assert identical(found.tensors, tensors)


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.text(), st.floats(allow_nan=False) | st.integers() | st.text() | st.none() | st.booleans()))
def test_facts_come_back_exactly(tmp_path_factory: pytest.TempPathFactory, facts: dict[str, Any]) -> None:
    folder = tmp_path_factory.mktemp("facts")
    training_state.save_checkpoint(folder, 1, {}, facts)
    assert training_state.latest_checkpoint(folder, silent) == (1, {}, facts)


def test_the_last_two_are_kept_and_the_newest_is_read(tmp_path: Path) -> None:
    assert training_state.latest_checkpoint(tmp_path / "none", silent) is None
    saved(tmp_path, 500, 1000, 999_999, 1_000_000)
    assert sorted(os.listdir(tmp_path)) == ["step-1000000", "step-999999"]
    must_be(training_state.latest_checkpoint(tmp_path, silent), 1_000_000)
    plain = tmp_path / "plain"
    plain.touch()
    assert (tmp_path / "step-999999" / "net.safetensors").stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("again", [False, True], ids=["a new step", "the same step"])
def test_a_kill_anywhere_in_a_save_leaves_a_whole_checkpoint(tmp_path: Path, point: str, again: bool) -> None:
    hit, deaths, step = 1, 0, 2 if again else 3
    while True:
        folder = tmp_path / str(hit)
        saved(folder, 1, 2)
        code = in_child(partial(saved, folder, step), fault=f"{point}@{hit}")
        if code == 0:
            break
        assert code == KILLED
        deaths += 1
        found = training_state.latest_checkpoint(folder, silent)
        must_be(found, found.step if found else 0)
        assert found is not None
        assert found.step in (2, step)
        saved(folder, step, 4)
        must_be(training_state.latest_checkpoint(folder, silent), 4)
        assert sorted(os.listdir(folder)) == [f"step-{step:06d}", "step-000004"]
        hit += 1
    expected = {"checkpoint.file": 3, "checkpoint.replace": int(again)}
    assert deaths == expected.get(point, 1)


def test_an_old_checkpoint_is_out_of_sight_before_it_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_state, "remove_path", lambda path: None)
    saved(tmp_path, 1, 2, 3)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-000002", "step-000003"]


def test_a_save_clears_what_a_killed_one_left_though_its_process_id_is_in_use(tmp_path: Path) -> None:
    (tmp_path / f".tmp-{os.getppid()}-step-000001").mkdir()
    saved(tmp_path, 1)
    assert os.listdir(tmp_path) == ["step-000001"]


@pytest.mark.parametrize("room", [0, 50, 300, 3000])
def test_a_full_disk_leaves_the_checkpoint_before_and_nothing_else(tmp_path: Path, room: int) -> None:
    saved(tmp_path, 1)

    def save_too_much() -> None:
        with pytest.raises(StorageError, match=r"Cannot write .*step-000002.*\n.*4\.0 kB needed"):
            training_state.save_checkpoint(tmp_path, 2, state(2, size=1000), {})

    assert in_child(save_too_much, largest_file=room) == 0
    assert os.listdir(tmp_path) == ["step-000001"]
    must_be(training_state.latest_checkpoint(tmp_path, silent), 1)


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lwcl.system.atomic_files.free_space", lambda path: 10)
    with pytest.raises(StorageError, match="disk is full: 40 bytes needed, 10 bytes free"):
        training_state.save_checkpoint(tmp_path, 1, state(1), {})
    assert os.listdir(tmp_path) == []


def test_files_are_synced_then_the_folder_then_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []

    def note(event: str, args: tuple[Any, ...]) -> None:
        if listening and event == "os.rename":
            events.append("rename")

    fsync = os.fsync

    def noted_fsync(descriptor: int) -> None:
        events.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name.replace(f"-{os.getpid()}-", "-"))
        fsync(descriptor)

    folder, listening = tmp_path / "checkpoints", True
    sys.addaudithook(note)
    monkeypatch.setattr(os, "fsync", noted_fsync)
    saved(folder, 1)
    listening = False
    files = ["state.json", "net.safetensors", "queue.safetensors", "manifest.json"]
    assert events == [tmp_path.name, *files, ".tmp-step-000001", "rename", "checkpoints"]


def test_a_reader_beside_a_writer_always_finds_a_whole_checkpoint(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    done = tmp_path / "done"

    def save_all() -> None:
        saved(tmp_path, *range(2, 62))
        done.touch()

    writer = started(save_all)
    reads = newest = 0
    while not done.exists() and reads < 100_000:
        found = training_state.latest_checkpoint(tmp_path, silent)
        assert found is not None
        assert found.step >= newest
        must_be(found, found.step)
        reads, newest = reads + 1, found.step
    assert ended(writer) == 0
    assert reads > 20
