"""May a run use this folder? Start, resume or replace the run in it, or refuse with the reason."""

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml

from lwcl.config.diff import json_compatible, settings_diff
from lwcl.config.plan import WEIGHTS
from lwcl.errors import StorageError, UsageError
from lwcl.runs.crash import MARK_FILE
from lwcl.system.atomic_files import crash_point, remove_leftovers, remove_path, write_atomically

ResumeMode = Literal["auto", "never", "must"]
#: The first line of config.yaml names the format of the run folder; format 1 had another sentence.
CONFIG_HEADING = "# Run of lwcl, format 2. Give this file to --config to repeat the run.\n"
OLD_HEADING = "# Settings of a run of lwcl: give this file to --config, and the run is made again.\n"
#: In the order in which --overwrite removes them: if killed halfway, the run is still found finished, or another one.
RUN_FILES = (
    *(
        "checkpoints",
        "first",
        "metrics.jsonl",
        "metrics.csv",
        "encoder.safetensors",
        "export",
        "plots",
        "knn",
        "probe",
        "diagnosis",
    ),
    *("nonfinite", "bad_files.jsonl", "elapsed.jsonl", MARK_FILE, "tensorboard", "wandb", "mlruns"),
    *("log.txt", "command.txt", "env.json", "report.html", "report.json", "config.yaml"),
)
REPORT_FOLDERS = ("knn", "probe", "diagnosis")  # and, of other images, `knn-2` and so on
OVERWRITE_HINT = "Give --overwrite to replace it, or another --out."


def require_run_or_empty(path: Path) -> None:
    """Raises `UsageError` for a path that is no folder, or a folder that holds something else than a run of lwcl."""
    if not path.is_dir():
        if path.exists() or path.is_symlink():
            raise UsageError(f"{path} is not a folder.", remedy="Give another --out.")
        return
    own = (name.name == ".lock" or name.name.startswith(".tmp-") for name in path.iterdir())
    if not all(own) and not is_run(path):
        why = "It holds files, but no config.yaml written by lwcl; nothing in it was changed."
        raise UsageError(f"The folder {path} is not a run of lwcl.", why, "Give another --out, or an empty folder.")


def is_run(path: Path) -> bool:
    """Whether a run of lwcl has started in a folder."""
    return config_heading(path) in (CONFIG_HEADING, OLD_HEADING)


def config_heading(path: Path) -> str:
    """The first line of a folder's config.yaml, "" where there is none."""
    try:
        with open(path / "config.yaml", encoding="utf-8", errors="replace") as file:
            return file.readline()
    except OSError:
        return ""


def require_current_format(path: Path, remedy: str = OVERWRITE_HINT) -> None:
    """Raises `UsageError` for the run of an older version of lwcl, whose files have another format."""
    if config_heading(path) == OLD_HEADING:
        raise UsageError(f"The run in {path} was written by an older version of lwcl.", remedy=remedy)


def reject_run_folder(out: str | None) -> None:
    """Raises `UsageError` where a report would go into the folder of a run, which has its own report."""
    if out and is_run(Path(out)):
        raise UsageError(f"{out} is a run, which has its own report.", remedy="Give another --out.")


def is_finished(path: Path) -> bool:
    """Whether the run in a folder is finished: its report is written last."""
    return (path / "report.json").exists()


def is_discardable(path: Path, settings: Mapping[str, Any], ignore: frozenset[str]) -> bool:
    """Whether a folder holds a run of other settings that failed before its first step: nothing is lost with it."""
    steps = (folder / name for folder in (path, path / "first") for name in ("metrics.jsonl", "checkpoints"))
    done = is_finished(path) or any(step.exists() for step in steps)
    return is_run(path) and not done and bool(run_diff(path, settings, ignore))


