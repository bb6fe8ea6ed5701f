"""Arrays and facts in one file of the cache folder that is memory-mapped when it is opened again.

A line (a checksum of all that follows; as JSON what it is valid for, facts, where each array lies), then the arrays.
"""

import contextlib
import hashlib
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lwcl.errors import LwclError
from lwcl.system.atomic_files import cache_folder, crash_point, write_atomically

ALIGNMENT = 64  # bytes
CHECKSUM_BYTES = 9  # eight digits and a blank


class Index(NamedTuple):
    """What an index file holds."""

    facts: dict[str, Any]
    arrays: Mapping[str, npt.NDArray[Any]]


def index_path(key: bytes) -> Path:
    """The index file of the data that `key` names."""
    return cache_folder() / "index" / f"{hashlib.sha256(key).hexdigest()[:32]}.idx"


def read_index(file: Path, valid: list[Any]) -> Index | None:
    """The index that was written with these `valid` values; None if there is none, or it is damaged."""
    with contextlib.suppress(Exception):  # a damaged file may raise anything
        with open(file, "rb") as opened:
            line = opened.readline()
        checksum, _, text = line.partition(b" ")
        head = json.loads(text)
        if head["valid"] == valid:
            body = np.memmap(file, np.uint8, "r", len(line))
            if zlib.crc32(body.data, zlib.crc32(text)) == int(checksum, 16):
                arrays = {}
                for name, (dtype, count, offset) in head["arrays"].items():
                    size = np.dtype(dtype).itemsize * count
                    arrays[name] = np.asarray(body[offset : offset + size]).view(dtype)
                return Index(head["facts"], arrays)
    return None


def write_index(file: Path, valid: list[Any], index: Index) -> None:
    """Write an index; a cache folder that cannot be written is no error."""
    places, pieces, offset = {}, [], 0
    for name, array in index.arrays.items():
        places[name] = (array.dtype.str, len(array), offset)
        data = array.tobytes()
        pieces.append(data + bytes(-len(data) % ALIGNMENT))
        offset += len(pieces[-1])
    body = b"".join(pieces)
    head = json.dumps({"valid": valid, "facts": index.facts, "arrays": places}).encode()
    text = head + b" " * (-(len(head) + CHECKSUM_BYTES + 1) % ALIGNMENT) + b"\n"
    line = b"%08x " % zlib.crc32(body, zlib.crc32(text)) + text
    crash_point("index.write")
    with contextlib.suppress(LwclError):
        write_atomically(file, line + body)
