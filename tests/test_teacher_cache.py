"""A teacher's answers are kept whole: after any kill, with damaged chunks among them, and never those of another."""

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from crash import KILLED, ended, in_child, started
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from lwcl.errors import StorageError, TrainingDivergedError, UsageError
from lwcl.system import atomic_files, chunk_file
from lwcl.system.chunk_file import CONTENT, NOTES
from lwcl.training import teacher_cache
from lwcl.training.teacher_cache import TEACHER_CACHE_MANIFEST, TeacherCache, teacher_cache_bytes

SHAPE, BATCH = (2, 10, 3), 3
CHUNKS = 6  # of 4, 4 and 2 rows, twice
FINGERPRINT = {"teacher": "abc", "data": "def", "size": 224, "views": {"scale": [0.2, 1.0]}}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_cache, "TEACHER_CHUNK_ROWS", 4)


def said(crop: int, index: Tensor, width: int = SHAPE[2]) -> Tensor:
    """What the teacher says; of its batch, too, as kernels may round differently in another."""
    return (100 * crop + index[:, None] + torch.arange(width) / 8 + len(index) / 1000).float()


class Teacher:
    """Answers, and remembers what it was asked."""

    def __init__(self, answer: Callable[[int, Tensor], Tensor] = said) -> None:
        self.answer = answer
        self.asked: list[tuple[int, list[int]]] = []

    def __call__(self, crop: int, index: Tensor) -> Tensor:
        self.asked.append((crop, index.tolist()))
        return self.answer(crop, index)


def ignore(done: int, count: int) -> None:
    """Hears nothing."""


def opened(dtype: torch.dtype = torch.float32, folder: Path | None = None) -> TeacherCache:
    return TeacherCache.open(FINGERPRINT, SHAPE, dtype, folder)


def filled(folder: Path | None = None) -> TeacherCache:
    cache = opened(folder=folder)
    cache.fill(said, BATCH, ignore)
    return cache


def content(cache: TeacherCache) -> bytes:
    return (cache.folder / CONTENT).read_bytes()


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)


def test_answers_come_back_by_crop_and_image() -> None:
    cache, told, teacher = opened(), list[tuple[int, int]](), Teacher()
    assert cache.done == 0
    cache.fill(teacher, BATCH, lambda *done: told.append(done))
    assert cache.done == 20
    assert told == [(n, 20) for n in (3, 4, 7, 8, 10, 13, 14, 17, 18, 20)]
    assert teacher.asked[:5] == [(0, part) for part in ([0, 1, 2], [3], [4, 5, 6], [7], [8, 9])]
    index = torch.tensor([9, 0, 0, 5])
    assert cache.rows(1, index).int().tolist() == [[109] * 3, [100] * 3, [100] * 3, [105] * 3]
    assert torch.equal(cache.rows(1, index), cache.whole(1)[index])
    assert cache.whole(0).shape == (10, 3)
    assert len(content(cache)) == teacher_cache_bytes(*SHAPE, torch.float32) == 240


def test_answers_that_are_there_are_not_asked_for_again() -> None:
    first = filled()
    again, teacher = opened(), Teacher()
    assert again.done == 20
    again.fill(teacher, BATCH, ignore)
    assert teacher.asked == []
    assert torch.equal(again.whole(1), first.whole(1))


def test_opening_makes_nothing(own_cache: Path) -> None:
    assert opened().done == 0
    assert os.listdir(own_cache) == []


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 13), st.integers(1, 5)),
    st.integers(1, 9),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    st.integers(1, 7),
)
def test_any_shape_in_any_chunks_comes_back_as_its_type_holds_it(
    tmp_path_factory: pytest.TempPathFactory, shape: tuple[int, int, int], batch: int, dtype: torch.dtype, chunk: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teacher_cache, "TEACHER_CHUNK_ROWS", chunk)
        cache = TeacherCache.open({}, shape, dtype, tmp_path_factory.mktemp("kept") / "deep" / "folder")
        cache.fill(lambda crop, index: said(crop, index, shape[2]) - len(index) / 1000, batch, ignore)
        for crop in range(shape[0]):
            every = torch.arange(shape[1])
            expected = said(crop, every, shape[2]) - len(every) / 1000
            assert torch.allclose(cache.whole(crop), expected, rtol=2 * torch.finfo(dtype).eps)
            assert torch.equal(cache.rows(crop, every.flip(0)), cache.whole(crop).flip(0))
        assert cache.done == shape[0] * shape[1]


POINTS = {"chunk.written": CHUNKS, "chunk.noted": CHUNKS, "file.written": 2, "file.renamed": 2}


