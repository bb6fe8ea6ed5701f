"""Decoded images on disk, in the cache folder, where later runs on the same images find them.

Bytes are appended and synced, then recorded in an index, so an interrupted build resumes where it was; the folder gets
its final name once it is complete. One process builds, others that need the same images wait. Whatever is damaged is
built again.
"""

import contextlib
import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
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
    write_and_sync,
    write_atomically,
)
from lwcl.system.lock import wait_for_lock

SYNC_BYTES, SYNC_IMAGES = 64 * 2**20, 2048  # at most this much is lost when the process is killed
CONTENT_FILE, INDEX_FILE, MANIFEST_FILE = "content.bin", "index.jsonl", "manifest.json"


def disk_cache_folder(images: ImageSet, short_side: int | None, cache_format: CacheFormat = "pixels") -> Path:
    """Where these images are cached in this format."""
    key = f"{images.fingerprint}/{short_side}/{cache_format}/{DECODER_VERSION}/{PIL.__version__}"
    return cache_folder() / "store" / hashlib.sha256(key.encode()).hexdigest()[:32]


def unfinished_folder(folder: Path) -> Path:
    """Where a disk cache is while it is built."""
    return folder.with_suffix(".part")


def bytes_on_disk(folder: Path) -> int:
    """Bytes that a disk cache has already, complete or not."""
    files = (folder / CONTENT_FILE, unfinished_folder(folder) / CONTENT_FILE)
    return max((file.stat().st_size for file in files if file.exists()), default=0)


def open_or_build(
    folder: Path, count: int, decode_rest: Callable[[ImageIndex], Iterator[DecodedChunk]]
) -> tuple[Path, ImageIndex]:
    """The content file and the index of `count` images in `folder`; what is missing comes from `decode_rest(done)`.

    Raises `StorageError` if the disk refuses, and what `decode_rest` raises; finished chunks stay for the next call.
    """
    with explain_disk_errors(folder), wait_for_lock(folder.with_suffix(".lock")):
        index = read_complete_index(folder, count)
        if index is None:
            remove_path(folder)
            unfinished = unfinished_folder(folder)
            append_missing(unfinished, decode_rest)
            finish_disk_cache(unfinished, folder, count)
            index = read_complete_index(folder, count)
    if index is None:
        raise StorageError(f"{str(folder)!r} changed while it was written.", remedy="Run again, or with --cache off.")
    return folder / CONTENT_FILE, index


def read_complete_index(folder: Path, count: int) -> ImageIndex | None:
    """The index of a complete cache of `count` images; None if it is missing or does not match its manifest."""
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_text())
        size = (folder / CONTENT_FILE).stat().st_size
        if manifest != {"images": count, "bytes": size, "index": sha256_file(folder / INDEX_FILE)}:
            return None
    except (OSError, ValueError):
        return None
    index = read_partial_index(folder)
    complete = len(index.sizes) == count and sum(index.lengths) == size
    return index if complete and content_is_intact(folder / CONTENT_FILE, index) else None


def content_is_intact(content: Path, index: ImageIndex) -> bool:
    """Whether all bytes match their checksums: the file is read once, about a second per gigabyte."""
    with open(content, "rb") as file:
        pairs = zip(index.lengths, index.checksums, strict=True)
        return all(zlib.crc32(file.read(size)) == checksum for size, checksum in pairs)


def read_partial_index(folder: Path) -> ImageIndex:
    """The index as far as it was written; a truncated last line is ignored."""
    index = ImageIndex.empty()
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError), open(folder / INDEX_FILE) as file:
        parse_index(file, index)
    return index


def parse_index(lines: Iterable[str], index: ImageIndex) -> None:
    """Adds lines of JSON to an index."""
    for line in lines:
        entry: dict[str, Any] = json.loads(line)
        sizes, broken = ([(one, other) for one, other in entry[name]] for name in ("sizes", "broken"))
        index.extend(ImageIndex(sizes, entry["lengths"], entry["checksums"], broken))


def append_missing(unfinished: Path, decode_rest: Callable[[ImageIndex], Iterator[DecodedChunk]]) -> None:
    """Complete an unfinished cache: first the images' bytes, then, once they are on disk, their index."""
    unfinished.mkdir(exist_ok=True)
    content_path, index_path = unfinished / CONTENT_FILE, unfinished / INDEX_FILE
    done = read_partial_index(unfinished)
    if not content_path.exists() or content_path.stat().st_size < sum(done.lengths):
        done = ImageIndex.empty()
    write_atomically(index_path, index_line(done) if done.sizes else "")
    with open(content_path, "ab") as content, open(index_path, "ab") as index_file:
        content.truncate(sum(done.lengths))
        pending = ImageIndex.empty()
        for chunk in decode_rest(done):
            content.write(chunk.content)
            pending.extend(chunk.records)
            if sum(pending.lengths) >= SYNC_BYTES or len(pending.lengths) >= SYNC_IMAGES:
                append_index_line(content, index_file, pending)
                pending = ImageIndex.empty()
        append_index_line(content, index_file, pending)


def append_index_line(content: BinaryIO, index_file: BinaryIO, pending: ImageIndex) -> None:
    """Sync the content, then write the index line that vouches for it."""
    for file, text in ((content, ""), (index_file, index_line(pending))):
        write_and_sync(file, text.encode())
        crash_point("cache.index")


def index_line(index: ImageIndex) -> str:
    """An index as a line of JSON."""
    return json.dumps(index._asdict()) + "\n"


def finish_disk_cache(unfinished: Path, folder: Path, count: int) -> None:
    """Write the manifest of a complete cache, then give the folder its name."""
    size, digest = (unfinished / CONTENT_FILE).stat().st_size, sha256_file(unfinished / INDEX_FILE)
    write_atomically(unfinished / MANIFEST_FILE, json.dumps({"images": count, "bytes": size, "index": digest}))
    crash_point("cache.rename")
    unfinished.replace(folder)
    sync_folder(folder.parent)
