"""Processes that are killed, asked to stop, or started twice: the run must end as the unbroken one, bit for bit."""

import contextlib
import functools
import json
import os
import random
import signal
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crash import KILLED, ended
from runs import METHODS, STEPS, begun, child, left_by, made_images, pretrain
from test_teachers import METHODS as TAUGHT
from test_teachers import SMALL, as_words, made_teacher
from trials import trial

from lwcl.commands import train
from lwcl.methods.method import methods
from lwcl.reporting import plots

#: Ways to train, by name.
WAYS = {
    "light": METHODS["light-moco"],
    "moco": METHODS["moco"],
    "workers": ["--workers", "2", "--cache", "off"],
    "jpeg": ["--workers", "2", "--cache", "jpeg"],
    "disk": ["--cache", "disk"],
    "bf16": ["--precision", "bf16"],
}
MOST_SECONDS_TO_SAVE = 5


@dataclass
class Unbroken:
    """A run that nothing disturbed: its words but for --out, what it left, and how long it took."""

    words: list[str]
    left: dict[str, bytes]
    seconds: float

    def again(self, out: Path) -> list[str]:
        """The same command, into another folder."""
        return [*self.words, "--out", str(out)]

    def must_end_so(self, out: Path, cache: Path) -> None:
        """Asserts that the command, given again, ends the run in `out` as this one ended (2: as finished)."""
        finished = (out / "report.json").exists()
        code = go(self.again(out), cache)
        assert code == (2 if finished else 0), f"resumed: exit code {code}"
        left = left_by(out)
        assert left == self.left, f"other bytes in {[name for name in self.left if left.get(name) != self.left[name]]}"
        assert not [path for path in out.rglob(".tmp-*") if path.is_dir() or path.stat().st_size], "leftovers"


def without_pictures() -> None:
    """Half of a small run is drawing: not here."""
    plots.curves_svg = lambda *given, **more: "<svg/>"
    train.run_pictures = lambda training: iter(())


def go(words: list[str], cache: Path, fault: str = "") -> int:
    """The exit code of a command in a child."""
    return child(words, cache, fault, without_pictures)


def in_own_group() -> None:
    """Before a run whose processes are counted."""
    without_pictures()
    os.setpgid(0, 0)


def unbroken(folder: Path, name: str, words: list[str]) -> Unbroken:
    """A run into `folder / name`, left alone."""
    start = time.monotonic()
    assert go([*words, "--out", str(folder / name)], folder / f"cache-{name}") == 0
    return Unbroken(words, left_by(folder / name), time.monotonic() - start)


def way(folder: Path, *names: str) -> list[Unbroken]:
    """The unbroken runs of ways to train."""
    data = made_images(folder / "images")
    (data / "007.png").write_bytes(b"no image")  # its stand-in must be the same every time
    words = {name: pretrain(data, Path(), "--max-bad", "0.1", *WAYS[name]) for name in names}
    return [unbroken(folder, name, words[name]) for name in names]


