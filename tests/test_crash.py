"""A run that dies at any moment and is started again ends as if nothing had happened, bit for bit."""

import collections
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import safetensors.torch
import torch
from crash import KILLED, ended
from runs import (
    METHODS,
    SAVE_EVERY,
    STEPS,
    at_step,
    begun,
    cache_at,
    child,
    copied,
    left_by,
    made_images,
    pretrain,
    ran,
)

from lwcl.checkpoints.encoder_file import save_encoder
from lwcl.methods.method import Batch, Loss
from lwcl.methods.moco import MoCo
from lwcl.models.encoder import Encoder
from lwcl.models.loaded import InputSpec
from lwcl.models.net import Net
from lwcl.system.atomic_files import CRASH_POINTS
from lwcl.system.signals import REPEATED_SECONDS

#: Points that a training from a folder does not pass, and why.
UNREACHED = {
    "checkpoint.replace",  # a run that goes on never saves a step that is there: it begins behind the newest
    "index.write",  # only archives have an index
}
#: A run that keeps its teacher's answers, and the points that only such a run passes.
TAUGHT, ANSWERS = "seed", ("chunk.written", "chunk.noted")


def passing(point: str) -> str:
    """The method whose run passes a point."""
    return TAUGHT if point in ANSWERS else "light-moco"


@dataclass
class Whole:
    """The unbroken runs, by method: their words but for --out, what they left, seconds, and crash points passed."""

    data: Path
    teacher: Path
    left: dict[str, dict[str, bytes]]
    seconds: float
    passed: collections.Counter[str]

    def words(self, out: Path, method: str = "light-moco") -> list[str]:
        """The command of an unbroken run, into another folder."""
        own = ["--max-bad", "0.1", "--cache", "disk", *METHODS.get(method, ["--method", method])]
        if method != TAUGHT:
            return pretrain(self.data, out, *own)
        taught = pretrain(self.data, out, *own, "--teacher", str(self.teacher), "--teacher-cache", "views:2")
        return ["distill", *taught[1:]]

    def must_end_so(self, out: Path, cache: Path, method: str = "light-moco") -> None:
        """Asserts that the same command, given again, ends the run in `out` as the unbroken run ended.

        Where only the last words were missing, the run is refused as finished.
        """
        expected = 2 if (out / "report.json").exists() else 0
        assert child(self.words(out, method), cache) == expected
        assert left_by(out) == self.left[method]
        assert (out / "report.json").exists()
        assert not [path for path in out.rglob(".tmp-*") if path.is_dir() or path.stat().st_size]


def counted_in(passed: collections.Counter[str], points: list[str]) -> Callable[[str], None]:
    """A fault that counts that it was passed, if it is one of the points."""
    return lambda name: passed.update([name] if name in points else [])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    data = made_images(folder / "images")
    (data / "007.png").write_bytes(b"no image")  # its stand-in must be the same every time
    teacher = folder / "teacher.safetensors"
    save_encoder(teacher, Encoder("test_resnet", (8,)), InputSpec.for_arch("test_resnet", 32), {"origin": "made"})
    found = Whole(data, teacher, {}, 0.0, collections.Counter())
    with pytest.MonkeyPatch.context() as patch, cache_at(folder / "cache"):
        for method in (*METHODS, TAUGHT):
            points = [point for point in CRASH_POINTS if passing(point) == method]
            for module in [
                m for name, m in sys.modules.items() if name.startswith("lwcl") and hasattr(m, "crash_point")
            ]:
                patch.setattr(module, "crash_point", counted_in(found.passed, points))
            begin = time.monotonic()
            assert ran(found.words(folder / method, method)) == 0
            found.seconds = time.monotonic() - begin
            found.left[method] = left_by(folder / method)
            patch.undo()
            patch.setenv("LWCL_CACHE", str(folder / "cache"))
    return found


def test_a_run_passes_every_fault_point_but_those_that_are_listed(whole: Whole) -> None:
    assert set(CRASH_POINTS) - set(whole.passed) == UNREACHED


@pytest.mark.parametrize("point", [point for point in CRASH_POINTS if point not in UNREACHED])
def test_killed_at_a_fault_point_a_run_ends_as_the_unbroken_one(whole: Whole, point: str, tmp_path: Path) -> None:
    middle, method = whole.passed[point] // 2 + 1, passing(point)
    assert child(whole.words(tmp_path / "run", method), tmp_path / "cache", f"{point}@{middle}") == KILLED
    whole.must_end_so(tmp_path / "run", tmp_path / "cache", method)


