"""Whether a run may have a folder: begin in it, go on in it, replace what is there, or be refused with the reason."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml

from lwcl.config.diff import json_compatible, settings_diff
from lwcl.errors import StorageError, UsageError
from lwcl.system.atomic_files import crash_point, remove_leftovers, remove_path, write_atomically

ResumeMode = Literal["auto", "never", "must"]
CONFIG_HEADING = "# Settings of a run of lwcl: give this file to --config, and the run is made again.\n"
# In the order in which --overwrite removes them: killed half-way, the run is still refused as finished or as another.
RUN_FILES = (
    *("checkpoints", "first", "metrics.jsonl", "encoder.safetensors", "export", "plots", "knn", "probe", "diagnosis"),
    *("nonfinite", "bad_files.jsonl"),
    *("log.txt", "command.txt", "env.json", "report.html", "report.json", "config.yaml"),
)
OVERWRITE_HINT = "Give --overwrite to replace it, or another --out."


def require_run_or_empty(path: Path) -> None:
    """Raise `UsageError` for what is no folder, and for a folder that holds something else than a run of lwcl."""
    if not path.is_dir():
        if path.exists() or path.is_symlink():
            raise UsageError(f"{path} is not a folder.", remedy="Give another --out.")
        return
    own = (name.name == ".lock" or name.name.startswith(".tmp-") for name in path.iterdir())
    if not all(own) and not is_run(path):
        why = "It holds files, and no config.yaml that a run of lwcl wrote; nothing in it was touched."
        raise UsageError(f"The folder {path} is no run of lwcl.", why, "Give another --out, or an empty folder.")


def is_run(path: Path) -> bool:
    """Whether a run of lwcl has begun in a folder."""
    try:
        with open(path / "config.yaml", encoding="utf-8", errors="replace") as file:
            return file.readline() == CONFIG_HEADING
    except OSError:
        return False


def reject_run_folder(out: str | None) -> None:
    """Raise `UsageError` where a report is to go into the folder of a run, which has one of its own."""
    if out and is_run(Path(out)):
        raise UsageError(f"{out} is a run, and has a report of its own.", remedy="Give another --out.")


def is_finished(path: Path) -> bool:
    """Whether the run in a folder came to its end: its report is written last."""
    return (path / "report.json").exists()


def never_started(path: Path, settings: Mapping[str, Any], ignore: frozenset[str]) -> bool:
    """Whether a run of other settings is in a folder that failed before its first step: nothing is lost with it."""
    steps = (folder / name for folder in (path, path / "first") for name in ("metrics.jsonl", "checkpoints"))
    done = is_finished(path) or any(step.exists() for step in steps)
    return is_run(path) and not done and bool(settings_diff(read_settings(path), settings, ignore))


def start_or_resume(
    path: Path, settings: Mapping[str, Any], resume: ResumeMode, overwrite: bool, ignore: frozenset[str] = frozenset()
) -> bool:
    """Settle, holding the lock, whether a run of `settings` begins in `path` or goes on (true); refuse it otherwise.

    After one that failed before its first step, the command can be given again with other settings.
    Raises `UsageError` for a finished or another run, or where `resume` forbids, and `StorageError` of the disk.
    """
    for place in (path, path / "export", path / "plots"):
        remove_leftovers(place, all_processes=True)
    if overwrite or (resume != "must" and never_started(path, settings, ignore)):
        clear_run(path)
    if is_run(path):
        require_resumable(path, settings, resume, ignore)
        return True
    if resume == "must":
        raise UsageError(f"There is no run to resume in {path}.", remedy="Without --resume must, one begins.")
    crash_point("config.write")
    write_atomically(path / "config.yaml", CONFIG_HEADING + yaml.safe_dump(json_compatible(settings), sort_keys=False))
    return False


def clear_run(path: Path) -> None:
    """Remove what a run makes, nothing else; raises `StorageError` when something stays."""
    for made in (path / name for name in RUN_FILES):
        remove_path(made)
        if made.exists():
            raise StorageError(f"Cannot remove {made}.", remedy="Remove it yourself, or give another --out.")


def require_resumable(path: Path, settings: Mapping[str, Any], resume: ResumeMode, ignore: frozenset[str]) -> None:
    """Raise `UsageError` unless the run in `path` is unfinished, of the same settings, and may go on."""
    differing = settings_diff(read_settings(path), settings, ignore)
    listed = "; ".join(f"{name}: {old} -> {new}" for name, (old, new) in differing.items())
    why = f"Settings differ: {listed}." if listed else "Its settings are the same."
    if is_finished(path):
        raise UsageError(f"The folder {path} holds a finished run.", why, OVERWRITE_HINT)
    if listed:
        raise UsageError(f"The folder {path} holds another run.", why, OVERWRITE_HINT)
    if resume == "never":
        remedy = f"Leave out --resume never to go on with it. {OVERWRITE_HINT}"
        raise UsageError(f"The folder {path} holds an unfinished run.", why, remedy)


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in a folder's config.yaml. Raises `UsageError` when it is not there or is no list of settings."""
    try:
        settings = yaml.safe_load((path / "config.yaml").read_bytes())
        reason = "It is no list of settings."
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        settings, reason = None, " ".join(str(error).split())
    if not isinstance(settings, dict):
        raise UsageError(f"Cannot read {path / 'config.yaml'}.", reason, OVERWRITE_HINT)
    return settings
