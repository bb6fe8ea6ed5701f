"""A run's whole state in a folder of safetensors and JSON: written whole or not at all, verified when read, no pickle.

safetensors has no checksum (97 % of random bit flips load silently), does not fsync and writes mode 0600. So a SHA-256
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

from lwcl.errors import StorageError
from lwcl.system.atomic_files import (
    clear_leftovers,
    explained,
    fault,
    need_space,
    remove,
    sync_folder,
    temporary,
    write_synced,
)

Groups = Mapping[str, Mapping[str, Tensor]]
STEP = re.compile(r"step-(\d{6,18})(-replaced)?")
SUFFIX = ".safetensors"
DAMAGE = (ValueError, KeyError, TypeError, AttributeError, RecursionError, safetensors.SafetensorError)


class Checkpoint(NamedTuple):
    """What was saved: the step, the groups of tensors (on the CPU) and the facts (JSON; floats come back exactly)."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    facts: dict[str, Any]


def save(folder: Path, step: int, tensors: Groups, facts: Mapping[str, Any], keep: int = 2) -> Path:
    """Write `folder`/step-000500: a file for each group of `tensors`, one for `facts`; keep the last `keep` steps.

    Killed at any moment, the newest checkpoint that was whole stays so. For who holds the run folder's lock.
    Raises `StorageError` when the disk refuses; then nothing is left behind and the checkpoints before are intact.
    """
    final = folder / f"step-{step:06d}"
    size = sum(tensor.nbytes for group in tensors.values() for tensor in group.values())
    with explained(final, size):
        folder.mkdir(parents=True, exist_ok=True)
        sync_folder(folder.parent)
        clear_leftovers(folder, of_the_living=True)
        need_space(final, size)
        unfinished = temporary(final)
        try:
            write_folder(unfinished, contents(step, tensors, facts))
            put_in_place(unfinished, final)
        except BaseException:
            remove(unfinished)
            raise
        prune(folder, keep)
    return final


def contents(step: int, tensors: Groups, facts: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    """The names and bytes of a checkpoint's files, made one at a time: the whole is not in memory twice."""
    yield "state.json", json.dumps({"step": step, "facts": dict(facts)}).encode()
    for name, group in tensors.items():
        yield f"{name}{SUFFIX}", safetensors.torch.save(unshared(group))


def unshared(group: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as safetensors takes them: contiguous, on the CPU, each with memory of its own (tied ones twice)."""
    owners: set[int] = set()
    own = {}
    for name, tensor in group.items():
        value = tensor.detach().cpu().contiguous()
        memory = value.untyped_storage().data_ptr()
        own[name] = value.clone() if memory in owners else value
        owners.add(memory)
    return own


def write_folder(folder: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Write a new folder of `files`, then the manifest that vouches for them, and wait until the disk has it all.

    The manifest lists each file's bytes and SHA-256, and the SHA-256 of that list itself.
    """
    folder.mkdir()
    fault("checkpoint.mkdir")
    listed = {}
    for name, data in files:
        write_synced(folder / name, data)
        listed[name] = {"bytes": len(data), "sha256": digest(data)}
        fault("checkpoint.file")
    manifest = {"files": listed, "sha256": digest(json.dumps(listed).encode())}
    write_synced(folder / "manifest.json", json.dumps(manifest, indent=1).encode())
    fault("checkpoint.manifest")
    sync_folder(folder)
    fault("checkpoint.sync")


def digest(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def put_in_place(unfinished: Path, final: Path) -> None:
    """Rename a finished folder. One of the same step is put aside first, under a name that `latest` reads too."""
    if final.exists():
        aside = final.with_name(f"{final.name}-replaced")
        remove(aside)
        final.rename(aside)
        fault("checkpoint.replace")
    fault("checkpoint.rename.before")
    unfinished.rename(final)
    fault("checkpoint.rename.after")
    sync_folder(final.parent)


def prune(folder: Path, keep: int) -> None:
    """Remove replaced checkpoints and all but the last `keep`; renamed first: no kill, no reader meets half of one."""
    steps = [path for path in newest_first(folder) if not path.name.endswith("-replaced")]
    for path in set(newest_first(folder)) - set(steps[: max(keep, 1)]):
        doomed = temporary(path)
        path.rename(doomed)
        fault("checkpoint.prune")
        remove(doomed)


def newest_first(folder: Path) -> list[Path]:
    """The checkpoints in a folder by step, newest first; a replaced one comes after the one that replaced it."""
    found = [(match, path) for path in folder.glob("step-*") if (match := STEP.fullmatch(path.name))]
    return [path for match, path in sorted(found, key=lambda pair: (-int(pair[0][1]), pair[0][2] or ""))]


def latest(folder: Path, tell: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that is whole, or None where none was ever saved. May run beside a process that saves.

    A damaged one is renamed to corrupt-step-..., and `tell` gets a sentence. Raises `StorageError` if all are damaged.
    """
    clear_leftovers(folder)
    damaged = []
    while found := [path for path in newest_first(folder) if path not in damaged]:
        try:
            return read(found[0])
        except DAMAGE as error:
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


def read(path: Path) -> Checkpoint:
    """Read and verify one checkpoint folder. Raises one of `DAMAGE` when anything in it is not as it was written."""
    manifest = json.loads(plain_bytes(path / "manifest.json", 2**20))
    listed = manifest["files"]
    if manifest["sha256"] != digest(json.dumps(listed).encode()):
        raise ValueError("manifest.json: checksum differs")
    files = {name: verified(path, name, entry) for name, entry in listed.items()}
    state = json.loads(files.pop("state.json"))
    tensors = {name.removesuffix(SUFFIX): safetensors.torch.load(data) for name, data in files.items()}
    return Checkpoint(state["step"], tensors, state["facts"])


def verified(folder: Path, name: str, entry: Mapping[str, Any]) -> bytes:
    """The content of a file that the manifest vouches for. Raises `ValueError` when it is not that content."""
    if Path(name).name != name:
        raise ValueError(f"{name!r}: not a file name")
    data = plain_bytes(folder / name, entry["bytes"])
    if len(data) != entry["bytes"] or digest(data) != entry["sha256"]:
        raise ValueError(f"{name}: checksum differs")
    return data


def plain_bytes(path: Path, most: int) -> bytes:
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
