"""A file that is filled in chunks, each noted with its SHA-256 when the disk has it: for what takes long to compute.

A chunk is written and synced, then a line of the notes tells so. A kill costs the chunk at hand; a chunk that is cut,
flipped or lost counts as not there, and the others stay.
"""

import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

from lwcl.system.atomic_files import crash_point, remove_leftovers, require_free_space, write_atomically

CONTENT, NOTES = "rows.bin", "chunks.jsonl"


class ChunkFile:
    """Chunks of given sizes in bytes, one behind the other, in `folder`. Who writes must hold a lock on the folder.

    `noted` has the SHA-256 of the chunks that are there, by their numbers.
    """

    def __init__(self, folder: Path, sizes: Sequence[int]) -> None:
        self.folder = folder
        self.starts = [0, *itertools.accumulate(sizes)]
        self.noted: dict[int, str] = {}
        self._sound: set[int] = set()  # chunks that were read and are as they were written

    @property
    def path(self) -> Path:
        """The file of the chunks."""
        return self.folder / CONTENT

    def missing(self) -> list[int]:
        """The chunks that are not there."""
        return [chunk for chunk in range(len(self.starts) - 1) if chunk not in self.noted]

    def learn(self) -> None:
        """Reads which chunks are there: those that are noted, and within the file."""
        size = self.path.stat().st_size if self.path.exists() else 0
        lines = (self.folder / NOTES).read_bytes().splitlines() if (self.folder / NOTES).exists() else []
        within = sum(start <= size for start in self.starts[1:])
        self.noted = {chunk: digest for chunk, digest in map(parse_note, lines) if 0 <= chunk < within}

    def begin(self) -> None:
        """Makes the folder, the file at its full length and the notes. Raises `StorageError` if the rest cannot fit."""
        require_free_space(self.folder, sum(self.starts[chunk + 1] - self.starts[chunk] for chunk in self.missing()))
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.folder, of_the_living=True)
        with open(self.path, "ab") as file:
            file.truncate(self.starts[-1])
        self.note_all()

    def note_all(self) -> None:
        """Writes the notes anew: a last line that was cut off, or a chunk that was dropped, is gone from them."""
        write_atomically(self.folder / NOTES, "".join(note_line(*note) for note in self.noted.items()))

    def write(self, chunk: int, content: bytes) -> None:
        """Puts a chunk on disk, then its note; after `begin`."""
        with open(self.path, "r+b") as file:
            file.seek(self.starts[chunk])
            write_and_sync(file, content)
        crash_point("chunk.written")
        digest = hashlib.sha256(content).hexdigest()
        with open(self.folder / NOTES, "ab") as file:
            write_and_sync(file, note_line(chunk, digest).encode())
        crash_point("chunk.noted")
        self.noted[chunk] = digest

    def damaged(self, chunks: Iterable[int]) -> list[int]:
        """Which of some chunks are not there as they were written. Each sound one is read once."""
        fresh = [chunk for chunk in chunks if chunk not in self._sound]
        if fresh:
            with open(self.path, "rb") as file:
                for chunk in fresh:
                    file.seek(self.starts[chunk])
                    content = file.read(self.starts[chunk + 1] - self.starts[chunk])
                    if hashlib.sha256(content).hexdigest() == self.noted.get(chunk):
                        self._sound.add(chunk)
        return [chunk for chunk in fresh if chunk not in self._sound]

    def drop(self, chunks: Iterable[int]) -> None:
        """Counts chunks as not there; on disk too once `note_all` is called."""
        self.noted = {chunk: digest for chunk, digest in self.noted.items() if chunk not in set(chunks)}


def write_and_sync(file: BinaryIO, content: bytes) -> None:
    """Writes and waits until the disk has it."""
    file.write(content)
    file.flush()
    os.fsync(file.fileno())


def note_line(chunk: int, digest: str) -> str:
    """A line of the notes."""
    return json.dumps([chunk, digest]) + "\n"


def parse_note(line: bytes) -> tuple[int, str]:
    """The chunk and its SHA-256 that a line tells; -1 for what is no note."""
    try:
        chunk, digest = json.loads(line)
        return int(chunk), str(digest)
    except (ValueError, TypeError):
        return -1, ""
