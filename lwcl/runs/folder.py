"""The folder of a run: its paths, and the files that grow while it runs (metrics, log, broken images)."""

import contextlib
import csv
import itertools
import json
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, Self

from lwcl.config.diff import settings_diff
from lwcl.errors import UsageError
from lwcl.formatting import json_text
from lwcl.runs.crash import marked_as_running
from lwcl.runs.guard import (
    ResumeMode,
    is_finished,
    is_run,
    read_settings,
    require_run_or_empty,
    run_diff,
    start_or_resume,
    write_settings,
)
from lwcl.system.atomic_files import crash_point, explain_disk_errors, write_atomically
from lwcl.system.environment import RUN_SPECIFIC_KEYS, describe_environment
from lwcl.system.lock import folder_lock, is_locked

#: The facts of a report that say on which images it is.
DATA_FACTS = ("data", "test data")


def report_folder(
    out: str | None, encoders: Sequence[str], name: str, facts: Mapping[str, Any] = MappingProxyType({})
) -> Path | None:
    """Where a report goes: `out`, else the folder `name` in the first run folder among the encoders, else nowhere.

    A report there on other images, as its `facts` say, is kept: the new one goes to `name-2`, `name-3` and so on.
    """
    run = next((Path(encoder) for encoder in encoders if (Path(encoder) / "config.yaml").exists()), None)
    if out or run is None:
        return Path(out) if out else None
    folders = (run / (name if number == 1 else f"{name}-{number}") for number in itertools.count(1))
    return next(folder for folder in folders if not holds_other_report(folder, facts))


def holds_other_report(folder: Path, facts: Mapping[str, Any]) -> bool:
    """Whether a report on other images is in a folder."""
    try:
        known = (parse_record((folder / "report.json").read_bytes()) or {}).get("facts", {})
        return any(known.get(name) != facts.get(name) for name in DATA_FACTS if name in facts)
    except (OSError, AttributeError):
        return False


