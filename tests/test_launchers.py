"""Runs under real launchers, `--devices` and torchrun, on one node and on two: kills, restarts, the same result."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy
import pytest
from processes import LIMIT, Group, free_port
from runs import LASTING, PER_EPOCH, made_images, pretrain

from lwcl.errors import ProcessLostError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]
EPOCHS = 10
STEPS = EPOCHS * PER_EPOCH
DRAWN = [int(step) for step in numpy.random.default_rng(1).integers(1, STEPS - 5, 10)]
TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node")
LAUNCHERS = {"--devices": (), "torchrun": (*TORCHRUN, "2", "--standalone")}
#: What a launcher exits with that has lost a process; torchrun has one code for all failures.
LOST = {"--devices": ProcessLostError.exit_code, "torchrun": 1}
WORK_LIMIT = 1200.0  # seconds for a whole run on a machine that may be busy


def run_words(images: Path, out: Path) -> list[str]:
    """The words of the run."""
    return pretrain(images, out, "--epochs", str(EPOCHS))


def two_nodes() -> tuple[tuple[str, ...], ...]:
    """The words that start torchrun on each of two nodes of one process, both of them this machine."""
    meeting = ("--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}", "--rdzv-id", "two")
    return ((*TORCHRUN, "1", "--nnodes", "2", *meeting, "--local-addr", "127.0.0.1"),) * 2


class Launched:
    """A run of two processes, started by a launcher's words (none: `--devices 2`)."""

    def __init__(self, launcher: tuple[str, ...], images: Path, folder: Path, fault: str = "", node: int = 0) -> None:
        self.out = folder / "run"
        words = run_words(images, self.out) + ([] if launcher else ["--devices", "2"])
        cache = {"LWCL_CACHE": str(folder / f"cache-{node}"), "LWCL_CRASH_AT": fault}
        network = {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
        folder.mkdir(parents=True, exist_ok=True)
        self.stderr = folder / f"stderr-{node}"
        with self.stderr.open("w") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, *launcher, "-m", "lwcl", *words],
                env=os.environ | cache | network,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
            )

    def steps(self) -> int:
        """Steps whose metrics are written."""
        path = self.out / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def at_step(self, number: int) -> "Launched":
        """Returns once step `number` is written."""
        while self.steps() < number:
            assert self.process.poll() is None, self.said()
            time.sleep(0.002)
        return self

    def workers(self) -> dict[int, int]:
        """The process ids of the launcher's processes, by their numbers."""
        launcher = self.process.pid
        children = map(int, Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split())
        told = {child: Path(f"/proc/{child}/environ").read_bytes().split(b"\0") for child in children}
        return {int(one[5:]): pid for pid, words in told.items() for one in words if one.startswith(b"RANK=")}

    def seconds_since_write(self) -> float:
        """Seconds since anything was written in the run's folder."""
        return time.time() - max(path.stat().st_mtime for path in self.out.rglob("*"))

    def ended(self, limit: float = WORK_LIMIT) -> int:
        """The launcher's exit code."""
        try:
            return self.process.wait(limit)
        except subprocess.TimeoutExpired:
            self.process.terminate()  # which ends its processes too
            self.process.wait(60)
            raise

    def said(self) -> str:
        """What lwcl wrote on stderr, without warnings and what torchrun adds."""
        lines = self.stderr.read_text(errors="replace").splitlines()
        return "\n".join(line for line in lines if line.startswith(("Process", "Often", "Start", "The ", "A ")))

    def hash(self) -> str:
        """A hash of what a whole run leaves that must not depend on interruptions."""
        assert self.steps() == STEPS
        content = b"".join((self.out / name).read_bytes() for name in LASTING)
        return hashlib.sha256(content).hexdigest()[:16]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images."""
    return made_images(tmp_path_factory.mktemp("images"), 48)


@pytest.fixture(scope="module")
def unbroken(images: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The hash of a run of two processes that nothing has interrupted."""
    run = Launched((), images, tmp_path_factory.mktemp("unbroken"))
    assert run.ended() == 0, run.said()
    return run.hash()


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize(("number", "step"), list(enumerate(DRAWN)))
def test_a_killed_process_ends_the_whole_run_which_then_goes_on(
    launcher: str, number: int, step: int, images: Path, unbroken: str, tmp_path: Path
) -> None:
    rank = number % 2
    run = Launched(LAUNCHERS[launcher], images, tmp_path).at_step(step)
    pid, begun = run.workers()[rank], time.monotonic()
    os.kill(pid, signal.SIGKILL)
    code, seconds, done, said = run.ended(LIMIT), time.monotonic() - begun, run.steps(), run.said()
    again = Group(run_words(images, run.out), tmp_path)
    assert again.ended(WORK_LIMIT) == [0, 0], again.said()
    same = run.hash() == unbroken
    print(f"| {launcher} | {rank} | {step} | {done} | {seconds:.1f} | {code} | {'yes' if same else 'no'} |")
    assert code == LOST[launcher]
    assert said.count(f"Process {rank} of 2 (pid {pid}") == 1, said
    assert said.count("Start the command again") == 1, said
    assert same


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("fault", ["checkpoint.file@2", "checkpoint.rename.before@3", "checkpoint.rename.after@4"])
def test_a_process_killed_in_a_save_ends_the_whole_run_which_then_goes_on(
    launcher: str, fault: str, images: Path, unbroken: str, tmp_path: Path
) -> None:
    run = Launched(LAUNCHERS[launcher], images, tmp_path, fault)
    code, seconds, done, said = run.ended(), run.seconds_since_write(), run.steps(), run.said()
    again = Launched(LAUNCHERS[launcher], images, tmp_path)
    assert again.ended() == 0, again.said()
    same = again.hash() == unbroken
    print(f"| {launcher} | 0 | {fault} | {done} | {seconds:.1f} | {code} | {'yes' if same else 'no'} |")
    assert (code, seconds < LIMIT) == (LOST[launcher], True)
    assert said.count("Process 0 of 2 (pid") == 1, said
    assert same


