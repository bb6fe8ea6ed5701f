"""Joins the processes of a run, and says in one sentence what is wrong when one of them fails or is lost.

Each process that fails leaves a note in the store by which the processes found each other. Process 0 speaks for all
that fail alike; another speaks if it fails alone. A rank that loses a peer first looks in the store for that peer's
error before it reports one itself.

A store that torchrun keeps for all attempts is used with a prefix for each: else gloo connects to the addresses of the
attempt before, and hangs (torch 2.14, `--max-restarts`).
"""

import contextlib
import datetime
import json
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # not re-exported

from lwcl.errors import ProcessLostError, ReportedElsewhereError, UsageError
from lwcl.system import distributed
from lwcl.system.ranks import Ranks, current_ranks

WAIT_SECONDS = 600.0  # that processes wait for each other, where no setting says otherwise
NOTE_SECONDS = 5.0  # that a process waits for the note of another
LEAVE_SECONDS = 2.0  # that process 0 stays after an error where it keeps the store, so that others can read its note
LOST_WORDS = re.compile(r"gloo|nccl|by peer|connection closed|broken pipe|timed out|socket", re.IGNORECASE)
LAUNCHED = "LWCL_LAUNCHED"  # set by `lwcl --devices`, which says itself which process was killed


class Notes:
    """The notes that processes leave for each other; a store that is gone counts as empty."""

    def __init__(self, store: PrefixStore, ranks: Ranks) -> None:
        self.store, self.ranks = store, ranks
        self.places = distributed.all_gather_json({"host": socket.gethostname(), "pid": os.getpid()})

    def leave(self, kind: str, note: dict[str, Any]) -> None:
        """Leaves this process's note of a kind."""
        with contextlib.suppress(RuntimeError):
            self.store.set(f"{kind}/{self.ranks.rank}", json.dumps(note))

    def read(self, kind: str, process: int) -> dict[str, Any] | None:
        """The note of a process, if it has left one."""
        with contextlib.suppress(RuntimeError):
            if self.store.check([f"{kind}/{process}"]):
                note: dict[str, Any] = json.loads(self.store.get(f"{kind}/{process}"))
                return note
        return None

    def failures(self) -> dict[int, dict[str, Any]]:
        """The notes of the processes that have failed, by number; not this one's."""
        others = (process for process in range(self.ranks.world_size) if process != self.ranks.rank)
        return {process: note for process in others if (note := self.read("failed", process))}

    def wait_for(self, kind: str, process: int, seconds: float) -> dict[str, Any] | None:
        """The note of a process, waited for at most so long."""
        deadline = time.monotonic() + seconds
        while (note := self.read(kind, process)) is None and time.monotonic() < deadline:
            time.sleep(0.05)
        return note

    def name(self, process: int) -> str:
        """A process as it is named to people."""
        place = self.places[process]
        return f"process {process} of {self.ranks.world_size} (pid {place['pid']} on {place['host']})"

    def vanished(self) -> list[int]:
        """The processes on this machine that have ended without a note."""
        here = self.places[self.ranks.rank]["host"]
        dead = [n for n, place in enumerate(self.places) if place["host"] == here and not is_running(place["pid"])]
        return [process for process in dead if not self.read("failed", process)]

    def is_first_left(self) -> bool:
        """Whether the processes before this one have vanished."""
        return set(range(self.ranks.rank)) <= set(self.vanished())

    def is_reporter(self) -> bool:
        """Whether this process reports why the run ends: the first to ask, or the first left if the store is gone."""
        try:
            return self.store.add("reporter", 1) == 1
        except RuntimeError:
            return self.is_first_left() or not self.vanished()


current_notes: list[Notes] = []


@contextlib.contextmanager
def process_group(device: torch.device, wait: float) -> Iterator[None]:
    """Within `with`, the processes that a launcher started train together; nothing happens for a single process.

    They wait for each other at most `wait` seconds. Raises `ProcessLostError` where one of them ends or does not come,
    and `ReportedElsewhereError` in a process that need not say why it ends.
    """
    ranks = current_ranks()
    if ranks.world_size == 1 or dist.is_initialized():
        yield
        return
    notes = join(ranks, device, wait)
    current_notes.append(notes)
    try:
        yield
        dist.barrier()
    except BaseException as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a launcher ends the others at once: not before this has spoken
        told = explained(error, notes, wait)
        if keeps_store(ranks):
            let_others_read(device)
        if told is error:
            raise
        raise told from error
    finally:
        current_notes.pop()
    dist.destroy_process_group()


