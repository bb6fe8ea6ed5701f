"""Files of embeddings: one row an image, with the names of the images; .npy, .npz, .csv and .parquet.

Beside NAME.npy lie NAME.names.csv (filename, label) and NAME.json (encoder and images); .npz holds all of it.
"""

import csv
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy
from numpy.typing import NDArray

from lwcl.errors import UsageError
from lwcl.formatting import json_text
from lwcl.system.atomic_files import explain_disk_errors, temporary_path, write_atomically
from lwcl.system.packages import require_package

ROWS_AT_ONCE = 4096  # that a writer holds in memory


class EmbeddingSet(NamedTuple):
    """Embeddings (N, D) float32, mapped from disk; NaN for images that could not be read. A label is "" if unknown."""

    rows: NDArray[numpy.float32]
    filenames: Sequence[str]
    labels: list[str]
    metadata: dict[str, Any]

    def chunks(self) -> Iterator[tuple[slice, NDArray[numpy.float32]]]:
        """Consecutive rows."""
        for start in range(0, len(self.filenames), ROWS_AT_ONCE):
            here = slice(start, start + ROWS_AT_ONCE)
            yield here, self.rows[here]


def write_npy(path: Path, embeddings: EmbeddingSet) -> None:
    """An array (N, D) alone."""
    array = numpy.lib.format.open_memmap(path, mode="w+", dtype=numpy.float32, shape=embeddings.rows.shape)
    for here, rows in embeddings.chunks():
        array[here] = rows
    array.flush()


def write_npz(path: Path, embeddings: EmbeddingSet) -> None:
    """Arrays `embeddings`, `filenames`, `labels`, and `metadata` as JSON text."""
    with open(path, "wb") as file:
        numpy.savez(
            file,
            embeddings=embeddings.rows,
            filenames=numpy.array(embeddings.filenames, dtype=numpy.str_),
            labels=numpy.array(embeddings.labels, dtype=numpy.str_),
            metadata=numpy.array(json_text(embeddings.metadata)),
        )


def write_csv(path: Path, embeddings: EmbeddingSet) -> None:
    """Columns filename, label, embedding_0, ..."""
    with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["filename", "label", *(f"embedding_{number}" for number in range(embeddings.rows.shape[1]))])
        for here, rows in embeddings.chunks():
            for name, label, row in zip(embeddings.filenames[here], embeddings.labels[here], rows, strict=True):
                writer.writerow([name, label, *(f"{value:.9g}" for value in row.tolist())])


def write_parquet(path: Path, embeddings: EmbeddingSet) -> None:
    """Columns filename, label, embedding (list of float32)."""
    arrow = require_package("pyarrow", "parquet")
    parquet = require_package("pyarrow.parquet", "parquet")
    vectors = arrow.list_(arrow.float32(), embeddings.rows.shape[1])
    fields = [("filename", arrow.string()), ("label", arrow.string()), ("embedding", vectors)]
    schema = arrow.schema(fields, metadata={"lwcl": json_text(embeddings.metadata)})
    with parquet.ParquetWriter(str(path), schema) as writer:
        for here, rows in embeddings.chunks():
            flat = arrow.FixedSizeListArray.from_arrays(arrow.array(rows.reshape(-1)), rows.shape[1])
            names = [printable_name(name) for name in embeddings.filenames[here]]
            writer.write_table(arrow.table([names, embeddings.labels[here], flat], schema=schema))


WRITERS: dict[str, Callable[[Path, EmbeddingSet], None]] = {
    ".npy": write_npy,
    ".npz": write_npz,
    ".csv": write_csv,
    ".parquet": write_parquet,
}


