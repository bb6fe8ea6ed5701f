"""Files survive kills and full disks, and what the disk refuses is said in words."""

import errno
import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from crash import KILLED, in_child
from hypothesis import given, settings
from hypothesis import strategies as st

from lwcl import formatting
from lwcl.checkpoints.encoder_file import export_timm
from lwcl.errors import StorageError, UsageError
from lwcl.models.encoder import Encoder
from lwcl.models.loaded import InputSpec
from lwcl.system import atomic_files

SOME_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def test_the_cache_is_where_the_user_says_and_else_where_xdg_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LWCL_CACHE", "/a/b")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert atomic_files.cache_folder() == Path("/a/b")
    monkeypatch.delenv("LWCL_CACHE")
    assert atomic_files.cache_folder() == Path("/x/lwcl")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/someone")
    assert atomic_files.cache_folder() == Path("/home/someone/.cache/lwcl")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # a user id without a home, as in a container
    assert atomic_files.cache_folder() == Path(tempfile.gettempdir(), f"lwcl-{os.getuid()}"), "no folder named ~"


def test_a_fault_point_that_is_not_registered_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LWCL_CRASH_AT", raising=False)
    with pytest.raises(UsageError, match=r"no\.such\.point"):
        atomic_files.crash_point("no.such.point")
    monkeypatch.setenv("LWCL_CRASH_AT", "chekpoint.file@2")
    with pytest.raises(UsageError, match=r"chekpoint\.file"):
        atomic_files.crash_point("checkpoint.file")


@pytest.mark.parametrize(
    ("wanted", "survived"), [("index.write", 0), ("index.write@3", 2), ("cache.index", 5), ("", 5)]
)
def test_a_fault_kills_at_the_hit_that_was_asked_for(tmp_path: Path, wanted: str, survived: int) -> None:
    def hit_five_times() -> None:
        for number in range(5):
            atomic_files.crash_point("index.write")
            (tmp_path / str(number)).touch()

    assert in_child(hit_five_times, fault=wanted) == (0 if survived == 5 else KILLED)
    assert len(list(tmp_path.iterdir())) == survived


def test_the_fault_points_are_different() -> None:
    assert len(set(atomic_files.CRASH_POINTS)) == len(atomic_files.CRASH_POINTS) >= 12


@pytest.mark.parametrize(("point", "content"), [("file.written", "old"), ("file.renamed", "new")])
def test_a_kill_leaves_the_old_file_or_the_new_one(tmp_path: Path, point: str, content: str) -> None:
    path = tmp_path / "config.yaml"
    atomic_files.write_atomically(path, "old")
    assert in_child(lambda: atomic_files.write_atomically(path, "new"), fault=point) == KILLED
    assert path.read_text() == content
    atomic_files.remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == ["config.yaml"]


def test_what_a_running_process_writes_is_no_leftover(tmp_path: Path) -> None:
    other, dead = tmp_path / f".tmp-{os.getppid()}-a", tmp_path / ".tmp-999999999-b"
    other.touch()
    dead.mkdir()
    (tmp_path / ".tmp-mine").touch()
    atomic_files.remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted([other.name, ".tmp-mine"])
    atomic_files.remove_leftovers(tmp_path, all_processes=True)
    assert os.listdir(tmp_path) == [".tmp-mine"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_file_has_the_permissions_that_the_umask_gives(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        atomic_files.write_atomically(tmp_path / "file", b"content")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode


def test_a_full_disk_leaves_the_old_file_and_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "big"
    atomic_files.write_atomically(path, b"old")

    def write_too_much() -> None:
        with pytest.raises(StorageError, match=r"Cannot write .*big.\n.*3\.0 MB needed.*\n.*ulimit"):
            atomic_files.write_atomically(path, bytes(3_000_000))

    assert in_child(write_too_much, largest_file=100_000) == 0
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["big"]


def test_a_disk_that_is_full_for_an_export_is_explained(tmp_path: Path) -> None:
    encoder, spec = Encoder("test_efficientnet", (16, 8)), InputSpec.for_arch("test_efficientnet", 32)

    def write_too_much() -> None:
        with pytest.raises(StorageError, match=r"Cannot write .*export.\n.*free on the disk"):
            export_timm(tmp_path / "export", encoder, spec, {})

    assert in_child(write_too_much, largest_file=100_000) == 0
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "The disk is full: 4 bytes needed"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "Permission denied"),
        (errno.EPERM, "Permission denied"),
        (errno.EIO, os.strerror(errno.EIO)),
    ],
)
def test_every_refusal_of_the_disk_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, words: str
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match=words) as caught:
        atomic_files.write_atomically(tmp_path / "file", "text")
    assert caught.value.exit_code == 5
    assert caught.value.remedy
    assert os.listdir(tmp_path) == []


def test_a_folder_under_a_file_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="Cannot write"):
        atomic_files.write_atomically(tmp_path / "file" / "inner" / "x", "text")


def test_a_write_is_synced_before_the_rename_and_the_folder_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(descriptor: int) -> None:
        events.append("fsync " + Path(os.readlink(f"/proc/self/fd/{descriptor}")).name.split("-")[0])
        fsync(descriptor)

    def noted_replace(path: Path, target: Path) -> Any:
        events.append("rename")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    (tmp_path / "run").mkdir()
    atomic_files.write_atomically(tmp_path / "run" / "file", "text")
    assert events == ["fsync .tmp", "rename", "fsync run"]


def test_space_is_asked_for_before_writing(tmp_path: Path) -> None:
    atomic_files.require_free_space(tmp_path / "not" / "there" / "yet", 1)
    with pytest.raises(StorageError, match=r"disk is full: 1000000\.0 TB needed, .* free"):
        atomic_files.require_free_space(tmp_path, 10**18)


@pytest.mark.parametrize(("size", "text"), [(0, "0 bytes"), (1000, "1.0 kB"), (12_345_678, "12.3 MB")])
def test_sizes_are_for_people(size: int, text: str) -> None:
    assert atomic_files.format_bytes(size) == text


@settings(max_examples=50, deadline=None)
@given(SOME_JSON)
def test_json_is_valid_whatever_is_in_it(value: Any) -> None:
    def not_json(constant: str) -> None:
        raise AssertionError(constant)

    back = json.loads(formatting.json_text({"x": value}), parse_constant=not_json)["x"]
    if not isinstance(value, float) or math.isfinite(value):
        assert back == formatting.json_safe(value)
    else:
        assert back is None


def test_a_file_has_the_checksum_of_its_content(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc" * 100_000)
    assert atomic_files.sha256_file(tmp_path / "file") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_the_files_of_a_run_need_no_torch() -> None:
    code = "import sys, lwcl.runs.folder, lwcl.system.atomic_files; sys.exit('torch' in sys.modules)"
    folder = Path(atomic_files.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=folder, check=False).returncode == 0