@pytest.mark.slow
@pytest.mark.parametrize("point", [point for point in CRASH_POINTS if point not in UNREACHED])
def test_killed_every_time_that_it_passes_a_fault_point(whole: Whole, point: str, tmp_path: Path) -> None:
    for count in range(1, whole.passed[point] + 1):
        out, cache = tmp_path / f"run-{count}", tmp_path / f"cache-{count}"
        assert child(whole.words(out, passing(point)), cache, f"{point}@{count}") == KILLED
        whole.must_end_so(out, cache, passing(point))


@pytest.mark.slow
def test_killed_again_and_again_a_run_still_ends_the_same(whole: Whole, tmp_path: Path) -> None:
    kills = 0
    while (code := child(whole.words(tmp_path / "run"), tmp_path / "cache", "checkpoint.rename.after@1")) == KILLED:
        kills += 1
    assert (code, kills) == (0, STEPS // SAVE_EVERY)
    assert left_by(tmp_path / "run") == whole.left["light-moco"]


def killed_somewhere(whole: Whole, method: str, seed: int, number: int, tmp_path: Path) -> int:
    """The exit code of a run that is sent a signal at a random moment; then it must end as the unbroken one."""
    process = begun(whole.words(tmp_path / "run", method), tmp_path / "cache")
    time.sleep(random.Random(seed).uniform(0, whole.seconds))  # noqa: S311  # no secret
    os.kill(process, number)
    code = ended(process)
    whole.must_end_so(tmp_path / "run", tmp_path / "cache", method)
    return code


@pytest.mark.parametrize("method", METHODS)
def test_killed_at_a_random_moment(whole: Whole, method: str, tmp_path: Path) -> None:
    assert killed_somewhere(whole, method, time.time_ns(), signal.SIGKILL, tmp_path) in (0, KILLED)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("method", METHODS)
def test_killed_at_many_random_moments(whole: Whole, method: str, seed: int, tmp_path: Path) -> None:
    assert killed_somewhere(whole, method, seed, signal.SIGKILL, tmp_path) in (0, KILLED)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(("number", "codes"), [(signal.SIGTERM, (0, 143, -15)), (signal.SIGINT, (0, 130))])
def test_asked_to_stop_at_many_random_moments(
    whole: Whole, number: int, codes: tuple[int, ...], seed: int, tmp_path: Path
) -> None:
    assert killed_somewhere(whole, "light-moco", seed, number, tmp_path) in codes


def signals(*numbers: int) -> Callable[[], None]:
    """Sends signals to this process."""

    def send() -> None:
        for number in numbers:
            signal.raise_signal(number)

    return send


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGXCPU])
def test_asked_to_stop_a_run_finishes_its_step_saves_and_says_how_to_go_on(
    whole: Whole, number: int, tmp_path: Path
) -> None:
    out, words = tmp_path / "run", whole.words(tmp_path / "run")
    assert child(words, tmp_path / "cache", before=at_step(5, signals(number))) == 128 + number
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["step-000003", "step-000005"]
    log = (out / "log.txt").read_text()
    assert "step 5" in log
    assert f"lwcl {' '.join(words)}" in log
    assert not (out / "encoder.safetensors").exists()
    whole.must_end_so(out, tmp_path / "cache")


def test_a_hangup_that_was_ignored_at_the_start_stays_ignored(whole: Whole, tmp_path: Path) -> None:
    hang_up = at_step(5, signals(signal.SIGHUP))

    def as_nohup_does() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        hang_up()

    assert child(whole.words(tmp_path / "run"), tmp_path / "cache", before=as_nohup_does) == 0


