"""The image set that `--data` values form together, and what replaces a broken image."""

import contextlib
import dataclasses
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from lwcl.data.band_image import Picture
from lwcl.data.degrade import degrade
from lwcl.data.demo import builtin
from lwcl.data.native import NativeImage, UnreadableImageError
from lwcl.data.sources import arrays, tables, torchvision
from lwcl.data.sources.files import MODIFIED_NS
from lwcl.data.sources.label_table import LabelTable
from lwcl.data.sources.packed import Coded, IndexArray, PackedNames
from lwcl.data.sources.source import ImageReader, ImageSource, source_from_files
from lwcl.data.sources.splits import NO_LABELS, Labels, Split, has_splits, positions_of_split, stratified_holdout
from lwcl.data.sources.videos import open_videos
from lwcl.data.survey import DEEP_SUFFIXES, SURVEYED_IMAGES, Reading, clip_format, settle_pixel_format
from lwcl.errors import DataError, UsageError
from lwcl.models.pixel_format import RGB, PixelFormat
from lwcl.rng import epoch_permutation

Rows = npt.NDArray[np.integer[Any]]  # (N, 2): which reader, which row there
HASHED_ROWS = 1 << 16  # at once


class BrokenImage(NamedTuple):
    """A broken image: a line of bad_files.jsonl."""

    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images by position, with names, labels (int64, -1: unlabelled) and a fingerprint (SHA-256, hex).

    The fingerprint covers names, sizes and times or checksums, but not paths: a data set keeps it when it is moved.
    """

    names: Sequence[str]
    labels: Tensor
    classes: tuple[str, ...]
    fingerprint: str
    has_splits: bool  # whether the sources have training and validation splits
    readers: tuple[ImageReader, ...]
    rows: Rows  # (N, 2): which of `readers`, which row there
    notes: tuple[str, ...] = ()  # of the sources: what is left out, and what a user may not expect
    identity: str = ""  # as the fingerprint, but without times: a copy of the files keeps it
    pixel_format: PixelFormat = RGB
    partner: "ImageSet | None" = None  # the same scenes as a student sees them; see `pairs`

    def __len__(self) -> int:
        return len(self.names)

    @property
    def whole_fingerprint(self) -> str:
        """The fingerprint of the images and of their partners."""
        return with_partners_hash(self.fingerprint, self.partner.fingerprint if self.partner else None)

    @property
    def whole_identity(self) -> str:
        """The identity of the images and of their partners."""
        return with_partners_hash(self.identity, self.partner.identity if self.partner else None)

    @property
    def labelled(self) -> bool:
        """Whether any image has a label."""
        return bool((self.labels >= 0).any())

    def image(self, index: int, min_side: int | None = None) -> Picture:
        """One image; a large JPEG may be decoded smaller, its short side no less than `min_side` pixels.

        Raises `UnreadableImageError`.
        """
        reader, row = (int(number) for number in self.rows[index])
        if not self.pixel_format.view:
            return self.readers[reader].image(row, min_side, self.pixel_format)
        whole = self.readers[reader].image(row, None, dataclasses.replace(self.pixel_format, channels=3, view=""))
        return degrade(whole, self.pixel_format.view) if isinstance(whole, Image.Image) else whole

    def short_side(self, index: int) -> int:
        """The short side of an image, or of a video's frames by its header; raises `DataError` if none is readable."""
        if not self.pixel_format.frames:
            return min(self.readable_image(index)[0].size)
        for position in replacement_positions(index, len(self)):
            with contextlib.suppress(UnreadableImageError):
                reader, row = (int(number) for number in self.rows[position])
                return min(self.readers[reader].native(row).size)
        return min(self.readable_image(index)[0].size)

    def sample(self, most: int, suffixes: tuple[str, ...] = DEEP_SUFFIXES) -> Iterator[NativeImage]:
        """At most `most` images that can hold more than 8-bit RGB, evenly spaced, as stored in their files."""
        deep = PackedNames.of(self.names).ending_in(suffixes)
        for place in np.linspace(0, len(deep) - 1, min(most, len(deep))).round().astype(int):
            reader, row = (int(number) for number in self.rows[deep[place]])
            with contextlib.suppress(Exception):  # damaged files are found, and counted, when they are decoded
                yield self.readers[reader].native(row)

    def readable_image(self, index: int, min_side: int | None = None) -> tuple[Picture, list[BrokenImage]]:
        """The image, or its replacement, and the broken ones on the way; raises `DataError` if none is readable."""
        broken: list[BrokenImage] = []
        for position in replacement_positions(index, len(self)):
            try:
                return self.image(position, min_side), broken
            except UnreadableImageError as error:
                broken.append(BrokenImage(self.names[position], error.reason))
        raise no_readable_image_error(broken)

    def subset(self, indices: Sequence[int] | Tensor | IndexArray) -> "ImageSet":
        """The images at these positions, in this order."""
        positions = np.asarray(indices, dtype=np.int64)
        digest = hashlib.sha256(self.fingerprint.encode() + positions.tobytes()).hexdigest()
        names = PackedNames.of(self.names).select(positions)
        labels = self.labels[torch.from_numpy(positions)]
        same = hashlib.sha256(self.identity.encode() + positions.tobytes()).hexdigest()
        return dataclasses.replace(
            self,
            names=names,
            labels=labels,
            fingerprint=digest,
            rows=self.rows[positions],
            identity=same,
            partner=self.partner and self.partner.subset(positions),
        )