@pytest.mark.parametrize("point", [f"{point}@{k + 1}" for point, count in POINTS.items() for k in range(count)])
def test_killed_anywhere_the_filling_goes_on_where_it_was_to_the_same_bytes(point: str, tmp_path: Path) -> None:
    assert in_child(lambda: filled(tmp_path / "kept"), fault=point) == KILLED
    cache, teacher = opened(folder=tmp_path / "kept"), Teacher()
    name, _, count = point.partition("@")
    chunks_done = int(count) - (name == "chunk.written") if name.startswith("chunk") else 0
    assert cache.done == [0, 4, 8, 10, 14, 18, 20][chunks_done]
    cache.fill(teacher, BATCH, ignore)
    assert sum(len(index) for _, index in teacher.asked) == 20 - [0, 4, 8, 10, 14, 18, 20][chunks_done]
    assert content(cache) == content(filled())
    assert sorted(os.listdir(cache.folder)) == [".lock", NOTES, TEACHER_CACHE_MANIFEST, CONTENT]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_killed_again_and_again_at_random_moments_it_ends_with_the_same_bytes(seed: int, tmp_path: Path) -> None:
    def slow(crop: int, index: Tensor) -> Tensor:
        time.sleep(0.005)
        return said(crop, index)

    chance, folder, longest, code = random.Random(seed), tmp_path / "kept", 0.0, KILLED  # noqa: S311  # no secret
    while code == KILLED:
        longest += 0.02
        child = started(lambda: opened(folder=folder).fill(slow, BATCH, ignore))
        time.sleep(chance.uniform(0, longest))
        os.kill(child, signal.SIGKILL)
        code = ended(child)
    assert code == 0
    assert opened(folder=folder).done == 20
    assert content(opened(folder=folder)) == content(filled())


def test_the_fault_points_of_a_filling_are_those_that_are_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    passed: list[str] = []
    for module in (chunk_file, atomic_files):
        monkeypatch.setattr(module, "crash_point", passed.append)
    filled()
    assert {point: passed.count(point) for point in passed} == POINTS