def no_process_stays(group: int, seconds: float = 15) -> None:
    """Asserts that all processes of a group end by themselves."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.killpg(group, signal.SIGKILL)
    raise AssertionError("a worker outlived its run")


def cpu_seconds(process: int) -> float:
    """What a process has computed so far, which depends less on the load of the machine than time does."""
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(") ", 1)[1].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")  # proc(5): own and children's, user and system


def signalled(run: Unbroken, folder: Path, seed: int, *numbers: int) -> tuple[int, float]:
    """The exit code of a run that is sent signals from a random moment on, and its CPU seconds until its end."""
    draw = random.Random(seed)  # noqa: S311  # no secret
    process = begun(run.again(folder / "run"), folder / "cache", before=in_own_group)
    time.sleep(draw.uniform(0.02, run.seconds))
    before = cpu_seconds(process)
    for number in numbers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)
        time.sleep(draw.uniform(0, 0.1) if len(numbers) > 1 else 0)
    _, status, used = os.wait4(process, 0)
    code, seconds = os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime - before
    no_process_stays(process)
    run.must_end_so(folder / "run", folder / "cache")
    return code, seconds


def killed(case: int, folder: Path, runs: list[Unbroken]) -> None:
    """Kill a run, then run it to its end."""
    code, _ = signalled(runs[case % len(runs)], folder, case, signal.SIGKILL)
    assert code in (0, KILLED)


for number, promise, names in (
    ("T1", "killed (SIGKILL) at a random moment and resumed: same bits, no process left", ("light", "moco")),
    ("T1-workers", "the same with two worker processes that decode", ("workers",)),
    ("T1-jpeg", "the same with two workers and the JPEG cache", ("jpeg",)),
):
    trial(number, promise, 50, functools.partial(lambda names, folder: way(folder, *names), names))(killed)


@trial("T20", "SIGHUP, SIGTERM, SIGINT at a random moment: saved in 5 CPU seconds, 128 + N, resumed: same bits", 60,
       lambda folder: way(folder, "light", "workers"))  # fmt: skip
def stopped(case: int, folder: Path, runs: list[Unbroken]) -> None:
    """Ask a run to stop."""
    number = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)[case % 3]
    code, seconds = signalled(runs[case // 3 % 2], folder, case, number)
    assert code in (0, 128 + number, -number), f"exit code {code}"  # -N: before lwcl began
    assert seconds < MOST_SECONDS_TO_SAVE or code == 0, f"{seconds:.1f} s"


@trial("T21", "two SIGINTs: at once, nothing lost, resumed to the same bits", 20, lambda folder: way(folder, "light"))
def interrupted_twice(case: int, folder: Path, runs: list[Unbroken]) -> None:
    """Press Ctrl-C twice."""
    code, _ = signalled(runs[0], folder, case, signal.SIGINT, signal.SIGINT)
    assert code in (0, 130, -signal.SIGINT), f"exit code {code}"


def with_own_settings(words: list[str], fields: Collection[str]) -> list[str]:
    """The words of a run with small sizes of what its method has, and of nothing else."""
    sizes = {"--hidden": "16", "--dim": "8", "--queue-size": "20", "--anchors": "20", "--prototypes": "8"}
    for flag, size in sizes.items():
        if flag in words:
            place = words.index(flag)
            words = words[:place] + words[place + 2 :]
        if flag.removeprefix("--").replace("-", "_") in fields:
            words = [*words, flag, size]
    return words


def every_method(folder: Path) -> dict[str, Unbroken]:
    """An unbroken run of every method, those with a teacher too."""
    data, teacher = made_images(folder / "images", classes=("a", "b")), made_teacher(folder / "teacher.safetensors")
    words = {}
    for name in sorted(set(methods()) - set(TAUGHT) - {"linear"}):
        words[name] = with_own_settings(pretrain(data, Path(), "--method", name), methods()[name].__dataclass_fields__)
    for name, (command, settings) in TAUGHT.items():
        small = as_words(SMALL | settings | {"data": data, "teacher": teacher, "method": name})
        words[name] = [command, *small, "--quiet"]
    return {name: unbroken(folder, name, one) for name, one in words.items()}


STOPS = (1, STEPS // 2, STEPS // 2 + 1, STEPS - 1)


@trial("T2", "every method, killed after step 1, in mid-run, at an epoch's end, before the last step: same bits",
       4 * 13, every_method)  # fmt: skip
def killed_at_a_step(case: int, folder: Path, runs: dict[str, Unbroken]) -> None:
    """Kill a run where it writes the metrics of a step."""
    name, stop = list(runs)[case // 4], STOPS[case % 4]
    assert go(runs[name].again(folder / "run"), folder / "cache", f"metrics.append@{stop}") == KILLED, name
    runs[name].must_end_so(folder / "run", folder / "cache")


@trial("T31", "the same command twice, every method: same bits", 13, every_method)
def run_again(case: int, folder: Path, runs: dict[str, Unbroken]) -> None:
    """Do it all once more."""
    name = list(runs)[case]
    assert unbroken(folder, "run", runs[name].words).left == runs[name].left, name


@trial("T34", "two processes start one run at the same moment: one trains, the other is refused (2)", 20,
       lambda folder: way(folder, "light"))  # fmt: skip
def raced(case: int, folder: Path, runs: list[Unbroken]) -> None:
    """Start a run twice."""
    processes = [begun(runs[0].again(folder / "run"), folder / "cache", before=without_pictures) for _ in range(2)]
    assert sorted(map(ended, processes)) == [0, 2]
    assert left_by(folder / "run") == runs[0].left


LONG, LONG_EPOCH, BATCH = 5000, 50, 8


def memory_and_files(process: int) -> tuple[float, int]:
    """MB of memory of a process, and how many files it holds open."""
    resident = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return resident * os.sysconf("SC_PAGE_SIZE") / 1e6, len(os.listdir(f"/proc/{process}/fd"))


@trial(
    "T36", "5,000 steps, killed every 200 or left alone: no leftovers, at most 1 MB in 1,000 steps, same files open", 2
)
def soaked(case: int, folder: Path, prepared: Any) -> None:
    """Train long."""
    images = made_images(folder / "images", LONG_EPOCH * BATCH)
    words = pretrain(images, folder / "run", "--epochs", str(LONG // LONG_EPOCH), "--save-every", "20")
    metrics = folder / "run" / "metrics.jsonl"
    if case == 0:
        while (code := go(words, folder / "cache", "metrics.append@200")) == KILLED:
            pass
        assert code == 0
    else:
        process, seen = begun(words, folder / "cache", before=without_pictures), list[tuple[int, float, int]]()
        while os.waitpid(process, os.WNOHANG) == (0, 0):
            time.sleep(2)
            with contextlib.suppress(OSError):
                seen.append((len(metrics.read_bytes().splitlines()), *memory_and_files(process)))
        late = [row for row in seen if LONG // 5 < row[0] < LONG - 100]
        growth = (late[-1][1] - late[0][1]) / (late[-1][0] - late[0][0]) * 1000
        print(seen)
        assert growth < 1, f"{growth:.2f} MB in 1,000 steps"
        assert late[-1][2] <= late[0][2] + 1, f"{late[0][2]} files open, then {late[-1][2]}"
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == list(range(1, LONG + 1))
    assert len(list((folder / "run" / "checkpoints").iterdir())) == 2
    assert not list((folder / "run").rglob(".tmp-*"))
