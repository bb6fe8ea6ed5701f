"""Images in columns of tables: Parquet files, and Hugging Face's data sets on the disk or in their cache.

The image column and the label column are found by their type, as Hugging Face's `datasets` describes it in the file,
else by their Arrow type and their name.
"""

import contextlib
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lwcl.data.native import UnreadableImageError
from lwcl.data.sources.archives import check_not_modified, file_stamp
from lwcl.data.sources.files import missing_path_error, read_image_bytes
from lwcl.data.sources.lists import LABEL_COLUMNS
from lwcl.data.sources.packed import Coded, PackedNames, PackedTable
from lwcl.data.sources.shards import expand_pattern, is_pattern, split_of_shard
from lwcl.data.sources.source import BytesReader, ImageSource
from lwcl.data.sources.splits import OTHER_SPLIT, SPLIT_BY_FOLDER_NAME
from lwcl.errors import DataError, UsageError
from lwcl.formatting import first_names, plural
from lwcl.settings import expand_home
from lwcl.system.packages import require_package

HUGGING_FACE_PREFIX = "hf/"
PARQUET_SUFFIX = ".parquet"
GROUPS_KEPT = 2  # row groups of Parquet files in the memory of a process


class Columns(NamedTuple):
    """The columns of a table that are used, and the names of its classes, if the label column holds numbers of them."""

    image: str
    label: str = ""
    classes: tuple[str, ...] = ()


def is_parquet(spec: str) -> bool:
    """Whether a `--data` value names Parquet files."""
    return spec.lower().endswith(PARQUET_SUFFIX)


def find_columns(where: str, types: Mapping[str, str], classes: Mapping[str, Sequence[str]]) -> Columns:
    """The columns to use, by the types of all (`image`, `classes`, `binary`, `value`, else anything).

    Raises `DataError` where none can be an image.
    """
    images = [name for kind in ("image", "binary") for name, found in types.items() if found == kind]
    if not images:
        names = first_names(list(types), 8)
        raise DataError(
            f"{where} has no column of images.", f"Its columns: {names}.", "Give data with an image column."
        )
    labels = [name for name, found in types.items() if found == "classes"]
    labels += [name for name in LABEL_COLUMNS if types.get(name) == "value"]
    label = labels[0] if labels else ""
    return Columns(images[0], label, tuple(classes.get(label, ())))


def label_names(values: Sequence[Any], classes: Sequence[str]) -> list[str]:
    """The class of each image from its label: a number of a class, -1 or nothing for none, or a name."""
    if classes:
        return [classes[value] if value is not None and 0 <= value < len(classes) else "" for value in values]
    return ["" if value is None or value == -1 else str(value) for value in values]


def image_bytes(cell: Any) -> bytes:
    """The bytes of an image column's cell: themselves, or `bytes` and `path` as Hugging Face stores them."""
    if isinstance(cell, Mapping):
        try:
            cell = cell.get("bytes") or (cell.get("path") and read_image_bytes(cell["path"]))
        except OSError as error:
            raise UnreadableImageError(f"not readable: {error.strerror or error}") from None
    if not isinstance(cell, bytes):
        raise UnreadableImageError("no image in this row")
    return cell


def open_parquet(spec: str) -> ImageSource:
    """Parquet files as a source; raises `UsageError` and `DataError`."""
    parquet = require_package("pyarrow.parquet", "parquet")
    paths = expand_pattern(spec) if is_pattern(spec) else [Path(expand_home(spec))]
    names, splits, classes, keys, groups, columns = list[str](), list[str](), list[str](), [], list[Group](), None
    for path in paths:
        if not path.exists():
            raise missing_path_error(path)
        try:
            with parquet.ParquetFile(path) as file:
                columns = parquet_columns(repr(str(path)), file.schema_arrow)
                counts = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
                sizes = [column_bytes(file.metadata.row_group(n), columns.image) for n in range(file.num_row_groups)]
                labels = file.read([columns.label]).column(0).to_pylist() if columns.label else []
        except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
            what = f"{str(path)!r} is not a complete Parquet file."
            raise DataError(what, f"{str(error).strip()}.", "Copy or download it again.") from None
        rows = sum(counts)
        names += [f"{path.stem}/{row:09d}" for row in range(rows)]
        splits += [split_of_shard(path.stem)] * rows
        classes += label_names(labels, columns.classes) if labels else [""] * rows
        keys += [(size, -1, -1) for size, count in zip(sizes, counts, strict=True) for _ in range(count)]
        stamp = file_stamp(path)
        groups += [Group(path, stamp, number, columns.image, count) for number, count in enumerate(counts)]
    if not names:
        raise DataError(f"No images in {spec!r}.", "Its tables have no rows.")
    return ImageSource(
        "parquet", PackedNames.of(names), Coded.of(splits), Coded.of(classes), PackedTable.of(keys, 3),
        ParquetReader(tuple(groups)), notes=tuple(column_notes(spec, columns)),
    )  # fmt: skip