def join(ranks: Ranks, device: torch.device, wait: float) -> Notes:
    """Waits until all processes are there.

    Raises `ProcessLostError` if some do not come, `UsageError` if there are fewer accelerators than processes.
    """
    limit = datetime.timedelta(seconds=wait)
    if device.type != "cpu":
        claim_accelerator(ranks, torch.accelerator.device_count())
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        host = TCPStore(ranks.address, ranks.port, ranks.world_size, keeps_store(ranks), limit)
        store = PrefixStore(f"lwcl/{attempt}", host)
        backend = (
            "gloo" if device.type == "cpu" else f"cpu:gloo,{device.type}:{dist.get_default_backend_for_device(device)}"
        )
        dist.init_process_group(backend, store=store, rank=ranks.rank, world_size=ranks.world_size, timeout=limit)
        return Notes(store, ranks)
    except RuntimeError as error:
        raise ProcessLostError(
            f"Process {ranks.rank} of {ranks.world_size} did not find the others within {wait:g} s.",
            f"They meet at {ranks.address}:{ranks.port}: {' '.join(str(error).split())[:200]}",
            "Start as many processes as WORLD_SIZE says, on machines that reach each other.",
        ) from error


def keeps_store(ranks: Ranks) -> bool:
    """Whether this process hosts the store; under torchrun its agent does."""
    return ranks.is_first and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"


def let_others_read(device: torch.device) -> None:
    """Stays until the others have read why this process ends: gloo tells them that it has left."""
    if device.type == "cpu":
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()
    time.sleep(LEAVE_SECONDS)


def claim_accelerator(ranks: Ranks, count: int) -> None:
    """Makes the accelerator of this process the current one. Raises `UsageError` where there are too few."""
    if ranks.local_size > count > 1 or (count == 1 and ranks.local_size > 1 and ranks.launcher != "srun"):
        raise UsageError(
            f"{ranks.local_size} processes on a machine with {count} accelerator{'s' * (count > 1)}.",
            remedy=f"Start {count} a machine, or give --device cpu.",
        )
    torch.accelerator.set_device_index(ranks.local_rank % count)


def explained(error: BaseException, notes: Notes, wait: float) -> BaseException:
    """What a process raises for an error: the error itself, what has become of another process, or nothing to say."""
    if is_lost(error):
        return explain_loss(error, notes, wait)
    code = getattr(error, "exit_code", 130 if isinstance(error, KeyboardInterrupt) else 1)
    notes.leave("failed", {"what": str(error), "code": code})
    if notes.ranks.is_first or not isinstance(error, Exception):
        return error
    if (first := notes.wait_for("failed", 0, NOTE_SECONDS)) and first["what"] == str(error):
        return ReportedElsewhereError(code)
    error.process = capitalised(notes.name(notes.ranks.rank))  # type: ignore[attr-defined]  # for the message
    return error


def is_lost(error: BaseException) -> bool:
    """Whether an error comes from a connection to other processes."""
    return isinstance(error, RuntimeError) and bool(isinstance(error, dist.DistError) or LOST_WORDS.search(str(error)))


def explain_loss(error: BaseException, notes: Notes, wait: float) -> BaseException:
    """What a process raises that has lost another: nothing to say where that or process 0 has spoken."""
    begun = time.monotonic()
    while not (failures := notes.failures()):
        if time.monotonic() > begun + (1.0 if notes.is_first_left() else NOTE_SECONDS):
            break
        time.sleep(0.05)
    if failures:
        return ReportedElsewhereError(next(iter(failures.values()))["code"])
    text = " ".join(str(error).split())
    if "timed out" in text.lower():
        lost = ProcessLostError(
            f"The processes waited {wait:g} s for one that made no progress.",
            text[:200],
            "See what it does (py-spy dump), or let them wait longer: --wait-limit.",
        )
    else:
        gone = " and ".join(map(notes.name, notes.vanished())) or "a process"
        lost = ProcessLostError(
            f"{capitalised(gone)} ended without a word: it was killed, or it crashed.",
            "Often the kernel ended it for lack of memory (check `dmesg`).",
            "Start the command again: it goes on from the last checkpoint.",
        )
    notes.leave("failed", {"what": lost.what, "code": lost.exit_code})
    lost.process = ""  # type: ignore[attr-defined]  # the message names the one that is meant
    return lost if notes.is_reporter() and not os.environ.get(LAUNCHED) else ReportedElsewhereError(lost.exit_code)


def capitalised(text: str) -> str:
    """The text with its first letter capitalised."""
    return text[0].upper() + text[1:]


def is_running(pid: int) -> bool:
    """Whether a process of this machine runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return not Path("/proc/self").exists()  # elsewhere than on Linux nobody knows


@contextlib.contextmanager
def one_first_on_each_machine(what: str) -> Iterator[bool]:
    """Within `with`, one process of each machine does something before the others do it; whether this is the one.

    The others wait without a time limit, as long as no process has failed. Raises `RuntimeError` then, which
    `process_group` turns into `ProcessLostError`.
    """
    if not distributed.is_distributed() or not current_notes:
        yield True
        return
    notes, ranks = current_notes[-1], current_notes[-1].ranks
    leader = ranks.rank - ranks.local_rank
    while ranks.local_rank and notes.read(f"done {what}", leader) is None:
        if notes.failures() or leader in notes.vanished():
            raise RuntimeError(f"Connection closed by peer while waiting: {what}")
        time.sleep(0.1)
    yield not ranks.local_rank
    if not ranks.local_rank:
        notes.leave(f"done {what}", {})
