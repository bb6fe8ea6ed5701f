"""A trial is a promise and cases that could break it: each runs in a forked child; its result is a line of JSON."""

import contextlib
import json
import os
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

CASE_SECONDS = 1800  # a case that takes longer hangs, however busy the machine


class BrokenPromiseError(AssertionError):
    """How much of what a case tried did not hold, and the first of it."""

    def __init__(self, broken: list[str]) -> None:
        super().__init__(broken[0])
        self.count = len(broken)


class Trial(NamedTuple):
    """`work(case, folder, prepared)` raises where the promise is broken, and returns how much it tried (None: 1)."""

    number: str
    promise: str
    cases: int
    work: Callable[[int, Path, Any], int | None]
    prepare: Callable[[Path], Any]
    tries: int  # in each case, as far as is known before


TRIALS: list[Trial] = []


def nothing(folder: Path) -> None:
    """No preparation."""


def trial(
    number: str, promise: str, cases: int = 1, prepare: Callable[[Path], Any] = nothing, tries: int = 1
) -> Callable[[Callable[[int, Path, Any], int | None]], Callable[[int, Path, Any], int | None]]:
    """Registers a function as the work of a trial."""

    def register(work: Callable[[int, Path, Any], int | None]) -> Callable[[int, Path, Any], int | None]:
        TRIALS.append(Trial(number, promise, cases, work, prepare, tries))
        return work

    return register


def run_trial(one: Trial, out: Path, most: int | None = None) -> Iterator[dict[str, Any]]:
    """The results of a trial, of its first `most` cases; those that `out` holds are not tried again."""
    file = out / "results" / f"{one.number}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    done = {row["case"]: row for row in map(json.loads, file.read_text().splitlines())} if file.exists() else {}
    cases = range(min(one.cases, most or one.cases))
    if not set(cases) - set(done):
        yield from (done[case] for case in cases)
        return
    scratch = out / "scratch" / one.number
    shutil.rmtree(scratch, ignore_errors=True)
    (scratch / "prepared").mkdir(parents=True)
    prepared = one.prepare(scratch / "prepared")
    for case in cases:
        if case not in done:
            done[case] = {"case": case, **run_case(one, case, scratch / f"case-{case}", prepared)}
            with open(file, "a") as results:
                results.write(json.dumps(done[case]) + "\n")
        yield done[case]
    if not list(scratch.glob("case-*")):
        shutil.rmtree(scratch, ignore_errors=True)


def run_case(one: Trial, case: int, folder: Path, prepared: Any) -> dict[str, Any]:
    """How much a case tried and how much of it held, and why not; what it printed is kept in its folder."""
    folder.mkdir()
    reading, writing = os.pipe()
    begun = time.monotonic()
    with warnings.catch_warnings(action="ignore"):  # newer Pythons warn of forks beside threads
        child = os.fork()
    if child == 0:
        try_case(one, case, folder, prepared, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        text = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    died = {"tried": one.tries, "held": 0, "why": f"died: exit code {code}"}
    result: dict[str, Any] = json.loads(text) if text else died
    result["seconds"] = round(time.monotonic() - begun, 1)
    if result["held"] == result["tried"]:
        shutil.rmtree(folder, ignore_errors=True)
    return result


def try_case(one: Trial, case: int, folder: Path, prepared: Any, writing: int) -> None:
    """A case in its child, which ends here."""
    os.setpgid(0, 0)
    signal.alarm(CASE_SECONDS)
    log = os.open(folder / "output.txt", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ["LWCL_CACHE"] = str(folder / "cache")
    try:
        tried = one.work(case, folder, prepared) or 1
        result = {"tried": tried, "held": tried}
    except BaseException as error:
        traceback.print_exc()
        held = one.tries - error.count if isinstance(error, BrokenPromiseError) else 0
        result = {"tried": one.tries, "held": held, "why": f"{type(error).__name__}: {error}"[:500]}
    sys.stdout.flush()
    sys.stderr.flush()
    with contextlib.suppress(OSError):
        os.write(writing, json.dumps(result).encode())
    os._exit(0)


def table(out: Path) -> str:
    """The results in Markdown: promise, tried, held; below it, what did not hold."""
    lines, broken = ["| | promise | tried | held |", "|---|---|---|---|"], []
    for one in TRIALS:
        file = out / "results" / f"{one.number}.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        tried, held = (sum(row[name] for row in rows) for name in ("tried", "held"))
        lines.append(f"| {one.number} | {one.promise} | {tried:,} | {held:,} |")
        broken += [f"* {one.number}, case {row['case']}: {row['why']}" for row in rows if "why" in row]
    return "\n".join([*lines, "", *broken]) + "\n"