def with_partners_hash(own: str, partners: str | None) -> str:
    """The hash of a pair's hashes; `own` where there is no partner."""
    return own if partners is None else hashlib.sha256(f"{own}/{partners}".encode()).hexdigest()


def replacement_positions(index: int, count: int) -> Iterator[int]:
    """Where to look for image `index` of `count`: there, then at the following ones, wrapping around."""
    return ((index + step) % count for step in range(count))


def no_readable_image_error(broken: Sequence[BrokenImage]) -> DataError:
    """The error for a data set without a readable image."""
    first = f"{broken[0].name!r}: {broken[0].reason}." if broken else ""
    return DataError("None of the images can be read.", first, "Check what --data names.")


def open_images(
    data: Sequence[str],
    split: Split = "all",
    *,
    download: bool = False,
    labels: str = "top",
    follow_links: bool = False,
    **reading: Any,
) -> ImageSet:
    """The images of all `--data` values, one source after the other; the built-in default if there are none.

    A value is a folder, .txt list, .zip, .tar, a pattern of tar shards, `tv/NAME:ROOT` (see `torchvision`), or the
    name of a built-in set (write `./digits` for a folder of that name). Without splits, each split is the whole set.
    `reading`: see `Reading`. Raises `UsageError` and `DataError`.
    """
    table, level, specs = LabelTable.open(labels), labels.strip().lower(), data or (builtin.DEFAULT_SET,)
    said, level = Reading(**reading), NO_LABELS if table else level
    sources = [*open_sources(specs, said, download, level, follow_links)]
    prefixed = zip(sources, source_prefixes(data), strict=True)
    names = PackedNames.joined([PackedNames.of(source.names).below(above) for source, above in prefixed])
    notes = tuple(note for source in sources for note in source.notes)
    splits, class_names = joined(source.splits for source in sources), joined(source.classes for source in sources)
    if table:
        splits, class_names, notes = table.layout(names, splits, notes)
    chosen = positions_of_split(splits, split)
    if not len(chosen):
        raise DataError(f"No images for {split!r} in {' '.join(data)!r}.")
    counts = [len(source.names) for source in sources]
    rows = np.stack([np.repeat(np.arange(len(counts)), counts), np.concatenate([*map(np.arange, counts)])], axis=1)
    rows = rows.astype(np.int32)
    classes = tuple(sorted(class_names.present - {""}))
    if len(chosen) < len(rows):
        names, rows, class_names = names.select(chosen), rows[chosen], class_names.taken(chosen)
    ids = {name: number for number, name in enumerate(classes)} | {"": -1}
    both = fingerprints(sources, rows)
    images = ImageSet(
        names=names,
        labels=torch.from_numpy(np.array([ids.get(name, -1) for name in class_names.values])[class_names.codes]),
        classes=classes,
        fingerprint=both[0],
        has_splits=has_splits(splits),
        readers=tuple(source.reader for source in sources),
        rows=rows,
        notes=notes,
        identity=both[1],
    )
    if said.clip:
        return with_pixel_format(images, clip_format(said))
    seen = images.sample(SURVEYED_IMAGES, ("",) if said.bands else DEEP_SUFFIXES)
    return with_pixel_format(images, *settle_pixel_format(list(seen), said))


def joined(parts: Iterable[Sequence[str]]) -> Coded:
    """The strings of all parts, one part after the other, packed."""
    return Coded.joined([*map(Coded.of, parts)])


