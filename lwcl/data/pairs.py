"""Two modalities of the same scenes: a teacher sees one image of a pair, a student the other, cut alike.

Both are stored as one image with the channels of both, so a crop and a flip are the same in both to the pixel, and the
cache, the loader and the teacher's cache need to know nothing of pairs. The student's image is scaled to the size of
the teacher's.
"""

import csv
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image

from lwcl.config.train_options import TrainOptions
from lwcl.data.band_image import BandImage, Picture
from lwcl.data.dataset import ImageSet, open_images, with_pixel_format
from lwcl.data.degrade import ONE_CHANNEL, parse_student_view
from lwcl.data.native import NativeImage, UnreadableImageError
from lwcl.errors import DataError, UsageError
from lwcl.formatting import first_names, plural
from lwcl.models.pixel_format import PixelFormat

SHOWN_NAMES = 3  # of unpaired files, in a sentence


class StackReader(NamedTuple):
    """Reads two image sets of the same scenes as one, the channels of the second behind those of the first."""

    first: ImageSet
    second: ImageSet

    def image(self, row: int, min_side: int | None, pixel_format: PixelFormat) -> Picture:
        """See `ImageReader`."""
        whole = self.first.image(row, min_side)
        other = self.second.image(row)
        scaled = other if other.size == whole.size else other.resize(whole.size, Image.Resampling.BILINEAR)
        parts = [np.asarray(picture) for picture in (whole, scaled)]
        return BandImage(np.concatenate([part.astype(pixel_format.dtype) for part in parts], axis=2))

    def native(self, row: int) -> NativeImage:
        """A stack is in no file."""
        raise UnreadableImageError("made of two images")


def open_training_images(options: TrainOptions) -> ImageSet:
    """The training images that the options name, with partners where the student sees others than the teacher.

    Raises as `open_images` and `pair_images`.
    """
    if options.student_data:
        return add_partners(open_images(options.data, "train", **options.finding), options)
    images = open_images(options.data, "train", **options.reading)
    return with_student_view(images, options.student_view) if options.student_view else images


def add_partners(images: ImageSet, options: TrainOptions) -> ImageSet:
    """Images of --data with their partners of --student-data."""
    others = open_images(options.student_data, **options.reading)
    return pair_images(images, others, read_pairs(options.pairs), options.max_bad)


def stack_images(images: ImageSet) -> ImageSet:
    """The images with the channels of their partners behind their own; as they are if they have none."""
    if images.partner is None:
        return images
    formats = images.pixel_format, images.partner.pixel_format
    deep = "uint16" if any(one.dtype == "uint16" for one in formats) else "uint8"
    stacked = PixelFormat(sum(one.channels for one in formats), deep)
    rows = np.stack([np.zeros(len(images), np.int64), np.arange(len(images))], axis=1)
    return dataclasses.replace(
        images,
        readers=(StackReader(images, images.partner),),
        rows=rows,
        pixel_format=stacked,
        fingerprint=images.whole_fingerprint,
        identity=images.whole_identity,
        partner=None,
    )


def with_partner(images: ImageSet, partner: ImageSet) -> ImageSet:
    """The images with a partner for each, in the same order, whose labels are theirs."""
    labelled = dataclasses.replace(partner, labels=images.labels, classes=images.classes)
    return dataclasses.replace(images, partner=labelled)


def with_student_view(images: ImageSet, view: str) -> ImageSet:
    """The images with the same ones as partners, degraded by the steps of a `--student-view`. Raises `UsageError`."""
    steps = parse_student_view(view)
    if not images.pixel_format.is_rgb:
        raise UsageError(
            f"--student-view {view} is for 8-bit RGB; these images are {images.pixel_format.describe()}.",
            remedy="Give --student-data with the student's images.",
        )
    channels = 1 if steps[-1][0] in ONE_CHANNEL else 3
    degraded = dataclasses.replace(images.pixel_format, channels=channels, view=view)
    return with_partner(images, with_pixel_format(images, degraded))


def pair_images(images: ImageSet, others: ImageSet, listed: Mapping[str, str], most_unpaired: float) -> ImageSet:
    """The images that have a partner among `others`, with it; a note names those that have none.

    Partners have the same name up to its ending, below the folders that all share, else the same stem where stems are
    unique; or `listed` says which. Raises `DataError` if more than the share `most_unpaired` has none.
    """
    found = match_names(images.names, others.names, listed)
    missing = [name for name, partner in zip(images.names, found, strict=True) if partner is None]
    if not len(missing) <= most_unpaired * len(images) or len(missing) == len(images):
        raise DataError(
            f"{len(missing):,} of {plural(len(images), 'image')} have no partner in --student-data, such as "
            f"{first_names(missing, SHOWN_NAMES)}.",
            f"There the names are as {others.names[0]!r}; a share of {most_unpaired:g} may be missing (--max-bad).",
            "Name pairs alike up to the ending, or give --pairs with two columns of paths.",
        )
    kept = [position for position, partner in enumerate(found) if partner is not None]
    images_kept = images.subset(kept) if missing else images
    chosen = with_partner(images_kept, others.subset([place for place in found if place is not None]))
    unused = len(others) - len(kept)
    return dataclasses.replace(chosen, notes=(*chosen.notes, *others.notes, *pair_notes(missing, unused)))


def pair_notes(missing: Sequence[str], unused: int) -> Iterator[str]:
    """What is to be said of images without a partner."""
    if missing:
        names = first_names(missing, SHOWN_NAMES)
        yield f"Left out: {plural(len(missing), 'image')} without a partner in --student-data: {names}."
    if unused:
        yield f"Not used: {plural(unused, 'image')} of --student-data without a partner, or in another split."


def match_names(names: Sequence[str], others: Sequence[str], listed: Mapping[str, str]) -> list[int | None]:
    """For each name the position of its partner among the others, None without one."""
    if listed:
        places = {name: place for place, name in enumerate(others)}
        return [places.get(listed.get(name, "")) for name in names]
    keys = {name_without_ending(name): place for place, name in enumerate(others)}
    found = [keys.get(name_without_ending(name)) for name in names]
    if any(place is not None for place in found):
        return found
    stems = [PurePosixPath(name).stem for name in others]
    if len(set(stems)) < len(stems) or len({PurePosixPath(name).stem for name in names}) < len(names):
        return found
    by_stem = {stem: place for place, stem in enumerate(stems)}
    return [by_stem.get(PurePosixPath(name).stem) for name in names]


def name_without_ending(name: str) -> str:
    """A name without its ending."""
    return str(PurePosixPath(name).with_suffix(""))


def read_pairs(path: str | None) -> dict[str, str]:
    """The table of a `--pairs` file: two columns, names as in --data and in --student-data. Raises `UsageError`."""
    if path is None:
        return {}
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = [row for row in csv.reader(file) if row and not row[0].startswith("#")]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--pairs {path}: cannot be read.", str(error)) from None
    if not rows or any(len(row) != 2 for row in rows):
        what = f"--pairs {path}: not two columns of paths."
        raise UsageError(what, remedy="Each line: a name in --data, a comma, and its partner's in --student-data.")
    return {first.strip(): second.strip() for first, second in rows}
