"""Images of one file a band: which files belong together, by a pattern such as `*_B{02,03,04,08}.tif`."""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from lwcl.data.band_image import Array, Picture
from lwcl.data.decode import exif_orientation, read_native
from lwcl.data.native import NativeImage, UnreadableImageError
from lwcl.data.sources.packed import IndexArray
from lwcl.data.sources.shards import BRACES, brace_choices
from lwcl.errors import UsageError
from lwcl.formatting import first_names, plural
from lwcl.models.pixel_format import PixelFormat

NO_FILE = -1  # for a band of an image
SHOWN = 3  # names in a sentence
MIXER = 6_364_136_223_846_793_005  # Knuth's, to combine the sizes and times of an image's files


class BandPattern(NamedTuple):
    """A `--bands` pattern: what bands are called, in their order, and what matches a file's path in a container."""

    text: str
    words: tuple[str, ...]
    files: re.Pattern[str]  # groups: folders above, the part of each `/`; `*` and `band` in the part of the braces
    folder: int  # which part has the braces


class BandGroups(NamedTuple):
    """The images (N): their names, and the rows of their files, (N, bands), `NO_FILE` where there is none."""

    names: list[str]
    rows: IndexArray
    notes: tuple[str, ...]


class NativeReader(Protocol):
    """Reads files as they are, by row."""

    def native(self, row: int) -> NativeImage:
        """See `source.ImageReader`."""


class ContentRows(Protocol):
    """See `source.ContentKeys`."""

    def __getitem__(self, rows: npt.NDArray[np.int64], /) -> npt.NDArray[np.int64]: ...


def parse_bands(text: str) -> BandPattern:
    """A `--bands` pattern. Raises `UsageError`."""
    braces = [found for found in BRACES.finditer(text) if found[1]]
    words = tuple(brace_choices(braces[0][1])) if len(braces) == 1 else ()
    if not words or "" in words or "/" in braces[0][1] or len(set(words)) < len(words):
        raise UsageError(
            f"--bands: got {text!r}.",
            remedy="Give one pair of braces with the bands in their order, and * for what differs from image to image: "
            "'*_B{02,03,04,08}.tif', or 'B{01..12}/*.tif' for a folder a band.",
        )
    band = "(?P<band>" + "|".join(map(re.escape, sorted(words, key=len, reverse=True))) + ")"
    parts = text.split("/")
    own = next(number for number, part in enumerate(parts) if braces[0][0] in part)
    before, after = (as_regex(part, "(.*)") for part in parts[own].split(braces[0][0]))
    regexes = [f"({as_regex(part, '.*')})" for part in parts]
    regexes[own] = before + band + after
    return BandPattern(text, words, re.compile("(?:(.*)/)??" + "/".join(regexes)), own)


def as_regex(text: str, star: str) -> str:
    """A part of a pattern as a regular expression, `star` for each `*` in it."""
    return star.join(map(re.escape, text.split("*")))


def name_without_band(name: str, found: re.Match[str], pattern: BandPattern) -> str:
    """The name of the image that a file belongs to: `a/s1_B02.tif` is `a/s1.tif`, and `B02/s1.tif` is `s1.tif`."""
    above, *parts = (part for number, part in enumerate(found.groups(), 1) if number != found.re.groupindex["band"])
    stars = len(parts) - pattern.text.count("/")
    own = pattern.folder
    kept = [above or "", *parts[:own], "".join(parts[own : own + stars]), *parts[own + stars :]]
    whole, suffix = "/".join(filter(None, kept)), PurePosixPath(name).suffix
    return whole if whole.endswith(suffix) else whole + suffix


