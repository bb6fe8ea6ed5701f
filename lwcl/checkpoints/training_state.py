"""A run's whole state in a folder of safetensors and JSON: written whole or not at all, verified when read, no pickle.

safetensors has no checksum (97% of random bit flips load silently), does not fsync and writes mode 0600. So a SHA-256
of each file stands in a manifest that holds its own, and `storage` writes the bytes.
"""

import errno
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
from torch import Tensor

from lwcl.checkpoints.tied_tensors import untied_tensors
from lwcl.errors import StorageError
from lwcl.system.atomic_files import (
    crash_point,
    explain_disk_errors,
    remove_leftovers,
    remove_path,
    require_free_space,
    sync_folder,
    temporary_path,
    write_synced,
)

TensorGroups = Mapping[str, Mapping[str, Tensor]]
STEP_FOLDER = re.compile(r"step-(\d{6,18})(-replaced)?")
TENSORS_SUFFIX = ".safetensors"
DAMAGE_ERRORS = (ValueError, KeyError, TypeError, AttributeError, RecursionError, safetensors.SafetensorError)


class Checkpoint(NamedTuple):
    """What was saved: the step, the groups of tensors (on the CPU) and the facts (JSON; floats come back exactly)."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    facts: dict[str, Any]


def save_checkpoint(folder: Path, step: int, tensors: TensorGroups, facts: Mapping[str, Any], keep: int = 2) -> Path:
    """Write `folder`/step-000500: a file for each group of `tensors`, one for `facts`; keep the last `keep` steps.

    Killed at any moment, the newest checkpoint that was whole stays so. For who holds the run folder's lock.
    Raises `StorageError` when the disk refuses; then nothing is left behind and the checkpoints before are intact.
    """
    final = folder / f"step-{step:06d}"
    size = sum(tensor.nbytes for group in tensors.values() for tensor in group.values())
    with explain_disk_errors(final, size):
        folder.mkdir(parents=True, exist_ok=True)
        sync_folder(folder.parent)
        remove_leftovers(folder, of_the_living=True)
        require_free_space(final, size)
        unfinished = temporary_path(final)
        try:
            write_folder(unfinished, checkpoint_files(step, tensors, facts))
            replace_folder(unfinished, final)
        except BaseException:
            remove_path(unfinished)
            raise
        prune_checkpoints(folder, keep)
    return final


def checkpoint_files(step: int, tensors: TensorGroups, facts: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    """The names and bytes of a checkpoint's files, made one at a time: the whole is not in memory twice."""
    yield "state.json", json.dumps({"step": step, "facts": dict(facts)}).encode()
    for name, group in tensors.items():
        yield f"{name}{TENSORS_SUFFIX}", safetensors.torch.save(untied_tensors(group))