def run_diff(path: Path, settings: Mapping[str, Any], ignore: frozenset[str]) -> dict[str, tuple[str, str]]:
    """The settings that tell the run in a folder from one of `settings`; encoders count by content, or by place."""
    environment, there = path / "env.json", ""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        there = str(json.loads(environment.read_bytes()).get("folder", ""))
    old = read_settings(path)
    hashes = [side.get(WEIGHTS) or {} for side in (old, settings)]
    before, now = ({name: f"weights {one[name][:8]}" for name in hashes[0] if name in hashes[1]} for one in hashes)
    diff = settings_diff(
        with_resolved_paths(old, there) | before, with_resolved_paths(settings, os.getcwd()) | now, ignore | {WEIGHTS}
    )
    return {name: pair for name, pair in diff.items() if not (name == "images" and name not in old)}


def with_resolved_paths(settings: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """Settings with the files that they name, seen from a folder, as absolute paths; caches by what they keep."""
    full = {name: os.path.join(folder, os.path.expanduser(str(settings.get(name)))) for name in ("init", "teacher")}
    known = {name: os.path.realpath(path) for name, path in full.items() if settings.get(name) and os.path.exists(path)}
    if "cache" in settings:
        known["cache"] = "jpeg" if settings["cache"] == "jpeg" else "pixels"
    return {**settings, **known}


def start_or_resume(
    path: Path, settings: Mapping[str, Any], resume: ResumeMode, overwrite: bool, ignore: frozenset[str] = frozenset()
) -> bool:
    """Starts a run of `settings` in `path` (false) or resumes the one there (true), holding the lock.

    After a run that failed before its first step, the command can be given again with other settings.
    Raises `UsageError` for a finished or another run, or where `resume` forbids it, and `StorageError` if the disk
    fails.
    """
    for folder in (path, path / "export", path / "plots"):
        remove_leftovers(folder, all_processes=True)
    if overwrite or (resume != "must" and is_discardable(path, settings, ignore)):
        clear_run(path)
    if is_run(path):
        require_current_format(path)
        require_resumable(path, settings, resume, ignore)
        return True
    if resume == "must":
        raise UsageError(f"There is no run to resume in {path}.", remedy="Remove --resume must to start one.")
    write_settings(path, settings)
    return False


def clear_run(path: Path) -> None:
    """Removes what a run writes, nothing else; raises `StorageError` for what cannot be removed."""
    more = (file for name in REPORT_FOLDERS for file in sorted(path.glob(f"{name}-[0-9]*")))
    for file in (*more, *(path / name for name in RUN_FILES)):
        remove_path(file)
        if file.exists():
            raise StorageError(f"Cannot remove {file}.", remedy="Remove it yourself, or give another --out.")


def require_resumable(path: Path, settings: Mapping[str, Any], resume: ResumeMode, ignore: frozenset[str]) -> None:
    """Raises `UsageError` unless the run in `path` is unfinished, of the same settings, and may be resumed."""
    diff = run_diff(path, settings, ignore)
    changes = "; ".join(f"{name}: {old} -> {new}" for name, (old, new) in diff.items())
    why = f"Settings differ: {changes}." if changes else "Its settings are the same."
    if is_finished(path):
        raise UsageError(f"The folder {path} holds a finished run.", why, OVERWRITE_HINT)
    if changes:
        remedy = "Use the run's original settings to resume it, or a different --out; --overwrite would discard it."
        raise UsageError(f"The folder {path} holds another run.", why, remedy)
    if resume == "never":
        remedy = f"Remove --resume never to resume it. {OVERWRITE_HINT}"
        raise UsageError(f"The folder {path} holds an unfinished run.", why, remedy)


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in a folder's config.yaml. Raises `UsageError` where it is missing or holds no settings."""
    try:
        settings = yaml.safe_load((path / "config.yaml").read_bytes())
        reason = "It does not map names to values."
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        settings, reason = None, " ".join(str(error).split())
    if not isinstance(settings, dict):
        raise UsageError(f"Cannot read {path / 'config.yaml'}.", reason, OVERWRITE_HINT)
    return settings


def write_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Writes a folder's config.yaml, atomically. Raises `StorageError`."""
    crash_point("config.write")
    write_atomically(path / "config.yaml", CONFIG_HEADING + yaml.safe_dump(json_compatible(settings), sort_keys=False))
