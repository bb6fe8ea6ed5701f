"""A damaged checkpoint is found, told and put aside, and the one before it is taken."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from saving import must_be, saved, silent

from lwcl.checkpoints import training_state
from lwcl.errors import StorageError


def test_every_flipped_bit_is_found_and_the_one_before_is_taken(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    spare = shutil.copytree(tmp_path / "step-000002", tmp_path / "spare")
    draw = random.Random(0)  # noqa: S311
    for trial in range(200):
        file = draw.choice(sorted(path.name for path in spare.iterdir()))
        data = bytearray((spare / file).read_bytes())
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        (tmp_path / "step-000002" / file).write_bytes(data)
        told: list[str] = []
        must_be(training_state.latest_checkpoint(tmp_path, told.append), 1)
        assert len(told) == 1, (trial, file)
        assert "step-000002" in told[0]
        assert "corrupt-step-000002" in told[0]
        shutil.rmtree(tmp_path / "corrupt-step-000002")
        shutil.copytree(spare, tmp_path / "step-000002")


def cut(folder: Path) -> None:
    """Damage: a file that ends early."""
    file = folder / "net.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def grow(folder: Path) -> None:
    """Damage: a file with something after its end."""
    with open(folder / "net.safetensors", "ab") as file:
        file.write(b"x")


def link(folder: Path) -> None:
    """Damage: a link in place of a file."""
    (folder / "net.safetensors").rename(folder / "elsewhere")
    (folder / "net.safetensors").symlink_to("elsewhere")


def pipe(folder: Path) -> None:
    """Damage: a pipe that never ends, in place of a file."""
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")


def climb(folder: Path) -> None:
    """Damage: a manifest, correct in itself, that names a file outside."""
    (folder / "manifest.json").unlink()
    listed = {"../../x": {"bytes": 0, "sha256": training_state.sha256_hex(b"")}}
    manifest = {"files": listed, "sha256": training_state.sha256_hex(json.dumps(listed).encode())}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def nest(folder: Path) -> None:
    """Damage: JSON that is deeper than the stack."""
    (folder / "manifest.json").write_text("[" * 100_000)


def empty(folder: Path) -> None:
    """Damage: nothing left in the folder."""
    shutil.rmtree(folder)
    folder.mkdir()


def dangle(folder: Path) -> None:
    """Damage: a link to nowhere in place of the folder."""
    shutil.rmtree(folder)
    folder.symlink_to("nowhere")


@pytest.mark.parametrize("damage", [cut, grow, link, pipe, climb, nest, empty, dangle])
def test_damage_is_found_and_told(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    folder = tmp_path / "run" / "checkpoints"
    saved(folder, 1, 2)
    (folder / "corrupt-step-000002").mkdir()
    damage(folder / "step-000002")
    told: list[str] = []
    must_be(training_state.latest_checkpoint(folder, told.append), 1)
    assert len(told) == 1
    assert sorted(os.listdir(folder)) == ["corrupt-step-000002", "corrupt-step-000002-1", "step-000001"]


def test_when_none_is_whole_the_run_does_not_begin_anew_in_silence(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    for folder in list(tmp_path.iterdir()):
        cut(folder)
    told: list[str] = []
    for _ in range(2):
        with pytest.raises(StorageError, match="No checkpoint") as caught:
            training_state.latest_checkpoint(tmp_path, told.append)
        assert caught.value.exit_code == 5
    assert len(told) == 2


def test_what_may_not_be_read_is_not_taken_for_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, 1)

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", refuse)
        with pytest.raises(StorageError, match="Permission denied"):
            training_state.latest_checkpoint(tmp_path, silent)
    must_be(training_state.latest_checkpoint(tmp_path, silent), 1)


def test_a_checkpoint_of_another_version_is_refused_and_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(training_state, "CHECKPOINT_FORMAT", 1)
        saved(tmp_path, 1)
    with pytest.raises(StorageError, match="another version"):
        training_state.latest_checkpoint(tmp_path, silent)
    assert os.listdir(tmp_path) == ["step-000001"]