def column_notes(spec: str, columns: Columns | None) -> Iterator[str]:
    """What is said of the columns that are used."""
    if columns:
        labels = f", labels are those of {columns.label!r}" if columns.label else ", no labels"
        yield f"{spec}: images are those of the column {columns.image!r}{labels}."


def parquet_columns(where: str, schema: Any) -> Columns:
    """The columns to use of a Parquet file with this Arrow schema."""
    types, classes = {field.name: arrow_type(field.type) for field in schema}, {}
    with contextlib.suppress(ValueError, KeyError, AttributeError):  # written by other programs
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        for name, feature in features.items():
            types[name] = {"Image": "image", "ClassLabel": "classes"}.get(feature.get("_type"), types[name])
            classes[name] = feature.get("names", ())
    return find_columns(where, types, classes)


def arrow_type(kind: Any) -> str:
    """The type of a column as `find_columns` takes it."""
    text = str(kind)
    if text.startswith("struct<") and "bytes: binary" in text:
        return "image"
    if text in ("binary", "large_binary"):
        return "binary"
    return "value" if text in ("string", "large_string") or text.startswith(("int", "uint")) else ""


def column_bytes(group: Any, name: str) -> int:
    """Bytes that a column takes in a row group."""
    columns = (group.column(number) for number in range(group.num_columns))
    return sum(one.total_compressed_size for one in columns if one.path_in_schema.partition(".")[0] == name)


class Group(NamedTuple):
    """A row group of a Parquet file, of which a column is read."""

    path: Path
    stamp: tuple[int, int]
    number: int
    column: str
    rows: int


@functools.lru_cache(maxsize=GROUPS_KEPT)
def read_group(group: Group) -> Any:
    """The image column of a row group, decompressed."""
    check_not_modified(group.path, group.stamp)
    with require_package("pyarrow.parquet", "parquet").ParquetFile(group.path) as file:
        return file.read_row_group(group.number, columns=[group.column], use_threads=False).column(0)


@dataclass(frozen=True)
class ParquetReader(BytesReader):
    """Decodes the images of Parquet files. A read decompresses its row group, and the last ones are kept."""

    groups: tuple[Group, ...]

    @functools.cached_property
    def ends(self) -> Any:
        """Where each group ends, in rows of all."""
        return np.cumsum([group.rows for group in self.groups])

    def data(self, row: int) -> bytes:
        """See `BytesReader`."""
        number = int(np.searchsorted(self.ends, row, side="right"))
        group = self.groups[number]
        try:
            return image_bytes(read_group(group)[row - int(self.ends[number]) + group.rows].as_py())
        except (OSError, ValueError) as error:
            raise UnreadableImageError(f"not readable in {group.path.name}: {str(error)[:200]}") from None


