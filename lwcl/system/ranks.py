"""One process or many: this process's place among those of a run, from the variables that its launcher set.

torchrun: RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT (docs.pytorch.org, elastic/run).
srun: SLURM_PROCID, SLURM_STEP_NUM_TASKS, SLURM_LOCALID, SLURM_STEP_TASKS_PER_NODE, SLURM_STEP_NODELIST (srun(1)). Only
a step's own variables count: a batch script sees SLURM_NTASKS too, though it is one process.
"""

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from lwcl.errors import UsageError

FIRST_PORT, PORTS = 20_000, 20_000  # below Linux's ephemeral ports, of which others take one at any time


class Ranks(NamedTuple):
    """This process's place: number and count over all nodes, and on this node; where process 0 listens."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_size: int = 1
    address: str = ""
    port: int = 0
    launcher: str = ""  # "torchrun", "srun", or "": started by itself

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and the screen."""
        return self.rank == 0


def current_ranks(environment: Mapping[str, str] = os.environ) -> Ranks:
    """The place of this process. Raises `UsageError` for variables that are no numbers or contradict each other."""
    try:
        if "RANK" in environment and "WORLD_SIZE" in environment:
            return check_ranks(torchrun_ranks(environment))
        if int(environment.get("SLURM_STEP_NUM_TASKS", 1)) > 1 and "SLURM_PROCID" in environment:
            return check_ranks(slurm_ranks(environment))
    except (ValueError, LookupError) as error:
        raise UsageError(
            "The launcher's variables do not say which process this is.",
            f"{error}.",
            "Start with torchrun or srun, or unset RANK and WORLD_SIZE to run one process.",
        ) from None
    return Ranks()


def check_ranks(ranks: Ranks) -> Ranks:
    """The same place. Raises `ValueError` where a number is not below its count."""
    if not (0 <= ranks.rank < ranks.world_size and 0 <= ranks.local_rank < ranks.local_size <= ranks.world_size):
        raise ValueError(f"process {ranks.rank} of {ranks.world_size}, {ranks.local_rank} of {ranks.local_size} here")
    return ranks


def torchrun_ranks(environment: Mapping[str, str]) -> Ranks:
    """The place among torchrun's processes."""
    rank, size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
    return Ranks(
        rank,
        size,
        int(environment.get("LOCAL_RANK", rank)),
        int(environment.get("LOCAL_WORLD_SIZE", size)),
        environment.get("MASTER_ADDR", "127.0.0.1"),
        int(environment.get("MASTER_PORT", FIRST_PORT)),
        "torchrun",
    )


def slurm_ranks(environment: Mapping[str, str]) -> Ranks:
    """The place among the tasks of a step. Jobs on one node do not share a port: it follows from job and step."""
    sizes = tasks_per_node(environment["SLURM_STEP_TASKS_PER_NODE"])
    job, step = (int(environment.get(name, 0)) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    return Ranks(
        int(environment["SLURM_PROCID"]),
        int(environment["SLURM_STEP_NUM_TASKS"]),
        int(environment["SLURM_LOCALID"]),
        sizes[int(environment.get("SLURM_NODEID", 0))],
        environment.get("MASTER_ADDR") or first_host(environment["SLURM_STEP_NODELIST"]),
        int(environment.get("MASTER_PORT") or FIRST_PORT + (job * 7 + step) % PORTS),
        "srun",
    )


def tasks_per_node(text: str) -> list[int]:
    """The number of tasks of each node: `2(x3),1` is [2, 2, 2, 1]."""
    parts = (re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part) for part in text.split(","))
    return [int(part[1]) for part in parts if part for _ in range(int(part[2] or 1))]


def first_host(nodes: str) -> str:
    """The first host of a list of SLURM's: `gpu[003-007,9],cpu1` is gpu003."""
    first = re.match(r"([^,\[]+)(?:\[([^-,\]]+)[^\]]*\]([^,\[]*))?", nodes)
    if first is None:
        raise ValueError(f"no host in {nodes!r}")
    return "".join(filter(None, first.groups()))