def test_rows_are_on_disk_before_their_note(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync = os.fsync

    def noted_fsync(descriptor: int) -> None:
        events.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    filled()
    assert events[-2 * CHUNKS :] == [CONTENT, NOTES] * CHUNKS


def test_a_chunk_or_a_note_that_was_half_written_is_not_there() -> None:
    cache = filled()
    whole, notes = content(cache), (cache.folder / NOTES).read_bytes().splitlines(keepends=True)
    (cache.folder / NOTES).write_bytes(b"".join(notes[:3]) + notes[3][:40])
    (cache.folder / CONTENT).write_bytes(whole[:130] + bytes(110))
    assert opened().done == 10
    assert content(filled()) == whole


def test_a_flipped_bit_costs_its_chunk_alone() -> None:
    whole = content(filled())
    for place in range(0, len(whole), 23):
        cache, teacher = opened(), Teacher()
        flip(cache.folder / CONTENT, place)
        again = opened()
        assert again.done in (16, 18)
        again.fill(teacher, BATCH, ignore)
        assert sum(len(index) for _, index in teacher.asked) == 20 - (16 if place % 120 < 96 else 18)
        assert content(again) == whole


def test_a_flipped_bit_in_the_notes_or_the_manifest_never_passes(tmp_path: Path) -> None:
    whole = content(filled(tmp_path / "kept"))
    for name in (NOTES, TEACHER_CACHE_MANIFEST):
        sound = (tmp_path / "kept" / name).read_bytes()
        for place in range(0, len(sound), 13):
            flip(tmp_path / "kept" / name, place)
            try:
                cache = filled(tmp_path / "kept")
            except StorageError:
                assert name == TEACHER_CACHE_MANIFEST
            else:
                assert content(cache) == whole
                assert cache.done == 20
            (tmp_path / "kept" / name).write_bytes(sound)


@pytest.mark.parametrize("length", [0, 1, 47, 48, 100, 239])
def test_a_cut_file_keeps_the_chunks_before_the_cut(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = filled()
    whole = content(cache)
    os.truncate(cache.folder / CONTENT, length)
    for limit in (teacher_cache.MAX_EAGER_CHECK_BYTES, 0):
        monkeypatch.setattr(teacher_cache, "MAX_EAGER_CHECK_BYTES", limit)
        ends = zip((4, 8, 10, 14, 18, 20), (48, 96, 120, 168, 216, 240), strict=True)
        assert opened().done == max([0, *(rows for rows, end in ends if end <= length)])
    assert content(filled()) == whole


def test_in_a_large_cache_damage_is_found_when_it_is_read_and_mended_by_the_next_filling(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(teacher_cache, "MAX_EAGER_CHECK_BYTES", 0)
    whole = content(filled())
    flip(opened().folder / CONTENT, 50)
    cache = opened()
    assert cache.done == 20
    assert cache.rows(0, torch.tensor([3, 8])).shape == (2, 3)
    for _ in range(2):
        with pytest.raises(StorageError, match="damaged"):
            cache.rows(0, torch.tensor([3, 4]))
    assert opened().done == 16
    assert content(filled()) == whole


def test_another_fingerprint_has_another_folder() -> None:
    mine = filled()
    other = TeacherCache.open({**FINGERPRINT, "size": 160}, SHAPE, torch.float32)
    shapes = TeacherCache.open(FINGERPRINT, (2, 10, 4), torch.float32)
    folders = {cache.folder for cache in (mine, other, shapes, opened(torch.float16))}
    assert len(folders) == 4
    assert other.done == 0


def test_a_folder_that_holds_other_answers_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    cache = filled(tmp_path)
    whole = content(cache)
    with pytest.raises(StorageError, match=r"(?s)other.*size: cached 224, expected 160"):
        TeacherCache.open({**FINGERPRINT, "size": 160, "new": 1}, SHAPE, torch.float32, tmp_path)
    with pytest.raises(StorageError, match="shape"):
        TeacherCache.open(FINGERPRINT, (1, 20, 3), torch.float32, tmp_path)
    with pytest.raises(StorageError, match="dtype") as caught:
        TeacherCache.open(FINGERPRINT, SHAPE, folder=tmp_path)
    assert caught.value.exit_code == 5
    assert "Remove" in caught.value.remedy
    assert content(cache) == whole


def test_a_manifest_tells_what_the_answers_are_of() -> None:
    manifest = json.loads((filled().folder / TEACHER_CACHE_MANIFEST).read_text())
    assert manifest["fingerprint"] == FINGERPRINT
    assert (manifest["shape"], manifest["dtype"]) == ([2, 10, 3], "float32")


@pytest.mark.parametrize("manifest", ["", "[]", "{}", '{"fingerprint": 3}', "null", '{"fingerprint": {}}'])
def test_a_damaged_manifest_is_an_error_in_words(manifest: str) -> None:
    (filled().folder / TEACHER_CACHE_MANIFEST).write_text(manifest)
    with pytest.raises(StorageError, match=r"manifest|other"):
        opened()


def test_rows_without_a_manifest_are_not_trusted() -> None:
    cache = filled()
    (cache.folder / TEACHER_CACHE_MANIFEST).unlink()
    assert opened().done == 0
    teacher = Teacher()
    cache.fill(teacher, BATCH, ignore)
    assert sum(len(index) for _, index in teacher.asked) == 20


def test_a_disk_without_room_is_told_before_anything_is_asked(monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    monkeypatch.setattr(atomic_files, "free_space", lambda path: 239)
    teacher = Teacher()
    with pytest.raises(StorageError, match="The disk is full: 240 bytes needed, 239 bytes free on the disk"):
        opened().fill(teacher, BATCH, ignore)
    assert teacher.asked == []
    monkeypatch.setattr(atomic_files, "free_space", lambda path: 240)
    filled()
    monkeypatch.setattr(atomic_files, "free_space", lambda path: 0)
    assert filled().done == 20, "nothing is needed when all is there"


def test_a_disk_that_refuses_is_explained(tmp_path: Path) -> None:
    def fill_too_much() -> None:
        with pytest.raises(StorageError, match=r"Cannot write .*\n.*larger.*\n.*ulimit"):
            filled(tmp_path / "kept")

    assert in_child(fill_too_much, largest_file=239) == 0


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_answers_that_are_not_finite_stop_the_filling_and_the_rest_stays(value: float) -> None:
    def sick(crop: int, index: Tensor) -> Tensor:
        found = said(crop, index)
        found[index == 7, 1] = value
        return found

    with pytest.raises(TrainingDivergedError, match="image 7"):
        opened().fill(sick, BATCH, ignore)
    assert opened().done == 4
    assert content(filled()) == content(filled(opened().folder.parent / "other"))


def test_what_float16_cannot_hold_is_refused_and_bfloat16_holds_it() -> None:
    def large(crop: int, index: Tensor) -> Tensor:
        return 1000 * said(crop, index)

    with pytest.raises(UsageError, match="float16"):
        opened(torch.float16).fill(large, BATCH, ignore)
    cache = opened(torch.bfloat16)
    cache.fill(large, BATCH, ignore)
    assert cache.whole(1).max() > 65504


def test_an_error_of_the_teacher_is_no_error_of_the_disk() -> None:
    def broken(crop: int, index: Tensor) -> Tensor:
        raise OSError(28, "not this disk")

    with pytest.raises(OSError, match="not this disk"):
        opened().fill(broken, BATCH, ignore)


def test_a_bfloat16_copy_hardly_turns_an_answer() -> None:
    answers = torch.randn(200, 512, generator=torch.Generator().manual_seed(0)).relu()
    cache = TeacherCache.open({}, (1, 200, 512))
    cache.fill(lambda crop, index: answers[index], 64, ignore)
    kept, exact = (torch.nn.functional.normalize(x.double(), dim=1) for x in (cache.whole(0), answers))
    assert (kept @ kept.T - exact @ exact.T).abs().max() < 0.001


def test_a_second_process_waits_and_takes_what_the_first_has_made(tmp_path: Path) -> None:
    asked, go = tmp_path / "asked", tmp_path / "go"

    def slow(crop: int, index: Tensor) -> Tensor:
        with open(asked, "a") as file:
            file.write("x")
        while not go.exists():
            time.sleep(0.01)
        return said(crop, index)

    def fill() -> None:
        opened(folder=tmp_path / "kept").fill(slow, 4, ignore)

    children = [started(fill), started(fill)]
    while not asked.exists():
        time.sleep(0.01)
    assert asked.read_text() == "x"
    go.touch()
    assert [ended(child) for child in children] == [0, 0]
    assert asked.read_text() == "x" * CHUNKS, "each chunk was asked for once"
