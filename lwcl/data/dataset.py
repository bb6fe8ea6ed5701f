"""A set of images: what `--data` values mean together, and which image stands in for a broken one."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from lwcl.data.decode import UnreadableImageError
from lwcl.data.demo import builtin
from lwcl.data.sources import torchvision
from lwcl.data.sources.source import ImageReader, ImageSource, source_from_files
from lwcl.data.sources.splits import Split, has_splits, positions_of_split, stratified_holdout
from lwcl.errors import DataError, UsageError
from lwcl.rng import epoch_permutation

IndexArray = npt.NDArray[np.int64]


class BrokenImage(NamedTuple):
    """A line of bad_files.jsonl."""

    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images by position, with names, labels (int64, -1: unlabelled), and a fingerprint of them (SHA-256, hex).

    The fingerprint is over names, sizes and times or checksums, not over paths: a set that was moved keeps it.
    """

    names: list[str]
    labels: Tensor
    classes: tuple[str, ...]
    fingerprint: str
    has_splits: bool  # whether where these come from, training and validation images are told apart
    pictures: tuple[ImageReader, ...]
    rows: IndexArray  # (N, 2): which of `pictures`, which row there

    def __len__(self) -> int:
        return len(self.names)

    @property
    def labelled(self) -> bool:
        """Whether there are classes and any image has a label; those without have -1."""
        return bool((self.labels >= 0).any())

    def image(self, index: int, at_least: int | None = None) -> Image.Image:
        """One image in RGB; a large JPEG may come smaller, its short side `at_least` that; raises
        `UnreadableImageError`."""
        part, row = (int(number) for number in self.rows[index])
        return self.pictures[part].image(row, at_least)

    def good_image(self, index: int, at_least: int | None = None) -> tuple[Image.Image, list[BrokenImage]]:
        """The image, or the one that stands in for it, and the broken ones met; raises `DataError` if none is good."""
        broken: list[BrokenImage] = []
        for position in replacement_positions(index, len(self)):
            try:
                return self.image(position, at_least), broken
            except UnreadableImageError as error:
                broken.append(BrokenImage(self.names[position], error.reason))
        raise no_readable_image_error(broken)

    def subset(self, indices: Sequence[int] | Tensor | IndexArray) -> "ImageSet":
        """The images at these positions, in this order."""
        kept = np.asarray(indices, dtype=np.int64)
        digest = hashlib.sha256(self.fingerprint.encode() + kept.tobytes()).hexdigest()
        names = [self.names[index] for index in kept]
        labels = self.labels[torch.from_numpy(kept)]
        return ImageSet(names, labels, self.classes, digest, self.has_splits, self.pictures, self.rows[kept])


def replacement_positions(index: int, count: int) -> Iterator[int]:
    """Where to look for image `index` of `count`: there, then at the next ones, around the end."""
    return ((index + step) % count for step in range(count))


def no_readable_image_error(broken: Sequence[BrokenImage]) -> DataError:
    """The error for a set without one good image."""
    first = f"{broken[0].name!r}: {broken[0].reason}." if broken else ""
    return DataError("None of the images can be read.", first, "Check what --data names.")


def open_images(data: Sequence[str], split: Split = "all", *, download: bool = False) -> ImageSet:
    """The images that `--data` values name, one after the other; the embedded default for none.

    A value is a folder, .txt list, .zip, .tar, `tv/NAME:ROOT` (see `named`), or an embedded set's name (a folder of
    that name is written `./digits`). Without splits (`has_splits`), each split is the whole. Raises `UsageError`,
    `DataError`.
    """
    parts = [open_image_source(spec, download) for spec in data or (builtin.DEFAULT_SET,)]
    splits = [name for part in parts for name in part.splits]
    kept = positions_of_split(splits, split)
    if not len(kept):
        raise DataError(f"No images for {split!r} in {' '.join(data)!r}.")
    names = [
        name
        for part, above in zip(parts, source_prefixes(data), strict=True)
        for name in with_prefix(part.names, above)
    ]
    counts = [len(part.names) for part in parts]
    every = np.stack([np.repeat(np.arange(len(parts)), counts), np.concatenate([np.arange(n) for n in counts])], axis=1)
    class_names = [name for part in parts for name in part.classes]
    classes = tuple(sorted(set(class_names) - {""}))
    ids = {name: number for number, name in enumerate(classes)} | {"": -1}
    labels = torch.tensor([ids[class_names[index]] for index in kept])
    rows = every[kept]
    pictures = tuple(part.pictures for part in parts)
    return ImageSet(
        [names[index] for index in kept], labels, classes, fingerprint(parts, rows), has_splits(splits), pictures, rows
    )


def open_image_source(spec: str, download: bool) -> ImageSource:
    """What one `--data` value names."""
    if spec in builtin.BUILTIN_SETS:
        return builtin.BUILTIN_SETS[spec]()
    return (
        torchvision.open_torchvision_source(spec, download)
        if spec.startswith(torchvision.TORCHVISION_PREFIX)
        else source_from_files(spec)
    )


def source_prefixes(data: Sequence[str]) -> list[str]:
    """What to put before the names of each source: nothing for a single one, else what tells them apart."""
    if len(data) < 2:
        return [""]
    short = [Path(spec).name for spec in data]
    return [f"{name}/" for name in (short if len(set(short)) == len(short) else data)]


def with_prefix(names: list[str], above: str) -> list[str]:
    """The names with `above` before each."""
    return [above + name for name in names] if above else names


def fingerprint(parts: Sequence[ImageSource], rows: IndexArray) -> str:
    """SHA-256 (hex) over the kind, names, and marks of the chosen rows of each part."""
    digest = hashlib.sha256()
    for number, part in enumerate(parts):
        own = rows[rows[:, 0] == number, 1]
        names = "\0".join(part.names[row] for row in own)
        digest.update(f"{part.kind}\0{len(own)}\0{names}\0".encode("utf-8", "surrogateescape"))
        digest.update(part.marks[own].tobytes())
    return digest.hexdigest()


def split_holdout(images: ImageSet, fraction: float, seed: int) -> tuple[ImageSet, ImageSet]:
    """Split labelled images without splits of their own into (train, val): see `held_out`."""
    if not 0 < fraction < 1:
        raise UsageError(f"The share to hold out is {fraction}.", remedy="Give a share between 0 and 1.")
    out = stratified_holdout(images.names, images.labels.tolist(), fraction, seed)
    return images.subset(np.flatnonzero(~out)), images.subset(np.flatnonzero(out))


def random_subset(images: ImageSet, most: int, seed: int) -> ImageSet:
    """At most `most` of the images, sampled by the seed, in their order."""
    if len(images) <= most:
        return images
    return images.subset(epoch_permutation(len(images), seed, 0)[:most].sort().values)