def write_folder(folder: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Write a new folder of `files`, then the manifest that vouches for them, and wait until the disk has it all.

    The manifest lists each file's bytes and SHA-256, and the SHA-256 of that list itself.
    """
    folder.mkdir()
    crash_point("checkpoint.mkdir")
    listed = {}
    for name, data in files:
        write_synced(folder / name, data)
        listed[name] = {"bytes": len(data), "sha256": sha256_hex(data)}
        crash_point("checkpoint.file")
    manifest = {"files": listed, "sha256": sha256_hex(json.dumps(listed).encode())}
    write_synced(folder / "manifest.json", json.dumps(manifest, indent=1).encode())
    crash_point("checkpoint.manifest")
    sync_folder(folder)
    crash_point("checkpoint.sync")


def sha256_hex(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def replace_folder(unfinished: Path, final: Path) -> None:
    """Rename a finished folder. One of the same step is put aside first, under a name that `latest` reads too."""
    if final.exists():
        aside = final.with_name(f"{final.name}-replaced")
        remove_path(aside)
        final.rename(aside)
        crash_point("checkpoint.replace")
    crash_point("checkpoint.rename.before")
    unfinished.rename(final)
    crash_point("checkpoint.rename.after")
    sync_folder(final.parent)


def prune_checkpoints(folder: Path, keep: int) -> None:
    """Remove replaced checkpoints and all but the last `keep`; renamed first: no kill, no reader meets half of one."""
    steps = [path for path in list_checkpoints(folder) if not path.name.endswith("-replaced")]
    for path in set(list_checkpoints(folder)) - set(steps[: max(keep, 1)]):
        doomed = temporary_path(path)
        path.rename(doomed)
        crash_point("checkpoint.prune")
        remove_path(doomed)


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder by step, newest first; a replaced one comes after the one that replaced it."""
    found = [(match, path) for path in folder.glob("step-*") if (match := STEP_FOLDER.fullmatch(path.name))]
    return [path for match, path in sorted(found, key=lambda pair: (-int(pair[0][1]), pair[0][2] or ""))]


def latest_checkpoint(folder: Path, tell: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that is whole, or None where none was ever saved. May run beside a process that saves.

    A damaged one is renamed to corrupt-step-..., and `tell` gets a sentence. Raises `StorageError` if all are damaged.
    """
    remove_leftovers(folder)
    damaged = []
    while found := [path for path in list_checkpoints(folder) if path not in damaged]:
        try:
            return read_checkpoint(found[0])
        except DAMAGE_ERRORS as error:
            if os.path.lexists(found[0]):  # else it was pruned while being read, and there is a newer one
                damaged.append(found[0])
                tell(f"Checkpoint {found[0].name} is damaged ({error}) and set aside as {quarantine(found[0]).name}.")
    if damaged or any(folder.glob("corrupt-step-*")):
        what, why = f"No checkpoint in {folder} is whole.", "Files are missing or changed: the disk may be failing."
        raise StorageError(what, why, "Start anew with --overwrite, or with another --out.")
    return None


def quarantine(path: Path) -> Path:
    """Rename a damaged checkpoint so that it is not read again; on a read-only disk it stays. Returns where it is."""
    tried = (path.with_name(f"corrupt-{path.name}{f'-{n}' if n else ''}") for n in range(1000))
    aside = next(candidate for candidate in tried if not candidate.exists())
    try:
        return path.rename(aside)
    except OSError:
        return path


def read_checkpoint(path: Path) -> Checkpoint:
    """Read and verify one checkpoint folder. Raises one of `DAMAGE` when anything in it is not as it was written."""
    manifest = json.loads(read_plain_file(path / "manifest.json", 2**20))
    listed = manifest["files"]
    if manifest["sha256"] != sha256_hex(json.dumps(listed).encode()):
        raise ValueError("manifest.json: checksum differs")
    files = {name: read_verified(path, name, entry) for name, entry in listed.items()}
    state = json.loads(files.pop("state.json"))
    tensors = {name.removesuffix(TENSORS_SUFFIX): safetensors.torch.load(data) for name, data in files.items()}
    return Checkpoint(state["step"], tensors, state["facts"])


def read_verified(folder: Path, name: str, entry: Mapping[str, Any]) -> bytes:
    """The content of a file that the manifest vouches for. Raises `ValueError` when it is not that content."""
    if Path(name).name != name:
        raise ValueError(f"{name!r}: not a file name")
    data = read_plain_file(folder / name, entry["bytes"])
    if len(data) != entry["bytes"] or sha256_hex(data) != entry["sha256"]:
        raise ValueError(f"{name}: checksum differs")
    return data


def read_plain_file(path: Path, most: int) -> bytes:
    """The content of a plain file, `most` + 1 bytes of it at the most.

    Raises `ValueError` for what is no plain file or fails to read, `StorageError` for what must not be read.
    """
    if path.is_symlink() or not path.is_file():
        raise ValueError(f"{path.name}: not a plain file" if path.exists() else f"{path.name}: missing")
    try:
        with open(path, "rb") as file:
            return file.read(most + 1)
    except OSError as error:
        if error.errno in (errno.EIO, errno.ENOENT, errno.ESTALE):
            raise ValueError(f"{path.name}: {error.strerror}") from error
        raise StorageError(f"Cannot read {path}.", f"{error.strerror}.", "Check its permissions.") from error
