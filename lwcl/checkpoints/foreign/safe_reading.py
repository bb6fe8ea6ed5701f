"""Reads untrusted files: nothing in them is executed, and no file can claim more memory than its own size.

The only place where `torch.load` is called, always with `weights_only=True` (sound from torch 2.10 on, CVE-2026-24747).
Before that, the pickle is scanned against a list of allowed names: torch itself lets files call `bytearray(10**12)`.
"""

import io
import os
import pickletools
import stat
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lwcl.errors import UsageError

ZIP_SIGNATURE, SAFETENSORS_SIGNATURE = b"PK\x03\x04", b"{"
#: the pickled magic number of torch.save before torch 1.6
LEGACY_SIGNATURE = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
LEGACY_PICKLES = 5  # magic number, protocol, system, content, keys of the storages
MAX_DESCRIPTION = 16 << 20  # bytes of a pickle, header or table of contents; a full ResNet-50 checkpoint has 0.2 MB
MAX_PICKLE_STEPS = 500_000  # a full ResNet-50 checkpoint has 20,000
MAX_TENSORS = 20_000  # of a safetensors file

STORAGE_TYPES = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
TENSOR_DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
ALLOWED_GLOBALS = {
    *(f"torch {name}Storage" for name in STORAGE_TYPES),
    *(f"torch {name}" for name in (*TENSOR_DTYPES, "device", "Size")),
}
ALLOWED_GLOBALS |= {f"torch._utils {name}" for name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter")}
ALLOWED_GLOBALS |= {"collections OrderedDict", "torch.nn.parameter Parameter", "argparse Namespace"}


class IgnoredNamespace:
    """Replaces the `argparse.Namespace` in files of CompRess and DINO, which save their options; does nothing."""

    def __setstate__(self, state: object) -> None:
        """Ignores the state in the file."""


def unreadable_file_error(path: Path, why: str, remedy: str = "") -> UsageError:
    """The error for a file that is not a readable checkpoint."""
    return UsageError(f"{path}: not readable as an encoder.", why, remedy or "Is the file complete, and a checkpoint?")


def file_kind(path: Path) -> bytes:
    """The signature of a file: zip, legacy or safetensors. Raises `UsageError` for anything else; never blocks."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise unreadable_file_error(path, "It is a folder, pipe, socket or device.", "Give a regular file.")
        with open(path, "rb") as file:
            begins = file.read(max(9, len(LEGACY_SIGNATURE)))
    except OSError as error:
        raise unreadable_file_error(path, f"{error.strerror}.", "Check the path and its permissions.") from error
    for kind in (ZIP_SIGNATURE, LEGACY_SIGNATURE):
        if begins.startswith(kind):
            return kind
    if begins[8:9] == SAFETENSORS_SIGNATURE and int.from_bytes(begins[:8], "little") <= min(
        status.st_size - 8, MAX_DESCRIPTION
    ):
        return SAFETENSORS_SIGNATURE
    why = "It is empty." if not begins else f"It starts with {begins!r}: neither torch.save nor safetensors."
    raise unreadable_file_error(path, why)


def read_untrusted(path: Path) -> Any:
    """The content of a checkpoint: numbers, text, lists, dicts, tensors on the CPU. Raises `UsageError`."""
    kind = file_kind(path)
    try:
        if kind == SAFETENSORS_SIGNATURE:
            return read_safetensors(path)
        if kind == ZIP_SIGNATURE:
            check_pickle(path, read_zip_pickle(path), 1)
        else:
            with open(path, "rb") as file:
                check_pickle(path, file.read(MAX_DESCRIPTION), LEGACY_PICKLES)
        inert: Any = (IgnoredNamespace, "argparse.Namespace")
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals([inert]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=kind == ZIP_SIGNATURE)
    except UsageError:
        raise
    except Exception as error:  # a damaged file may raise anything
        first = next(iter(str(error).splitlines()), "")[:200]
        raise unreadable_file_error(path, f"It is damaged: {type(error).__name__}: {first}") from error


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, which checks its offsets itself. Raises `UsageError` for too many."""
    with safe_open(path, "pt") as file:
        names = file.keys()
        if len(names) > MAX_TENSORS:
            raise unreadable_file_error(path, f"It has {len(names):,} tensors; lwcl reads up to {MAX_TENSORS:,}.")
        return {name: file.get_tensor(name) for name in names}


def is_lwcl_file(path: Path) -> bool:
    """Whether lwcl wrote this file. Raises `UsageError` if it is not readable."""
    if file_kind(path) != SAFETENSORS_SIGNATURE:
        return False
    try:
        with safe_open(path, "pt") as file:
            return "lwcl" in (file.metadata() or {})
    except SafetensorError as error:
        raise unreadable_file_error(path, f"It is damaged: {error}") from error


def read_zip_pickle(path: Path) -> bytes:
    """The pickle of a `torch.save` archive, which must not claim more bytes than the file has. Raises `UsageError`."""
    size = path.stat().st_size
    if zip_directory_bytes(path) > MAX_DESCRIPTION:
        raise unreadable_file_error(path, "Its zip directory is larger than any checkpoint's.")
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
        if packed or sum(entry.file_size for entry in entries) > size:
            raise unreadable_file_error(path, "It is a compressed archive, or claims more bytes than it has.")
        names = [entry.filename.partition("/")[2] for entry in entries]
        if names.count("data.pkl") != 1 or "constants.pkl" in names or len(set(names)) < len(names):
            why = "It is an archive, but not of torch.save: TorchScript, an exported program (.pt2) or other data."
            raise unreadable_file_error(path, why, "Save the model's state_dict() with torch.save or safetensors.")
        entry = entries[names.index("data.pkl")]
        if entry.file_size > MAX_DESCRIPTION:
            raise unreadable_file_error(path, "Its pickle is larger than any checkpoint's.")
        return archive.read(entry)


def zip_directory_bytes(path: Path) -> int:
    """The size that a zip archive states for its central directory (APPNOTE 4.3.14 and 4.3.16), before reading it."""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 66_000))
        tail = file.read()
    sizes = [0]
    for mark, place, form in ((b"PK\x05\x06", 12, "<I"), (b"PK\x06\x06", 40, "<Q")):
        begin = tail.rfind(mark) + place
        if begin >= place and begin + struct.calcsize(form) <= len(tail):
            sizes.append(struct.unpack_from(form, tail, begin)[0])
    return max(size for size in sizes if size != 0xFFFFFFFF)  # which means: see the zip64 record