def test_a_run_in_another_thread_than_the_main_one_heeds_no_signals_and_ends(whole: Whole, tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(ran, whole.words(tmp_path / "run")).result() == 0
    assert left_by(tmp_path / "run") == whole.left["light-moco"]


def test_two_interrupts_end_a_run_at_once(whole: Whole, tmp_path: Path) -> None:
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        time.sleep(1.2 * REPEATED_SECONDS)  # sooner, it is a launcher that passes on the same Ctrl-C
        signal.raise_signal(signal.SIGINT)

    assert child(whole.words(tmp_path / "run"), tmp_path / "cache", before=at_step(5, twice)) == 130
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000003"], "nothing was saved"
    whole.must_end_so(tmp_path / "run", tmp_path / "cache")


@pytest.fixture(scope="module")
def half(whole: Whole, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run that was killed after step 10, with checkpoints of steps 6 and 9; and its cache."""
    folder = tmp_path_factory.mktemp("half")
    assert child(whole.words(folder / "run"), folder / "cache", "metrics.append@11") == KILLED
    return folder / "run", folder / "cache"


def flip_a_bit(file: Path, place: int) -> None:
    """Turns over one bit of a file; `place` counts bits from the start, wrapping around."""
    data = bytearray(file.read_bytes())
    place %= 8 * len(data)
    data[place // 8] ^= 1 << place % 8
    file.write_bytes(data)


def must_survive_a_flip(whole: Whole, half: tuple[Path, Path], out: Path, name: str, place: int) -> None:
    """Asserts that a run with a flipped bit in its newest checkpoint goes on from the one before, to the same end."""
    copied(half[0], out)
    flip_a_bit(out / "checkpoints" / "step-000009" / name, place)
    whole.must_end_so(out, half[1])
    log = (out / "log.txt").read_text()
    assert "step-000009 is damaged" in log
    assert "Resuming after step 6 of 12." in log
    assert (out / "checkpoints" / "corrupt-step-000009" / name).exists()


FILES = ("net.safetensors", "optimizer.safetensors", "state.json", "manifest.json")


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_in_a_checkpoint_is_found_and_the_one_before_is_taken(
    whole: Whole, half: tuple[Path, Path], name: str, tmp_path: Path
) -> None:
    must_survive_a_flip(whole, half, tmp_path / "run", name, time.time_ns() // 1000)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(50))
def test_many_flipped_bits_are_all_found(whole: Whole, half: tuple[Path, Path], seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)  # noqa: S311  # no secret
    must_survive_a_flip(whole, half, tmp_path / "run", FILES[seed % len(FILES)], chance.getrandbits(40))


def poisoned(monkeypatch: pytest.MonkeyPatch, step: int, what: str) -> None:
    """Makes the loss of one step not finite, or only its gradient."""
    loss, calls = MoCo.loss, iter(range(1, 1000))

    def wrapped(self: MoCo, net: Net, batch: Batch, epoch: float) -> Loss:
        found = loss(self, net, batch, epoch)
        if next(calls) != step:
            return found
        rest = found.total - found.total.detach()
        return found._replace(total=found.total * torch.nan if what == "loss" else found.total + rest.abs().sqrt())

    monkeypatch.setattr(MoCo, "loss", wrapped)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_step_that_is_not_finite_changes_no_weights_and_is_kept_for_study(
    whole: Whole, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, cache = tmp_path / "run", Path(os.environ["LWCL_CACHE"])
    assert ran([*whole.words(tmp_path / "before"), "--fast-dev-run", "7"]) == 0
    before = safetensors.torch.load_file(tmp_path / "before" / "checkpoints" / "step-000007" / "net.safetensors")
    poisoned(monkeypatch, 8, what)
    assert ran(whole.words(out)) == 3
    said = capsys.readouterr().err.splitlines()[-3:]
    assert said[0].startswith(f"The {what} is nan at step 8")
    kept = safetensors.torch.load_file(out / "nonfinite" / "step-000008" / "net.safetensors")
    moved = [name for name, tensor in before.items() if "running" not in name and not tensor.equal(kept[name])]
    assert [name for name in moved if "num_batches" not in name] == [], "batch norm alone has seen the batch"
    state = json.loads((out / "nonfinite" / "step-000008" / "state.json").read_text())
    assert state["metadata"]["what"].splitlines() == said
    assert len(state["metadata"]["images"]) == 8
    assert [record["step"] for record in state["metadata"]["last"]] == list(range(1, 8))
    assert [path.name for path in sorted((out / "checkpoints").iterdir())] == ["step-000003", "step-000006"]
    monkeypatch.undo()
    whole.must_end_so(out, cache)


def test_a_second_process_is_refused_the_folder_of_a_running_one(
    whole: Whole, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, cache = whole.words(tmp_path / "run"), tmp_path / "cache"
    stopped = begun(words, cache, before=at_step(2, signals(signal.SIGSTOP)))
    assert os.WIFSTOPPED(os.waitpid(stopped, os.WUNTRACED)[1])
    try:
        assert ran(words) == 2
        assert f"in use by process {stopped} on" in capsys.readouterr().err
        assert ran([*words, "--overwrite"]) == 2, "nor may it be overwritten"
    finally:
        os.kill(stopped, signal.SIGCONT)
    assert ended(stopped) == 0
    assert left_by(tmp_path / "run") == whole.left["light-moco"]