@pytest.mark.parametrize("rank", [0, 1])
def test_torchrun_restarts_a_run_that_lost_a_process(rank: int, images: Path, unbroken: str, tmp_path: Path) -> None:
    run = Launched((*LAUNCHERS["torchrun"], "--max-restarts", "1"), images, tmp_path).at_step(20)
    workers, begun = run.workers(), time.monotonic()
    os.kill(workers[rank], signal.SIGKILL)
    while Path(f"/proc/{workers[1 - rank]}").exists():
        time.sleep(0.02)
    seconds = time.monotonic() - begun
    assert run.ended() == 0, run.said()
    print(f"process {rank} killed: the other had left after {seconds:.1f} s; hash equal: {run.hash() == unbroken}")
    assert seconds < 15
    assert run.hash() == unbroken


def test_two_nodes_train_as_one_does(images: Path, unbroken: str, tmp_path: Path) -> None:
    nodes = [Launched(words, images, tmp_path, node=node) for node, words in enumerate(two_nodes())]
    assert [node.ended() for node in nodes] == [0, 0], [node.said() for node in nodes]
    assert nodes[0].hash() == unbroken


def test_a_lost_node_ends_the_other_and_both_go_on(images: Path, unbroken: str, tmp_path: Path) -> None:
    nodes = [Launched(words, images, tmp_path, node=node) for node, words in enumerate(two_nodes())]
    nodes[0].at_step(DRAWN[0])
    begun = time.monotonic()
    for pid in (nodes[1].process.pid, *nodes[1].workers().values()):
        os.kill(pid, signal.SIGKILL)
    code, _ = nodes[0].ended(LIMIT), nodes[1].ended()
    print(f"a node lost: the other ended after {time.monotonic() - begun:.1f} s with {code}")
    assert code == 1
    assert "ended without a word" in nodes[0].said()
    nodes = [Launched(words, images, tmp_path, node=node) for node, words in enumerate(two_nodes())]
    assert [node.ended() for node in nodes] == [0, 0], [node.said() for node in nodes]
    assert nodes[0].hash() == unbroken
