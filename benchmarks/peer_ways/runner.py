"""A way at work in a process of its own, in its own environment, which receives its tasks over a pipe."""

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peer_ways.turns import Work

BENCHMARKS = Path(__file__).parents[1]
#: "kept": the settings that lwcl gives itself (`lwcl/cpu.py`), as glibc takes them from the environment.
ALLOCATORS = {
    "stock": {},
    "kept": {
        "MALLOC_MMAP_THRESHOLD_": "1073741824",
        "MALLOC_TRIM_THRESHOLD_": "2147483647",
        "MALLOC_TOP_PAD_": "67108864",
    },
}


@dataclass(frozen=True)
class Way:
    """What is compared: a module of `peer_ways`, the interpreter that runs it, and the options of this way."""

    name: str
    module: str
    python: str
    allocator: str = "stock"
    options: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)


class Runner:
    """A way's process. Raises `RuntimeError` with the end of its log if it dies."""

    def __init__(self, way: Way, work: Work) -> None:
        self.way = way
        self.log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115  # `end` closes it
        description = json.dumps(work._replace(options=way.options)._asdict())
        found = {"OMP_NUM_THREADS": str(work.threads), "PYTHONPATH": f"{BENCHMARKS}{os.pathsep}{BENCHMARKS.parent}"}
        self.process = subprocess.Popen(  # noqa: S603
            [way.python, "-W", "ignore", "-m", f"peer_ways.{way.module}", description],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env={**os.environ, **ALLOCATORS[way.allocator], **way.environment, **found},
            text=True,
        )
        self.versions: dict[str, str] = self.reply()

    def reply(self) -> Any:
        """What the process says next."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.log.seek(0)
            raise RuntimeError(f"{self.way.name}, {self.way.allocator}: {self.log.read()[-3000:]}")
        return json.loads(line)

    def turn(self, steps: int) -> float:
        """Seconds of so many steps."""
        assert self.process.stdin
        print(steps, file=self.process.stdin, flush=True)
        return float(self.reply())

    def end(self) -> None:
        """Ends the process."""
        self.process.communicate()
        self.log.close()