class RunFolder:
    """The folder of a run: `RunFolder(path)` to read it, `RunFolder.open` to run in it, with its lock until `close`.

    `resumed`: whether an interrupted run is resumed. `changed`: versions and machine properties that have changed,
    `name: (then, now)`; then the result may differ in the last bits from an uninterrupted run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.resumed = False
        self.changed: dict[str, tuple[str, str]] = {}
        self.checkpoints, self.export, self.plots = path / "checkpoints", path / "export", path / "plots"
        self.encoder, self.config = path / "encoder.safetensors", path / "config.yaml"
        self.report_json, self.report_html = path / "report.json", path / "report.html"
        self.metrics_jsonl, self.metrics_csv = path / "metrics.jsonl", path / "metrics.csv"
        self.log_txt = path / "log.txt"
        self.on_metrics: Callable[[Mapping[str, Any]], object] = bool  # called with each record
        self.bad_files_jsonl, self.first = path / "bad_files.jsonl", path / "first"  # the run of a first stage
        self._held = contextlib.ExitStack()

    @classmethod
    def open(
        cls,
        path: Path,
        settings: Mapping[str, Any],
        *,
        resume: ResumeMode = "auto",
        overwrite: bool = False,
        ignore: frozenset[str] = frozenset(),
    ) -> Self:
        """Create `path` for a run of `settings`, or resume the unfinished run of the same settings in it.

        `ignore` names settings that do not change the result (workers, out). Raises `UsageError` for a folder in use,
        one without a run of lwcl, and, unless `overwrite`, a finished or another run; `StorageError` if a write fails.
        `overwrite` removes what a run of lwcl writes and nothing else.
        """
        run = cls(path)
        require_run_or_empty(path)
        with explain_disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            stack.enter_context(folder_lock(path))
            run.resumed = start_or_resume(path, settings, resume, overwrite, ignore)
            run._note_environment()
            run._held = stack.pop_all()
        return run

    def _note_environment(self) -> None:
        """Write env.json, or compare the one that is there; add this command to command.txt."""
        now, path = describe_environment(), self.path / "env.json"
        if (then := parse_record(path.read_bytes()) if path.exists() else None) is None:
            write_atomically(path, json_text(now, indent=1) + "\n")
        else:
            self.changed = settings_diff(then, now, RUN_SPECIFIC_KEYS)
        append_line(self.path / "command.txt", shlex.join(["lwcl", *sys.argv[1:]]))

    def close(self) -> None:
        """Release the lock."""
        self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def marked_as_running(self) -> contextlib.AbstractContextManager[None]:
        """Within `with`, the folder is marked as one in which a process runs."""
        return marked_as_running(self.path, self.log_txt)

    def settings(self) -> dict[str, Any]:
        """The settings in config.yaml. Raises `UsageError` where it is missing or holds no settings."""
        return read_settings(self.path)

    def record_setting(self, name: str, value: Any) -> None:
        """Write a setting that was decided after the start into config.yaml; nothing if it is there already."""
        settings = self.settings()
        if settings.get(name) != value:
            write_settings(self.path, settings | {name: value})

    def is_finished(self) -> bool:
        """Whether the run is finished: its report is written last."""
        return is_finished(self.path)

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Add a line to metrics.jsonl (NaN and infinities as null); it survives a kill once this returns."""
        crash_point("metrics.append")
        append_line(self.metrics_jsonl, json_text(dict(record)))
        self.on_metrics(record)

    def metrics(self) -> list[dict[str, Any]]:
        """The records of metrics.jsonl, without an incomplete last line."""
        return [record for _, record in complete_lines(self.metrics_jsonl)]

    def write_metrics_csv(self) -> None:
        """Write the records of metrics.jsonl as a table, with a column for every name in any of them."""
        write_atomically(self.metrics_csv, csv_lines(self.metrics_jsonl))

    def truncate_metrics(self, step: int) -> None:
        """Drop the records after `step`, from which a run resumes, and an incomplete last line; atomically."""
        kept = [line for line, record in complete_lines(self.metrics_jsonl) if record.get("step", step) <= step]
        if self.metrics_jsonl.exists():
            write_atomically(self.metrics_jsonl, b"".join(kept))

    def append_elapsed(self, step: int, seconds: float) -> None:
        """Add to elapsed.jsonl how long the run took up to a checkpoint; not in it, so that checkpoints stay equal."""
        append_line(self.path / "elapsed.jsonl", json_text({"step": step, "seconds": round(seconds, 1)}))

    def elapsed(self, step: int) -> float:
        """Seconds that the run took up to the checkpoint of `step`; 0 where that is not known."""
        known = [
            record["seconds"] for _, record in complete_lines(self.path / "elapsed.jsonl") if record["step"] == step
        ]
        return float(known[-1]) if known else 0.0

    def log(self, text: str) -> None:
        """Add `text` to log.txt with date and time."""
        append_line(self.log_txt, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}")

    def bad_file_rows(self) -> list[dict[str, Any]]:
        """The rows of bad_files.jsonl, if there are any, without an incomplete last line."""
        return [row for _, row in complete_lines(self.bad_files_jsonl)]

    def append_bad_file(self, row: Mapping[str, Any]) -> None:
        """Add a row to bad_files.jsonl."""
        append_line(self.bad_files_jsonl, json_text(dict(row)))

    def write_bad_files(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write bad_files.jsonl, a line for each row; without rows there is no such file."""
        if text := "".join(json_text(dict(row)) + "\n" for row in rows):
            write_atomically(self.bad_files_jsonl, text)


class FollowedFolder(RunFolder):
    """The run folder as other processes than the first know it: they write nothing, and process 0 tells what it reads.

    `recorded` are the settings in its config.yaml.
    """

    def __init__(self, path: str, resumed: bool, recorded: dict[str, Any]) -> None:
        super().__init__(Path(path))
        self.resumed, self.recorded = resumed, recorded

    def marked_as_running(self) -> contextlib.AbstractContextManager[None]:
        """Nothing."""
        return contextlib.nullcontext()

    def settings(self) -> dict[str, Any]:
        """The settings, as process 0 has read them."""
        return self.recorded

    def record_setting(self, name: str, value: Any) -> None:
        """Nothing."""

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Nothing."""

    def write_metrics_csv(self) -> None:
        """Nothing."""

    def metrics(self) -> list[dict[str, Any]]:
        """None."""
        return []

    def truncate_metrics(self, step: int) -> None:
        """Nothing."""

    def bad_file_rows(self) -> list[dict[str, Any]]:
        """None."""
        return []

    def append_bad_file(self, row: Mapping[str, Any]) -> None:
        """Nothing."""

    def write_bad_files(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Nothing."""


def default_out(
    stem: str,
    settings: Mapping[str, Any],
    *,
    resume: ResumeMode = "auto",
    ignore: frozenset[str] = frozenset(),
    runs: Path = Path("runs"),
) -> Path:
    """The folder of a run without --out: runs/STEM-N, N the smallest free number.

    An interrupted command given again resumes: the newest such folder with an unfinished run of the same `settings`,
    that no process has open, comes before a free one, unless `resume` is never.
    """
    stem = re.sub(r"[^\w.+-]+", "-", stem)
    names = [path.name for path in runs.iterdir()] if runs.is_dir() else []
    taken = {int(match[1]) for name in names if (match := re.fullmatch(re.escape(stem) + r"-([1-9]\d{0,8})", name))}
    waiting = [
        number for number in taken if resume != "never" and is_interrupted(runs / f"{stem}-{number}", settings, ignore)
    ]
    number = max(waiting, default=0) or next(n for n in itertools.count(1) if n not in taken)
    return runs / f"{stem}-{number}"


def is_interrupted(path: Path, settings: Mapping[str, Any], ignore: frozenset[str]) -> bool:
    """Whether an interrupted run of the same settings is in a folder."""
    try:
        return is_run(path) and not (is_finished(path) or run_diff(path, settings, ignore) or is_locked(path))
    except UsageError:
        return False


def append_line(path: Path, line: str) -> None:
    """Add a line to a file. Raises `StorageError`."""
    with explain_disk_errors(path), open(path, "a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(line + "\n")


def csv_lines(path: Path) -> Iterator[str]:
    """The lines of a CSV table of the records of a JSON Lines file, which is read twice: they are never all held."""
    names = dict.fromkeys(name for _, record in complete_lines(path) for name in record)
    table = csv.DictWriter(SimpleNamespace(write=str), list(names))  # `writerow` returns what `write` does
    yield table.writeheader()
    yield from (table.writerow(record) for _, record in complete_lines(path))


def complete_lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """The complete lines of a JSON Lines file, as bytes and as records."""
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        for line in file:
            record = parse_record(line) if line.endswith(b"\n") else None
            if record is not None:
                yield line, record


def parse_record(text: bytes) -> dict[str, Any] | None:
    """A JSON object, or None for anything else."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None