def open_sources(
    specs: Sequence[str], said: Reading, download: bool, level: Labels, follow_links: bool
) -> Iterator[ImageSource]:
    """What the `--data` values name, as videos or as images."""
    clip = clip_format(said)
    for spec in specs:
        if clip.frames:
            yield open_videos(spec, clip, level, follow_links=follow_links)
        else:
            yield open_image_source(spec, download, level, follow_links=follow_links, bands=said.bands)


def with_pixel_format(images: ImageSet, pixel_format: PixelFormat, notes: tuple[str, ...] = ()) -> ImageSet:
    """The images read in a pixel format; a set in another one than RGB has another fingerprint."""
    if pixel_format == images.pixel_format:
        return images
    digest = hashlib.sha256(f"{images.fingerprint}/{pixel_format}{pixel_format.clip}".encode()).hexdigest()
    notes = (*images.notes, *notes)
    return dataclasses.replace(images, pixel_format=pixel_format, fingerprint=digest, notes=notes)


def as_input(images: ImageSet, pixel_format: PixelFormat) -> ImageSet:
    """The images as a network for this pixel format takes them: as they are if it can, else read in its format."""
    return images if images.pixel_format.reads_as(pixel_format) else with_pixel_format(images, pixel_format)


def open_image_source(
    spec: str, download: bool, labels: Labels = "top", *, follow_links: bool = False, bands: str = ""
) -> ImageSource:
    """The source that one `--data` value names; the classes of its folders are those at the level `labels`."""
    if bands:
        return source_from_files(spec, labels, follow_links=follow_links, bands=bands)
    if spec in builtin.BUILTIN_SETS:
        return builtin.BUILTIN_SETS[spec]()
    if spec.startswith(torchvision.TORCHVISION_PREFIX):
        return torchvision.open_torchvision_source(spec, download)
    if spec.startswith(tables.HUGGING_FACE_PREFIX):
        return tables.open_hugging_face(spec, download)
    if tables.is_parquet(spec):
        return tables.open_parquet(spec)
    if arrays.is_array_set(spec):
        return arrays.open_array_set(spec)
    return source_from_files(spec, labels, follow_links=follow_links)


def source_prefixes(data: Sequence[str]) -> list[str]:
    """A prefix for the names of each source: none for a single one, else what distinguishes them."""
    if len(data) < 2:
        return [""]
    short = [Path(spec).name for spec in data]
    return [f"{name}/" for name in (short if len(set(short)) == len(short) else data)]


def fingerprints(sources: Sequence[ImageSource], rows: Rows) -> tuple[str, str]:
    """SHA-256 (hex) over the kind, names and content keys of the chosen rows of each source, with and without times."""
    digests = hashlib.sha256(), hashlib.sha256()
    for number, source in enumerate(sources):
        own = rows[rows[:, 0] == number, 1]
        names = PackedNames.of(source.names)
        names = names if len(own) == len(names) else names.select(own)
        head = f"{source.kind}\0{len(own)}\0".encode("utf-8", "surrogateescape")
        for piece in itertools.chain([head], names.text_pieces(), [] if len(own) else [b"\0"]):
            for digest in digests:
                digest.update(piece)
        for start in range(0, len(own), HASHED_ROWS):
            keys = source.content_keys[own[start : start + HASHED_ROWS]]
            digests[0].update(keys.tobytes())
            digests[1].update((np.delete(keys, MODIFIED_NS, 1) if keys.shape[1] > MODIFIED_NS else keys).tobytes())
    full, identity = (digest.hexdigest() for digest in digests)
    return full, identity


def split_holdout(images: ImageSet, fraction: float, seed: int) -> tuple[ImageSet, ImageSet]:
    """Split labelled images without splits of their own into (train, val), see `stratified_holdout`."""
    if not 0 < fraction < 1:
        raise UsageError(f"The fraction to hold out is {fraction}.", remedy="Give a fraction between 0 and 1.")
    out = stratified_holdout(images.names, images.labels.tolist(), fraction, seed)
    return images.subset(np.flatnonzero(~out)), images.subset(np.flatnonzero(out))


def random_subset(images: ImageSet, most: int, seed: int) -> ImageSet:
    """At most `most` of the images, sampled by the seed, in their order."""
    if len(images) <= most:
        return images
    return images.subset(epoch_permutation(len(images), seed, 0)[:most].sort().values)
