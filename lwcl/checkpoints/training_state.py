"""Training checkpoints: folders of safetensors and JSON, written atomically, verified when read, without pickle.

safetensors has no checksum (97% of random bit flips load silently), does not fsync and writes mode 0600. So a manifest
holds the SHA-256 of each file and of itself, and `atomic_files` writes the bytes.
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
CHECKPOINT_FORMAT = 2  # 1: other names of the state's fields
DAMAGE_ERRORS = (ValueError, KeyError, TypeError, AttributeError, RecursionError, safetensors.SafetensorError)


class Checkpoint(NamedTuple):
    """The step, the groups of tensors (on the CPU) and the metadata (JSON, in which floats are exact)."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    metadata: dict[str, Any]


def save_checkpoint(folder: Path, step: int, tensors: TensorGroups, metadata: Mapping[str, Any], keep: int = 2) -> Path:
    """Write `folder`/step-000500, with one file per group of `tensors` and one for `metadata`; keep the last `keep`.

    After a kill at any moment the newest complete checkpoint is intact. The caller must hold the run folder's lock.
    Raises `StorageError` if the disk refuses; then nothing is left behind and earlier checkpoints are intact.
    """
    final = folder / f"step-{step:06d}"
    size = sum(tensor.nbytes for group in tensors.values() for tensor in group.values())
    with explain_disk_errors(final, size):
        folder.mkdir(parents=True, exist_ok=True)
        sync_folder(folder.parent)
        remove_leftovers(folder, all_processes=True)
        require_free_space(final, size)
        unfinished = temporary_path(final)
        try:
            write_folder(unfinished, checkpoint_files(step, tensors, metadata))
            replace_folder(unfinished, final)
        except BaseException:
            remove_path(unfinished)
            raise
        prune_checkpoints(folder, keep)
    return final


def checkpoint_files(step: int, tensors: TensorGroups, metadata: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    """The names and bytes of a checkpoint's files, one at a time, so that memory does not hold everything twice."""
    state = {"format": CHECKPOINT_FORMAT, "step": step, "metadata": dict(metadata)}
    yield "state.json", json.dumps(state).encode()
    for name, group in tensors.items():
        yield f"{name}{TENSORS_SUFFIX}", safetensors.torch.save(untied_tensors(group))


def write_folder(folder: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Write a new folder of `files` and their manifest, and wait until everything is on disk.

    The manifest lists the size and SHA-256 of each file, and the SHA-256 of that list.
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
    """Rename a complete folder. An existing one is moved aside first, to a name that `latest_checkpoint` also reads."""
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
    """Remove replaced checkpoints and all but the last `keep`; renamed first, so that none is ever incomplete."""
    steps = [path for path in list_checkpoints(folder) if not path.name.endswith("-replaced")]
    for path in set(list_checkpoints(folder)) - set(steps[: max(keep, 1)]):
        doomed = temporary_path(path)
        path.rename(doomed)
        crash_point("checkpoint.prune")
        remove_path(doomed)


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder by step, newest first; a replaced one follows its replacement."""
    matches = [(match, path) for path in folder.glob("step-*") if (match := STEP_FOLDER.fullmatch(path.name))]
    return [path for match, path in sorted(matches, key=lambda pair: (-int(pair[0][1]), pair[0][2] or ""))]


def latest_checkpoint(folder: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """The newest intact checkpoint, or None if none was ever saved. Safe next to a process that saves.

    A damaged one is renamed to corrupt-step-... and reported through `warn`. Raises `StorageError` if all are damaged,
    or the newest was written by another version.
    """
    remove_leftovers(folder)
    damaged = []
    while candidates := [path for path in list_checkpoints(folder) if path not in damaged]:
        try:
            return read_checkpoint(candidates[0])
        except DAMAGE_ERRORS as error:
            newest = candidates[0]
            if os.path.lexists(newest):  # else it was pruned while being read, and a newer one exists
                damaged.append(newest)
                warn(f"Checkpoint {newest.name} is damaged ({error}) and was renamed to {quarantine(newest).name}.")
    if damaged or any(folder.glob("corrupt-step-*")):
        what, why = f"No checkpoint in {folder} is intact.", "Files are missing or changed: the disk may be failing."
        raise StorageError(what, why, "Start again with --overwrite, or with another --out.")
    return None


def quarantine(path: Path) -> Path:
    """Rename a damaged checkpoint so that it is not read again, if the disk allows it. Returns its path."""
    tried = (path.with_name(f"corrupt-{path.name}{f'-{n}' if n else ''}") for n in range(1000))
    aside = next(candidate for candidate in tried if not candidate.exists())
    try:
        return path.rename(aside)
    except OSError:
        return path


def read_checkpoint(path: Path) -> Checkpoint:
    """Read and verify one checkpoint. Raises one of `DAMAGE_ERRORS` if it is not exactly as it was written.

    Raises `StorageError` if another version of lwcl wrote it.
    """
    manifest = json.loads(read_plain_file(path / "manifest.json", 2**20))
    listed = manifest["files"]
    if manifest["sha256"] != sha256_hex(json.dumps(listed).encode()):
        raise ValueError("manifest.json: checksum differs")
    files = {name: read_verified(path, name, entry) for name, entry in listed.items()}
    state = json.loads(files.pop("state.json"))
    if state.get("format") != CHECKPOINT_FORMAT:
        what = f"Checkpoint {path} was written by another version of lwcl."
        raise StorageError(what, remedy="Resume it with that version, or start again with --overwrite.")
    tensors = {name.removesuffix(TENSORS_SUFFIX): safetensors.torch.load(data) for name, data in files.items()}
    return Checkpoint(state["step"], tensors, state["metadata"])


def read_verified(folder: Path, name: str, entry: Mapping[str, Any]) -> bytes:
    """The content of a file in the manifest. Raises `ValueError` if its checksum differs."""
    if Path(name).name != name:
        raise ValueError(f"{name!r}: not a file name")
    data = read_plain_file(folder / name, entry["bytes"])
    if len(data) != entry["bytes"] or sha256_hex(data) != entry["sha256"]:
        raise ValueError(f"{name}: checksum differs")
    return data


def read_plain_file(path: Path, limit: int) -> bytes:
    """The content of a regular file, at most `limit` + 1 bytes.

    Raises `ValueError` if it is not a regular file or reading fails, `StorageError` without permission.
    """
    if path.is_symlink() or not path.is_file():
        raise ValueError(f"{path.name}: not a regular file" if path.exists() else f"{path.name}: missing")
    try:
        with open(path, "rb") as file:
            return file.read(limit + 1)
    except OSError as error:
        if error.errno in (errno.EIO, errno.ENOENT, errno.ESTALE):
            raise ValueError(f"{path.name}: {error.strerror}") from error
        raise StorageError(f"Cannot read {path}.", f"{error.strerror}.", "Check its permissions.") from error


def untied_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as safetensors writes them: detached, contiguous, on the CPU, without shared memory."""
    storages: set[int] = set()
    untied = {}
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        storage = value.untyped_storage().data_ptr()
        untied[name] = value.clone() if storage in storages else value
        storages.add(storage)
    return untied
