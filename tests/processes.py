"""Several processes that train together, forked from a test, so that none has to wait for torch."""

import datetime
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from crash import started
from runs import ran

LIMIT = 60.0  # seconds within which a run that has lost a process must end
WORK_LIMIT = 1200.0  # seconds, after which processes that hang are killed
Before = Callable[[int], object]


def place(rank: int, count: int) -> dict[str, str]:
    """The variables that tell a process on this machine which it is."""
    numbers = {"RANK": rank, "WORLD_SIZE": count, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": count}
    return {name: str(number) for name, number in numbers.items()} | {"GLOO_SOCKET_IFNAME": "lo"}


def together(count: int, work: Callable[[], Any], folder: Path) -> list[Any]:
    """What `work` returns in each of `count` processes, in order of rank, as JSON has it; fails if one of them does."""
    folder.mkdir(parents=True, exist_ok=True)

    def process(rank: int) -> Callable[[], None]:
        def begin() -> None:
            torch.set_num_threads(1)
            os.environ |= place(rank, count)
            dist.init_process_group(
                "gloo",
                init_method=f"file://{folder}/store",
                rank=rank,
                world_size=count,
                timeout=datetime.timedelta(seconds=WORK_LIMIT),
            )
            result = work()
            (folder / f"{rank}.json").write_text(json.dumps(result))
            dist.barrier()
            dist.destroy_process_group()

        return begin

    children = [started(process(rank)) for rank in range(count)]
    codes = all_ended(children, WORK_LIMIT)
    assert codes == [0] * count, f"exit codes {codes}"
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(count)]


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def all_ended(children: list[int], limit: float) -> list[int]:
    """The exit codes of child processes; those that have not ended after `limit` seconds are killed."""
    deadline, codes = time.monotonic() + limit, dict[int, int]()
    while len(codes) < len(children):
        for child in (child for child in children if child not in codes):
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                codes[child] = os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    return [codes[child] for child in children]


class Group:
    """Processes as torchrun starts them, but without it: nobody ends those that stay. Forked, so torch is imported."""

    def __init__(self, words: list[str], folder: Path, before: Before = bool, count: int = 2) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        port = free_port()
        self.errors = [folder / f"stderr-{rank}" for rank in range(count)]

        def process(rank: int) -> Callable[[], None]:
            def begin() -> None:
                torch.set_num_threads(1)
                os.environ |= place(rank, count) | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
                sys.stderr = open(self.errors[rank], "w", buffering=1)  # noqa: SIM115  # until the process ends
                os.dup2(sys.stderr.fileno(), 2)
                before(rank)
                os._exit(ran(words))

            return begin

        self.pids = [started(process(rank)) for rank in range(count)]

    def ended(self, limit: float = LIMIT) -> list[int]:
        """The exit codes; raises where one had to be killed."""
        begun = time.monotonic()
        codes = all_ended(self.pids, limit)
        assert time.monotonic() - begun < limit, f"a process hung: {codes}, {self.said()}"
        return codes

    def said(self) -> list[str]:
        """What each process has written on stderr, without warnings."""
        lines = [path.read_text(errors="replace").splitlines() for path in self.errors]
        return ["\n".join(line for line in each if not line.startswith(("Warning", "[W"))) for each in lines]
