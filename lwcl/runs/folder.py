"""The folder of a run: where everything is, and the files that grow while it runs (metrics, log, broken images)."""

import contextlib
import itertools
import json
import re
import shlex
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from lwcl.config.diff import settings_diff
from lwcl.errors import UsageError
from lwcl.formatting import json_text
from lwcl.runs.guard import ResumeMode, is_finished, is_run, read_settings, require_run_or_empty, start_or_resume
from lwcl.system.atomic_files import crash_point, explain_disk_errors, write_atomically
from lwcl.system.environment import RUN_SPECIFIC_KEYS, describe_environment
from lwcl.system.lock import folder_lock, is_locked


def report_folder(out: str | None, encoders: Sequence[str], name: str) -> Path | None:
    """Where a report goes: `out`, else the folder `name` in the first run folder among the encoders, else nowhere."""
    runs = (Path(encoder) for encoder in encoders if (Path(encoder) / "config.yaml").exists())
    return Path(out) if out else next((run / name for run in runs), None)


class RunFolder:
    """A run's folder: `RunFolder(path)` to read one, `RunFolder.open` to run in one, holding its lock until `close`.

    `resumed`: a run that was there goes on. `changed`: versions and machine that are not as they were, `name: (then,
    now)`; then the last bits of the result may differ from the unbroken run's.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.resumed = False
        self.changed: dict[str, tuple[str, str]] = {}
        self.checkpoints, self.export, self.plots = path / "checkpoints", path / "export", path / "plots"
        self.encoder, self.config = path / "encoder.safetensors", path / "config.yaml"
        self.report_json, self.report_html = path / "report.json", path / "report.html"
        self.metrics_jsonl, self.log_txt = path / "metrics.jsonl", path / "log.txt"
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
        """Make `path` for a run of `settings`, or go on with the unfinished run of the same settings that is there.

        `ignore` names settings that do not change the result (workers, out). Raises `UsageError` when the folder is in
        use, no run of lwcl, or holds a finished or another run and `overwrite` is false; `StorageError` when the disk
        refuses. `overwrite` removes what a run of lwcl makes and nothing else.
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

    def settings(self) -> dict[str, Any]:
        """The settings in config.yaml. Raises `UsageError` when it is not there or is no list of settings."""
        return read_settings(self.path)

    def is_finished(self) -> bool:
        """Whether the run came to its end: its report is written last."""
        return is_finished(self.path)

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Add a line to metrics.jsonl (NaN and infinities as null); it survives a kill once this returns."""
        crash_point("metrics.append")
        append_line(self.metrics_jsonl, json_text(dict(record)))

    def metrics(self) -> list[dict[str, Any]]:
        """The records of metrics.jsonl; a line that a kill tore is left out."""
        return [record for _, record in complete_lines(self.metrics_jsonl)]

    def truncate_metrics(self, step: int) -> None:
        """Drop the records after `step`, where a resumed run goes on, and a torn line; atomically."""
        kept = [line for line, record in complete_lines(self.metrics_jsonl) if record.get("step", step) <= step]
        if self.metrics_jsonl.exists():
            write_atomically(self.metrics_jsonl, b"".join(kept))

    def log(self, text: str) -> None:
        """Add `text` to log.txt with date and time."""
        append_line(self.log_txt, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}")

    def known_bad(self) -> list[dict[str, Any]]:
        """The rows of bad_files.jsonl, none where there is no such file; a line that a kill tore is left out."""
        return [row for _, row in complete_lines(self.bad_files_jsonl)]

    def bad_file(self, row: Mapping[str, Any]) -> None:
        """Add a row to bad_files.jsonl."""
        append_line(self.bad_files_jsonl, json_text(dict(row)))

    def bad_files(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write bad_files.jsonl, a line for each row; without rows there is no such file."""
        if text := "".join(json_text(dict(row)) + "\n" for row in rows):
            write_atomically(self.bad_files_jsonl, text)


def default_out(
    verb: str,
    method: str,
    arch: str,
    settings: Mapping[str, Any],
    *,
    resume: ResumeMode = "auto",
    ignore: frozenset[str] = frozenset(),
    runs: Path = Path("runs"),
) -> Path:
    """Where a run goes when the user does not say: runs/VERB-METHOD-ARCH-N, N the smallest number that is free.

    The same command given again after an interruption goes on: the newest such folder with an unfinished run of the
    same `settings`, that no process has open, comes before a free one, unless `resume` is never.
    """
    stem = re.sub(r"[^\w.+-]+", "-", f"{verb}-{method}-{arch}")
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
        return is_run(path) and not (
            is_finished(path) or settings_diff(read_settings(path), settings, ignore) or is_locked(path)
        )
    except UsageError:
        return False


def append_line(path: Path, line: str) -> None:
    """Add a line to a file. Raises `StorageError`."""
    with explain_disk_errors(path), open(path, "a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(line + "\n")


def complete_lines(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """The lines of a JSON-lines file that are whole, as they are and as records."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    records = ((line + b"\n", parse_record(line)) for line in lines)
    return [(line, record) for line, record in records if record is not None]


def parse_record(text: bytes) -> dict[str, Any] | None:
    """A JSON object, or None for what is none."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None