def printable_name(name: str) -> str:
    """A file name as UTF-8 text, undecodable bytes as backslash escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def names_file(path: Path) -> Path:
    """Where the names of NAME.npy are."""
    return path.with_name(f"{path.stem}.names.csv")


def metadata_file(path: Path) -> Path:
    """Where the metadata of NAME.npy is."""
    return path.with_name(f"{path.stem}.json")


def check_embedding_path(path: Path, *, overwrite: bool) -> None:
    """Raises `UsageError` for an unknown format, a missing package, or a file that must not be replaced."""
    if path.suffix not in WRITERS:
        raise UsageError(f"--out {path}: unknown format.", remedy=f"End its name with {', '.join(WRITERS)}.")
    if path.suffix == ".parquet":
        require_package("pyarrow", "parquet")
    places = [path, *((names_file(path), metadata_file(path)) if path.suffix == ".npy" else ())]
    if not overwrite and (taken := [place for place in places if os.path.lexists(place)]):
        raise UsageError(f"{taken[0]} exists already.", remedy="Give another --out, or --overwrite.")


def write_embeddings(path: Path, embeddings: EmbeddingSet) -> None:
    """Write a file of embeddings atomically, its names and metadata first. Raises `StorageError`."""
    if path.suffix in (".npy", ".npz"):
        embeddings = embeddings._replace(metadata=embeddings.metadata | {"sha256": embeddings_hash(embeddings)})
    if path.suffix == ".npy":
        lines = [csv_line(pair) for pair in zip(embeddings.filenames, embeddings.labels, strict=True)]
        write_atomically(names_file(path), "".join([csv_line(("filename", "label")), *lines]))
        write_atomically(metadata_file(path), json_text(embeddings.metadata, indent=2) + "\n")
    unfinished = temporary_path(path)
    with explain_disk_errors(path, embeddings.rows.nbytes):
        try:
            WRITERS[path.suffix](unfinished, embeddings)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)


def csv_line(cells: tuple[str, str]) -> str:
    """A line of a CSV file."""
    return ",".join('"' + cell.replace('"', '""') + '"' if set(cell) & set(',"\r\n') else cell for cell in cells) + "\n"


def read_embeddings(path: Path) -> EmbeddingSet:
    """A .npy or .npz file written by lwcl. Raises `UsageError`."""
    if path.suffix not in (".npy", ".npz"):
        raise UsageError(f"{path}: cannot be searched.", remedy="Give a .npy or .npz file written by lwcl embed.")
    if not path.exists():
        raise UsageError(f"{path}: does not exist.", remedy="Give a .npy or .npz file written by lwcl embed.")
    try:
        if not path.is_file():  # a pipe would be waited for
            raise ValueError("not a regular file")
        return read_npy(path) if path.suffix == ".npy" else read_npz(path)
    except Exception as error:  # a damaged archive makes zipfile raise nearly everything
        raise UsageError(
            f"{path}: is not a file of embeddings.",
            f"{type(error).__name__}: {' '.join(str(error).split())[:200]}",
            "Give a .npy file with its .names.csv and .json, or a .npz file, written by lwcl embed.",
        ) from error


def read_npy(path: Path) -> EmbeddingSet:
    """NAME.npy, mapped, with what lies beside it."""
    rows = numpy.load(path, mmap_mode="r", allow_pickle=False)
    with open(names_file(path), encoding="utf-8", errors="surrogateescape", newline="") as file:
        _, *pairs = csv.reader(file)
    metadata = json.loads(metadata_file(path).read_text(encoding="utf-8"))
    return checked(EmbeddingSet(rows, [name for name, _ in pairs], [label for _, label in pairs], dict(metadata)))


def read_npz(path: Path) -> EmbeddingSet:
    """NAME.npz, in memory."""
    with numpy.load(path, allow_pickle=False) as arrays:
        metadata = json.loads(str(arrays["metadata"]))
        names, labels = arrays["filenames"].tolist(), arrays["labels"].tolist()
        return checked(EmbeddingSet(arrays["embeddings"], names, labels, dict(metadata)))


def checked(embeddings: EmbeddingSet) -> EmbeddingSet:
    """The embeddings. Raises `ValueError` unless there is a name for each row, and all is as it was written."""
    if embeddings.rows.ndim != 2 or len(embeddings.rows) != len(embeddings.filenames):
        raise ValueError(f"an array of shape {embeddings.rows.shape} for {len(embeddings.filenames)} names")
    if embeddings.metadata.get("sha256") != embeddings_hash(embeddings):
        raise ValueError("its content does not match its checksum: it is damaged")
    return embeddings


def embeddings_hash(embeddings: EmbeddingSet) -> str:
    """SHA-256 (hex) of rows, names, labels and metadata, but for this hash; a gigabyte takes about a second."""
    metadata = {name: value for name, value in embeddings.metadata.items() if name != "sha256"}
    told = [[*embeddings.filenames], [*embeddings.labels], metadata]
    digest = hashlib.sha256(json_text(told, sort_keys=True).encode())
    for _, rows in embeddings.chunks():
        digest.update(numpy.ascontiguousarray(rows).view(numpy.uint8).data)
    return digest.hexdigest()
