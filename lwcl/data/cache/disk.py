"""Images decoded and shrunk, on disk under the cache folder, where the next run finds them by what they are.

Their bytes are appended and synced, then noted in a file of rows, so a filling that was killed goes on where it was;
the folder gets its name when it is whole. One process fills, others that want the same wait for it. What is not whole
is made anew.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import PIL

from lwcl.data.cache.decode_all import CacheFormat, DecodedChunk
from lwcl.data.cache.pixels import ImageIndex
from lwcl.data.dataset import ImageSet
from lwcl.data.decode import DECODER_VERSION
from lwcl.errors import StorageError
from lwcl.system.atomic_files import (
    cache_folder,
    crash_point,
    explain_disk_errors,
    remove_path,
    sha256_file,
    sync_folder,
    write_atomically,
)

SYNC_BYTES, SYNC_IMAGES = 64 * 2**20, 2048  # between two notes, at most: what a kill can cost
CONTENT, ROWS, MANIFEST = "content.bin", "rows.jsonl", "manifest.json"


def disk_cache_folder(images: ImageSet, short_side: int | None, form: CacheFormat = "pixels") -> Path:
    """Where these images are kept in this form."""
    key = f"{images.fingerprint}/{short_side}/{form}/{DECODER_VERSION}/{PIL.__version__}"
    return cache_folder() / "store" / hashlib.sha256(key.encode()).hexdigest()[:32]


def bytes_on_disk(folder: Path) -> int:
    """Bytes that are in a store's file, whole or not."""
    files = (folder / CONTENT, folder.with_suffix(".part") / CONTENT)
    return max((file.stat().st_size for file in files if file.exists()), default=0)


def open_or_build(
    folder: Path, images: ImageSet, chunks: Callable[[ImageIndex], Iterator[DecodedChunk]]
) -> tuple[Path, ImageIndex]:
    """The file of bytes and its rows that are kept in `folder`; made of `chunks(done)` if not there.

    Raises `StorageError` when the disk refuses, and what `chunks` raises: then what is done stays for the next time.
    """
    with explain_disk_errors(folder), wait_for_lock(folder.with_suffix(".lock")):
        rows = read_complete_index(folder, len(images))
        if rows is None:
            remove_path(folder)
            unfinished = folder.with_suffix(".part")
            append_missing(unfinished, chunks)
            finish_disk_cache(unfinished, folder, len(images))
            rows = read_complete_index(folder, len(images))
    if rows is None:
        raise StorageError(f"{str(folder)!r} was changed while it was made.", remedy="Run again, or with --cache off.")
    return folder / CONTENT, rows


@contextlib.contextmanager
def wait_for_lock(lock: Path) -> Iterator[None]:
    """Wait until no other process holds `lock`, then hold it. A record lock: it goes with this process (fcntl(2))."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.lockf(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def read_complete_index(folder: Path, count: int) -> ImageIndex | None:
    """The rows of a finished store of `count` images; None if it is missing, stale or not as its manifest says."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        size = (folder / CONTENT).stat().st_size
        if manifest != {"images": count, "bytes": size, "rows": sha256_file(folder / ROWS)}:
            return None
    except (OSError, ValueError):
        return None
    rows = read_partial_index(folder)
    whole = len(rows.sizes) == count and sum(rows.lengths) == size
    return rows if whole and content_is_intact(folder / CONTENT, rows) else None


def content_is_intact(content: Path, rows: ImageIndex) -> bool:
    """Whether all bytes are as they were written: they are read once, a second for a gigabyte or so."""
    with open(content, "rb") as file:
        return all(
            zlib.crc32(file.read(size)) == checksum for size, checksum in zip(rows.lengths, rows.checksums, strict=True)
        )


def read_partial_index(folder: Path) -> ImageIndex:
    """The rows noted so far; a last line that was cut off does not count."""
    rows = ImageIndex([], [], [], [])
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError), open(folder / ROWS) as file:
        for line in file:
            noted: dict[str, Any] = json.loads(line)
            sizes, bad = ([(one, other) for one, other in noted[name]] for name in ("sizes", "bad"))
            rows.extend(ImageIndex(sizes, noted["lengths"], noted["checksums"], bad))
    return rows


def append_missing(unfinished: Path, chunks: Callable[[ImageIndex], Iterator[DecodedChunk]]) -> None:
    """Write what is missing of a store: the images' bytes first, their rows when they are on disk."""
    unfinished.mkdir(exist_ok=True)
    done = read_partial_index(unfinished)
    if not (unfinished / CONTENT).exists() or (unfinished / CONTENT).stat().st_size < sum(done.lengths):
        done = ImageIndex([], [], [], [])
    write_atomically(unfinished / ROWS, index_line(done) if done.sizes else "")
    with open(unfinished / CONTENT, "ab") as content, open(unfinished / ROWS, "ab") as rows:
        content.truncate(sum(done.lengths))
        waiting = ImageIndex([], [], [], [])
        for chunk in chunks(done):
            content.write(chunk.content)
            waiting.extend(chunk.rows)
            if sum(waiting.lengths) >= SYNC_BYTES or len(waiting.lengths) >= SYNC_IMAGES:
                append_index_line(content, rows, waiting)
                waiting = ImageIndex([], [], [], [])
        append_index_line(content, rows, waiting)


def append_index_line(content: BinaryIO, rows: BinaryIO, waiting: ImageIndex) -> None:
    """Sync the content, then the line that says it is there."""
    for file, text in ((content, ""), (rows, index_line(waiting))):
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())
        crash_point("store.rows")


def index_line(rows: ImageIndex) -> str:
    """Rows as a line of JSON."""
    return json.dumps(rows._asdict()) + "\n"


def finish_disk_cache(unfinished: Path, folder: Path, count: int) -> None:
    """Give a whole store its manifest, then its name."""
    manifest = {"images": count, "bytes": (unfinished / CONTENT).stat().st_size, "rows": sha256_file(unfinished / ROWS)}
    write_atomically(unfinished / MANIFEST, json.dumps(manifest))
    crash_point("store.rename")
    unfinished.replace(folder)
    sync_folder(folder.parent)
