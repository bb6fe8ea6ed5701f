"""torchvision's data sets by name: `tv/NAME:ROOT`. torchvision finds and checks the files; lwcl decodes them.

torchvision is imported only when such a data set is opened, and downloads only on request.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lwcl.data.demo.builtin import source_from_arrays
from lwcl.data.native import UnreadableImageError
from lwcl.data.sources.files import read_image_bytes
from lwcl.data.sources.source import BytesReader, ImageSource
from lwcl.errors import DataError, UsageError
from lwcl.settings import expand_home, unknown_name_error

TORCHVISION_PREFIX = "tv/"
SplitArguments = Mapping[str, Mapping[str, Any]]  # split -> torchvision's arguments
TRAIN_FLAG_SPLITS: SplitArguments = {"train": {"train": True}, "test": {"train": False}}
TRAIN_TEST_SPLITS: SplitArguments = {split: {"split": split} for split in ("train", "test")}
TRAIN_VAL_TEST_SPLITS: SplitArguments = {split: {"split": split} for split in ("train", "val", "test")}
TORCHVISION_SETS: dict[str, tuple[str, SplitArguments]] = {
    "cifar10": ("CIFAR10", TRAIN_FLAG_SPLITS),
    "cifar100": ("CIFAR100", TRAIN_FLAG_SPLITS),
    "mnist": ("MNIST", TRAIN_FLAG_SPLITS),
    "fashionmnist": ("FashionMNIST", TRAIN_FLAG_SPLITS),
    "kmnist": ("KMNIST", TRAIN_FLAG_SPLITS),
    "svhn": ("SVHN", TRAIN_TEST_SPLITS),
    "stl10": ("STL10", TRAIN_TEST_SPLITS),
    "stl10-unlabeled": ("STL10", {"train": {"split": "train+unlabeled"}, "test": {"split": "test"}}),
    "imagenette": ("Imagenette", {split: {"split": split} for split in ("train", "val")}),
    "imagenette320": ("Imagenette", {split: {"split": split, "size": "320px"} for split in ("train", "val")}),
    "imagenette160": ("Imagenette", {split: {"split": split, "size": "160px"} for split in ("train", "val")}),
    "flowers102": ("Flowers102", TRAIN_VAL_TEST_SPLITS),
    "food101": ("Food101", TRAIN_TEST_SPLITS),
    "oxfordiiitpet": ("OxfordIIITPet", {"train": {"split": "trainval"}, "test": {"split": "test"}}),
    "dtd": ("DTD", TRAIN_VAL_TEST_SPLITS),
    "fgvcaircraft": ("FGVCAircraft", TRAIN_VAL_TEST_SPLITS),
    "eurosat": ("EuroSAT", {"": {}}),
}


@dataclass(frozen=True)
class PathReader(BytesReader):
    """Decodes files at any paths."""

    paths: list[Path]

    def data(self, row: int) -> bytes:
        """See `BytesReader`."""
        try:
            return read_image_bytes(self.paths[row])
        except OSError as error:
            raise UnreadableImageError(f"not readable: {error.strerror or error}") from None


def open_torchvision_source(spec: str, download: bool) -> ImageSource:
    """A torchvision data set with all its splits.

    Raises `UsageError` for an unknown name or a missing root, `DataError` if it is missing and not downloaded.
    """
    name, _, root = spec.removeprefix(TORCHVISION_PREFIX).partition(":")
    if name.lower() not in TORCHVISION_SETS:
        raise unknown_name_error("torchvision data set", name, TORCHVISION_SETS)
    if not root:
        raise UsageError(f"{spec!r} has no folder.", remedy=f"Give {TORCHVISION_PREFIX}{name}:FOLDER.")
    kind, splits = TORCHVISION_SETS[name.lower()]
    sets = {split: open_torchvision_split(kind, root, choice, download) for split, choice in splits.items()}
    split_names = [split for split, dataset in sets.items() for _ in range(len(dataset))]
    classes = [label for dataset in sets.values() for label in class_name_per_image(dataset)]
    source_kind = f"{TORCHVISION_PREFIX}{name}"
    if all(hasattr(dataset, "data") for dataset in sets.values()):
        pixels = np.concatenate([pixel_array_of(dataset) for dataset in sets.values()])
        return source_from_arrays(source_kind, pixels, split_names, classes)
    paths = [path for dataset in sets.values() for path in image_paths_of(dataset)]
    return source_from_paths(source_kind, paths, root, split_names, classes)


def open_torchvision_split(kind: str, root: str, choice: Mapping[str, Any], download: bool) -> Any:
    """One split as torchvision's data set, downloaded if it is missing and `download` is set; raises `DataError`."""
    from torchvision import datasets

    make = getattr(datasets, kind)
    where = Path(expand_home(root))
    try:
        try:
            return make(where, **choice)
        except (RuntimeError, OSError):
            if not download:
                raise
            return make(where, **choice, download=True)
    except ImportError as error:
        raise DataError(f"{kind} needs another package.", f"{error}.", f"pip install {error.name or 'scipy'}") from None
    except (RuntimeError, OSError) as error:
        remedy = "Check the network and the disk." if download else "Check the folder, or add --download."
        raise DataError(f"{kind} is not in {root!r}.", str(error).split(". You can use")[0] + ".", remedy) from None


def class_name_per_image(dataset: Any) -> list[str]:
    """The class name of each image, "" for unlabelled ones; torchvision has four attribute names for labels."""
    pairs = getattr(dataset, "samples", getattr(dataset, "_samples", None))
    if pairs is not None:
        labels: Sequence[Any] = [label for _, label in pairs]
    else:
        labels = next(getattr(dataset, field) for field in ("targets", "labels", "_labels") if hasattr(dataset, field))
    titles = getattr(dataset, "classes", None)
    return ["" if label < 0 else class_name_of(titles, int(label)) for label in labels]


def class_name_of(titles: Sequence[Any] | None, label: int) -> str:
    """The name of a class, or its number if it has none. Imagenette has several names for a class: the first."""
    title = titles[label] if titles else label
    return str(title[0] if isinstance(title, tuple) else title)


def pixel_array_of(dataset: Any) -> npt.NDArray[np.uint8]:
    """The images of an in-memory data set as uint8 (N, height, width, 3), whatever its own layout."""
    pixels = np.asarray(dataset.data)
    if pixels.ndim == 3:
        return np.repeat(pixels[:, :, :, None], 3, axis=3)
    return pixels if pixels.shape[3] == 3 else np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))


def image_paths_of(dataset: Any) -> list[Path]:
    """The image files of a data set that is not in memory."""
    pairs = getattr(dataset, "samples", getattr(dataset, "_samples", None))
    if pairs is not None:
        return [Path(path) for path, _ in pairs]
    return [Path(path) for path in (dataset._image_files if hasattr(dataset, "_image_files") else dataset._images)]


def source_from_paths(kind: str, paths: list[Path], root: str, splits: list[str], classes: list[str]) -> ImageSource:
    """Files as a source, named relative to the root, with their sizes and times as content keys."""
    above = Path(expand_home(root))
    names = [path.relative_to(above).as_posix() for path in paths]
    infos = [path.stat() if path.exists() else None for path in paths]
    keys = np.array([(info.st_size, info.st_mtime_ns) if info else (-1, -1) for info in infos], dtype=np.int64)
    return ImageSource(kind, names, splits, classes, keys, PathReader(paths))