def check_pickle(path: Path, pickles: bytes, count: int) -> None:
    """Scans pickles without running them. Raises `UsageError` for disallowed globals, or too many steps."""
    stream, steps = io.BytesIO(pickles), 0
    strange: set[str] = set()
    for _ in range(count):
        for step, named, _ in pickletools.genops(stream):
            steps += 1
            if steps > MAX_PICKLE_STEPS:
                raise unreadable_file_error(path, "Its pickle has more steps than any checkpoint's.")
            if step.name == "GLOBAL" and named not in ALLOWED_GLOBALS:
                strange.add(str(named).replace(" ", "."))
            elif step.name in ("STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4"):
                strange.add(f"the pickle step {step.name}")
    if strange:
        raise unreadable_file_error(
            path,
            f"It holds more than tensors and plain values: {', '.join(sorted(strange)[:5])}. No code was run.",
            "If you trust its origin, save only its tensors: torch.save(checkpoint['state_dict'], 'weights.pth').",
        )


def named_tensors(path: Path, content: Mapping[Any, Any]) -> dict[str, Tensor]:
    """The tensors of a dict by name. Raises `UsageError` if one claims more elements than the file can hold."""
    tensors = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    size = path.stat().st_size
    for name, tensor in tensors.items():
        storage_bytes = tensor.untyped_storage().nbytes()
        if not tensor.numel() * tensor.element_size() <= storage_bytes <= size:
            raise unreadable_file_error(
                path, f"Its tensor {name} of shape {tuple(tensor.shape)} is larger than the file."
            )
    return {name: tensor.detach() for name, tensor in tensors.items()}