def group_bands(names: Sequence[str], pattern: BandPattern, where: str) -> BandGroups:
    """The images whose bands these files are. Raises `UsageError` where none is, or two are the same band."""
    groups: dict[str, list[int]] = {}
    others: list[str] = []
    for row, name in enumerate(names):
        if (found := pattern.files.fullmatch(name)) is None:
            others.append(name)
            continue
        place = pattern.words.index(found["band"])
        rows = groups.setdefault(name_without_band(name, found, pattern), [NO_FILE] * len(pattern.words))
        if rows[place] != NO_FILE:
            what = f"--bands {pattern.text!r}: {names[rows[place]]!r} and {name!r} are the same band of one image."
            raise UsageError(what, remedy="Say more in the pattern, such as '*/T*_B{02,03,04}_10m.tif'.")
        rows[place] = row
    if not groups:
        what = f"No file of {where!r} matches --bands {pattern.text!r}; there is {names[0]!r}."
        raise UsageError(what, remedy="The braces list the bands, * stands for the rest: '*_B{02,03,04,08}.tif'.")
    ordered = sorted(groups)
    rows_of = np.array([groups[name] for name in ordered], np.int64)
    return BandGroups(ordered, rows_of, tuple(band_notes(ordered, rows_of, pattern, others, where)))


def band_notes(
    names: Sequence[str], rows: IndexArray, pattern: BandPattern, others: Sequence[str], where: str
) -> list[str]:
    """What is to be said: how files became images, images that lack a band, and files that are none."""
    notes = [
        f"{where!r}: {plural(len(names), 'image')} of {plural(len(pattern.words), 'band')}: {', '.join(pattern.words)}."
    ]
    lacking = np.flatnonzero((rows == NO_FILE).any(1))
    if len(lacking):
        first = int(lacking[0])
        word = pattern.words[int((rows[first] == NO_FILE).argmax())]
        notes.append(f"{plural(len(lacking), 'image')} without all bands, such as {names[first]!r}: no {word}.")
    if others:
        notes.append(
            f"Not used: {plural(len(others), 'file')} that --bands does not match: {first_names(others, SHOWN)}."
        )
    return notes


class BandReader(NamedTuple):
    """Reads the files of an image as one, smaller bands scaled to the largest; see `source.ImageReader`."""

    files: NativeReader
    rows: IndexArray  # (N, bands)
    words: tuple[str, ...]

    def image(self, row: int, min_side: int | None, pixel_format: PixelFormat) -> Picture:
        """See `source.ImageReader`."""
        return read_native(lambda: self.native(row), pixel_format=pixel_format)

    def native(self, row: int) -> NativeImage:
        """See `source.ImageReader`."""
        bands = [self.band(word, int(file)) for word, file in zip(self.words, self.rows[row], strict=True)]
        size = max((band.size for band in bands), key=lambda sides: sides[0] * sides[1])
        dtype = np.result_type(*(np.dtype(band.dtype) for band in bands))
        turned = bands[0].orientation if bands[0].pillow is None else exif_orientation(bands[0].pillow)

        def load() -> Array:
            return np.concatenate([scaled_to(band.load(), size) for band in bands], axis=2).astype(dtype)

        return NativeImage(size, len(bands), str(dtype), 1, None, load, turned)

    def band(self, word: str, file: int) -> NativeImage:
        """The file of a band; raises `UnreadableImageError` where there is none, or more than one band is in it."""
        if file == NO_FILE:
            raise UnreadableImageError(f"no file for band {word}")
        band = self.files.native(file)
        if band.channels * band.pages != 1:
            raise UnreadableImageError(
                f"{plural(band.channels * band.pages, 'channel')} in the file of band {word}, not 1"
            )
        return band


def scaled_to(pixels: Array, size: tuple[int, int]) -> Array:
    """A band (H, W, 1) scaled to (width, height), bilinear."""
    if pixels.shape[1::-1] == size:
        return pixels
    whole = Image.fromarray(np.ascontiguousarray(pixels[:, :, 0], np.float32)).resize(size, Image.Resampling.BILINEAR)
    values = np.asarray(whole)[:, :, None]
    return (values if pixels.dtype.kind == "f" else np.rint(values)).astype(pixels.dtype)


class BandKeys(NamedTuple):
    """Content keys of images of several files: each column mixes those of the files; see `source.ContentKeys`."""

    files: ContentRows
    rows: IndexArray

    def __getitem__(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:  # type: ignore[override]
        chosen = self.rows[rows]
        columns = [np.where(chosen[:, [band]] < 0, -1, self.files[chosen[:, band]]) for band in range(chosen.shape[1])]
        mixed = columns[0].copy()
        with np.errstate(over="ignore"):
            for column in columns[1:]:
                mixed = mixed * MIXER + column
        return mixed