def open_hugging_face(spec: str, download: bool) -> ImageSource:
    """`hf/PATH[:SPLIT]`, written by `save_to_disk`, or `hf/NAME[:SPLIT]` from the cache, or the Hub with `download`.

    Raises `UsageError` and `DataError`.
    """
    parts = load_splits(spec, download)
    first = next(iter(parts.values()))
    types, classes = {}, {}
    for name, feature in first.features.items():
        kind = type(feature).__name__
        plain = "value" if getattr(feature, "dtype", "").startswith(("string", "int", "uint")) else ""
        types[name] = {"Image": "image", "ClassLabel": "classes"}.get(kind, plain)
        classes[name] = getattr(feature, "names", ())
    columns = find_columns(repr(spec), types, classes)
    image = require_package("datasets", "hf").Image(decode=False)
    names = [f"{split}{'/' if split else ''}{row:09d}" for split, part in parts.items() for row in range(len(part))]
    labels = [list(part[columns.label]) if columns.label else [None] * len(part) for part in parts.values()]
    keys = [(stored_bytes(part), -1, -1) for part in parts.values() for _ in range(len(part))]
    splits = [Coded.constant(hf_split(split, parts), len(part)) for split, part in parts.items()]
    return ImageSource(
        "hf", PackedNames.of(names), Coded.joined(splits),
        Coded.of([one for values in labels for one in label_names(values, columns.classes)]),
        PackedTable.of(keys, 3),
        TableReader(tuple(one.select_columns([columns.image]).cast_column(columns.image, image)
                          for one in parts.values()), columns.image),
        notes=tuple(column_notes(spec, columns)),
    )  # fmt: skip


def hf_split(name: str, parts: Mapping[str, Any]) -> str:
    """The split of a part, of several: train, val, test, or another."""
    return SPLIT_BY_FOLDER_NAME.get(name.lower(), OTHER_SPLIT) if len(parts) > 1 else ""


def stored_bytes(part: Any) -> int:
    """Bytes of the files of a part."""
    return sum(Path(file["filename"]).stat().st_size for file in part.cache_files)


def load_splits(spec: str, download: bool) -> dict[str, Any]:
    """The parts of a data set by the names of their splits, "" for one without. Raises `UsageError` and `DataError`."""
    datasets = require_package("datasets", "hf")
    datasets.disable_progress_bars()
    whole = spec.removeprefix(HUGGING_FACE_PREFIX)
    name, _, split = (whole, "", "") if Path(expand_home(whole)).is_dir() else whole.partition(":")
    folder = Path(expand_home(name))
    try:
        if folder.is_dir():
            loaded = datasets.load_from_disk(str(folder))
        else:
            with contextlib.nullcontext() if download else offline(datasets):
                loaded = datasets.load_dataset(name)
    except Exception as error:  # whatever the Hub, the disk and the formats may raise
        why = " ".join(str(error).split())[:200]
        remedy = "Give a folder that save_to_disk wrote, or add --download to fetch it from the Hub."
        raise DataError(f"{spec!r} cannot be opened as a data set of Hugging Face.", f"{why}.", remedy) from None
    parts = dict(loaded) if isinstance(loaded, dict) else {"": loaded}
    if split and split not in parts:
        what = f"{spec!r} has no split {split!r}, only {first_names(list(parts), 8)}."
        raise UsageError(what, remedy=f"Give one of {plural(len(parts), 'split')}, or none for all.")
    parts = {split: parts[split]} if split else parts
    if not sum(map(len, parts.values())):
        raise DataError(f"No images in {spec!r}.", "Its tables have no rows.")
    return {name: part for name, part in parts.items() if len(part)}


@contextlib.contextmanager
def offline(datasets: Any) -> Iterator[None]:
    """Lets `datasets` look into its cache only: it decides by constants that it reads when it is imported."""
    places: tuple[Any, ...] = datasets.config, require_package("huggingface_hub.constants", "hf")
    before = [place.HF_HUB_OFFLINE for place in places]
    try:
        for place in places:
            place.HF_HUB_OFFLINE = True
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value


class TableReader(BytesReader):
    """Decodes the images of Hugging Face's data sets, which are memory-mapped."""

    def __init__(self, parts: tuple[Any, ...], column: str) -> None:
        self.parts, self.column = parts, column
        self.ends = np.cumsum([len(part) for part in parts])

    def data(self, row: int) -> bytes:
        """See `BytesReader`."""
        number = int(np.searchsorted(self.ends, row, side="right"))
        return image_bytes(self.parts[number][row - int(self.ends[number]) + len(self.parts[number])][self.column])
