"""`lwcl compress --bits`: the float32 twin that a student of few bits starts from, and what its run already settles."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lwcl.errors import UsageError
from lwcl.runs.folder import RunFolder
from lwcl.settings import expand_home, flag_name

SELF = "self"  # --teacher: the twin itself
INHERITED = ("data", "arch", "image_size")  # what the twin's run settles where nobody says otherwise


def with_twin(
    chosen: Mapping[str, Any], file: Mapping[str, Any], file_name: str
) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Flags, the settings of a file and its name, with the twin as `init` and `teacher`, and its run's settings.

    Without `bits` nothing changes. Raises `UsageError` where there is no twin, or settings need `bits`.
    """
    given = {**file, **{name: value for name, value in chosen.items() if value is not None}}
    if given.get("bits") is None:
        reject_without_bits(chosen)
        return {**chosen}, {**file}, file_name
    teacher = given.get("teacher")
    teacher = None if teacher == SELF else teacher
    twin = given.get("init") or teacher
    if not twin:
        what = "--bits needs the float32 encoder that the student starts from."
        raise UsageError(what, remedy="Give --init RUN, or a --teacher RUN of the same architecture.")
    folder = RunFolder(Path(expand_home(twin)))
    known = folder.settings() if folder.config.exists() else {}
    settled = {name: known[name] for name in INHERITED if known.get(name)}
    flags = {**chosen, "teacher": None if chosen.get("teacher") == SELF else chosen.get("teacher")}
    name = file_name if file or not settled else str(folder.config)
    return flags, {**settled, **file, "init": given.get("init") or twin, "teacher": teacher or twin}, name


def reject_without_bits(chosen: Mapping[str, Any]) -> None:
    """Raises `UsageError` for flags that mean something only with `--bits`."""
    lost = [name for name in ("activation_bits", "bits_by") if chosen.get(name) is not None]
    lost += ["teacher"] if chosen.get("teacher") == SELF else []
    if lost:
        text = f"--teacher {SELF}" if lost[0] == "teacher" else flag_name(lost[0])
        raise UsageError(f"{text} requires --bits.", remedy=f"Give --bits, or remove {text}.")
