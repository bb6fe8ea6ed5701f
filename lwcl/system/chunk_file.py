"""A file that is filled in chunks, for results that take long to compute; each chunk is recorded with its SHA-256.

A chunk is written and synced, then recorded in a line of the notes. A kill costs the current chunk; a chunk that is
truncated, damaged or lost counts as missing, and the others stay.
"""

import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from lwcl.system.atomic_files import crash_point, remove_leftovers, require_free_space, write_and_sync, write_atomically

CONTENT, NOTES = "rows.bin", "chunks.jsonl"


class ChunkFile:
    """Consecutive chunks of given sizes in bytes, in `folder`. The writer must hold a lock on the folder.

    `noted` holds the SHA-256 of the finished chunks by number.
    """

    def __init__(self, folder: Path, sizes: Sequence[int]) -> None:
        self.folder = folder
        self.starts = [0, *itertools.accumulate(sizes)]
        self.noted: dict[int, str] = {}
        self._verified: set[int] = set()  # chunks that were read and match their SHA-256

    @property
    def path(self) -> Path:
        """The file of the chunks."""
        return self.folder / CONTENT

    def missing(self) -> list[int]:
        """The numbers of the missing chunks."""
        return [chunk for chunk in range(len(self.starts) - 1) if chunk not in self.noted]

    def learn(self) -> None:
        """Reads which chunks are finished: those that are recorded, and within the file."""
        size = self.path.stat().st_size if self.path.exists() else 0
        lines = (self.folder / NOTES).read_bytes().splitlines() if (self.folder / NOTES).exists() else []
        within = sum(start <= size for start in self.starts[1:])
        self.noted = {chunk: digest for chunk, digest in map(parse_note, lines) if 0 <= chunk < within}

    def begin(self) -> None:
        """Creates the folder, the file at its full length, and the notes. Raises `StorageError` if they do not fit."""
        require_free_space(self.folder, sum(self.starts[chunk + 1] - self.starts[chunk] for chunk in self.missing()))
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.folder, all_processes=True)
        with open(self.path, "ab") as file:
            file.truncate(self.starts[-1])
        self.note_all()

    def note_all(self) -> None:
        """Rewrites the notes, without dropped chunks and truncated lines."""
        write_atomically(self.folder / NOTES, "".join(note_line(*note) for note in self.noted.items()))

    def write(self, chunk: int, content: bytes) -> None:
        """Writes a chunk, then its note; call `begin` before."""
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
        """Which of these chunks do not match their SHA-256. Each intact chunk is read only once."""
        fresh = [chunk for chunk in chunks if chunk not in self._verified]
        if fresh:
            with open(self.path, "rb") as file:
                for chunk in fresh:
                    file.seek(self.starts[chunk])
                    content = file.read(self.starts[chunk + 1] - self.starts[chunk])
                    if hashlib.sha256(content).hexdigest() == self.noted.get(chunk):
                        self._verified.add(chunk)
        return [chunk for chunk in fresh if chunk not in self._verified]

    def drop(self, chunks: Iterable[int]) -> None:
        """Marks chunks as missing; on disk, too, once `note_all` is called."""
        self.noted = {chunk: digest for chunk, digest in self.noted.items() if chunk not in set(chunks)}


def note_line(chunk: int, digest: str) -> str:
    """A line of the notes."""
    return json.dumps([chunk, digest]) + "\n"


def parse_note(line: bytes) -> tuple[int, str]:
    """The chunk and its SHA-256 in a line; -1 if the line is invalid."""
    try:
        chunk, digest = json.loads(line)
        return int(chunk), str(digest)
    except (ValueError, TypeError):
        return -1, ""
