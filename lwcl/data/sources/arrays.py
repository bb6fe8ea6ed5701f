"""A whole set in a NumPy file: an .npz with arrays of images and of labels for each split, or an .npy of images.

As MedMNIST and Keras write them: `train_images`, `train_labels`, `val_images`, ..., or `x_train`, `y_train`, `x_test`.
An .npz whose arrays are images one by one is an archive of images, see `archives`.
"""

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lwcl.data.band_image import Array, Picture
from lwcl.data.decode import read_native
from lwcl.data.native import NativeImage, native_array, read_npy_header
from lwcl.data.sources.source import ImageSource
from lwcl.data.sources.splits import OTHER_SPLIT, split_of_folder
from lwcl.data.sources.tables import label_names
from lwcl.errors import DataError
from lwcl.formatting import plural
from lwcl.models.pixel_format import PixelFormat
from lwcl.settings import expand_home
from lwcl.system.atomic_files import format_bytes
from lwcl.system.limits import available_memory

MAX_MEMORY_SHARE = 0.5  # of the available memory, for arrays that are unpacked
Shapes = Mapping[str, tuple[int, ...]]


class ArrayPart(NamedTuple):
    """The arrays of one split: names of that of images and of that of labels, "" where there is none."""

    split: str
    images: str
    labels: str = ""


class ArraysReader(NamedTuple):
    """Reads images of several arrays (N, H, W), (N, H, W, C) or (N, C, H, W) by row, the arrays one after the other."""

    parts: tuple[Array, ...]

    def pixels(self, row: int) -> Array:
        """An image's values."""
        for part in self.parts:
            if row < len(part):
                return np.asarray(part[row])
            row -= len(part)
        raise IndexError(row)

    def image(self, row: int, min_side: int | None, pixel_format: PixelFormat) -> Picture:
        """See `source.ImageReader`."""
        return read_native(lambda: self.native(row), pixel_format=pixel_format)

    def native(self, row: int) -> NativeImage:
        """See `source.ImageReader`."""
        return native_array(self.pixels(row))


class ArrayKeys(NamedTuple):
    """Checksums of images; see `source.ContentKeys`."""

    reader: ArraysReader

    def __getitem__(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:  # type: ignore[override]
        sums = [zlib.crc32(self.reader.pixels(int(row)).tobytes()) for row in rows]
        return np.array(sums, np.int64).reshape(-1, 1)


def is_array_set(spec: str) -> bool:
    """Whether a `--data` value is a NumPy file of a whole set."""
    path = Path(expand_home(spec))
    if path.suffix.lower() not in (".npy", ".npz") or not path.is_file():
        return False
    shapes = array_shapes(path)
    return any(len(shape) == 4 for shape in shapes.values()) or any(part.labels for part in array_parts(shapes))


def array_shapes(path: Path) -> Shapes:
    """The shapes of a file's arrays by name, from their headers; none where it is no such file."""
    try:
        if path.suffix.lower() == ".npy":
            with path.open("rb") as file:
                return {"": read_npy_header(file)[0]}
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".npy")]
            return {name.removesuffix(".npy"): member_shape(archive, name) for name in names}
    except (OSError, ValueError, zipfile.BadZipFile):
        return {}


def member_shape(archive: zipfile.ZipFile, name: str) -> tuple[int, ...]:
    """The shape of an archive's member."""
    with archive.open(name) as file:
        return read_npy_header(file)[0]


def array_parts(shapes: Shapes) -> list[ArrayPart]:
    """The splits that arrays of these shapes hold. Raises `DataError` for two arrays of images in one."""
    by_split: dict[str, list[str]] = {}
    for name in shapes:
        split, _ = split_of_folder(name.lower())
        by_split.setdefault("" if split == OTHER_SPLIT else split, []).append(name)
    parts = []
    for split, names in by_split.items():
        labels = [name for name in names if shapes[name][1:] in ((), (1,)) and len(shapes[name])]
        deep = [name for name in names if len(shapes[name]) == 4]
        flat = [name for name in names if len(shapes[name]) == 3]
        flat = [name for name in flat if any(shapes[name][0] == shapes[label][0] for label in labels)]
        images = deep or flat
        if len(images) > 1:
            what = f"Several arrays of images{f' for {split}' if split else ''}: {', '.join(images)}."
            raise DataError(what, "One of them is what to train on.", "Save it in a file of its own.")
        if images:
            fitting = [label for label in labels if shapes[label][0] == shapes[images[0]][0]]
            parts.append(ArrayPart(split, images[0], fitting[0] if len(fitting) == 1 else ""))
    return parts


def open_array_set(spec: str) -> ImageSource:
    """A NumPy file of a whole set as a source. Raises `DataError`."""
    path = Path(expand_home(spec))
    shapes = array_shapes(path)
    parts = array_parts(shapes)
    try:
        file: Any = np.load(path, mmap_mode="r", allow_pickle=False)
        arrays = [file] if isinstance(file, np.ndarray) else unpacked(spec, file, parts)
        named = (
            {} if isinstance(file, np.ndarray) else {part.labels: file[part.labels] for part in parts if part.labels}
        )
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"Cannot read {spec!r}.", f"{error}.", "Write it again with numpy.savez.") from None
    reader = ArraysReader(tuple(arrays))
    splits = [part.split for part, array in zip(parts, arrays, strict=True) for _ in range(len(array))]
    classes = [
        label
        for part, array in zip(parts, arrays, strict=True)
        for label in (label_names(named[part.labels].reshape(-1).tolist(), ()) if part.labels else [""] * len(array))
    ]
    names = [f"{split}/{row:07}.npy".lstrip("/") for row, split in enumerate(splits)]
    notes = tuple(array_notes(spec, shapes, parts))
    return ImageSource("arrays", names, splits, classes, ArrayKeys(reader), reader, notes)


def unpacked(spec: str, file: Any, parts: list[ArrayPart]) -> list[Array]:
    """The arrays of images in an .npz. Raises `DataError` where they would take too much of the memory."""
    size = sum(file.zip.getinfo(f"{part.images}.npy").file_size for part in parts)
    if size > MAX_MEMORY_SHARE * available_memory():
        raise DataError(
            f"{spec!r} takes {format_bytes(size)} unpacked, of {format_bytes(available_memory())} available.",
            "An .npz is read as a whole.",
            "Save each array of images as .npy, which is read where it lies.",
        )
    return [file[part.images] for part in parts]


def array_notes(spec: str, shapes: Shapes, parts: list[ArrayPart]) -> Iterator[str]:
    """What is to be said: which arrays are read as what, and which are not."""
    for part in parts:
        where = f"{part.images or 'the array'} {shapes[part.images]}"
        labelled = f", labels {part.labels}" if part.labels else ""
        yield f"{spec!r}: {plural(shapes[part.images][0], 'image')} in {where}{labelled}."
    used = {name for part in parts for name in (part.images, part.labels)}
    if others := [f"{name} {shape}" for name, shape in shapes.items() if name not in used]:
        yield f"{spec!r}: not used: {', '.join(others)}."
