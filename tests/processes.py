"""Several processes that train together, forked from a test, so that none has to wait for torch."""

import datetime
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from crash import started

LIMIT = 300.0  # seconds, after which processes that hang are killed


def together(count: int, work: Callable[[], Any], folder: Path) -> list[Any]:
    """What `work` returns in each of `count` processes, in order of rank, as JSON has it; fails if one of them does."""
    folder.mkdir(parents=True, exist_ok=True)

    def process(rank: int) -> Callable[[], None]:
        def begin() -> None:
            torch.set_num_threads(1)
            os.environ["GLOO_SOCKET_IFNAME"] = "lo"
            dist.init_process_group(
                "gloo",
                init_method=f"file://{folder}/store",
                rank=rank,
                world_size=count,
                timeout=datetime.timedelta(seconds=LIMIT),
            )
            result = work()
            (folder / f"{rank}.json").write_text(json.dumps(result))
            dist.barrier()
            dist.destroy_process_group()

        return begin

    children = [started(process(rank)) for rank in range(count)]
    codes = all_ended(children, LIMIT)
    assert codes == [0] * count, f"exit codes {codes}"
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(count)]


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
