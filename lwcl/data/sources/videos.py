"""A folder or a list of video files as a source: a video is a sample, and views are clips of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lwcl.data.frames import Frames
from lwcl.data.native import NativeImage, UnreadableImageError
from lwcl.data.sources.files import (
    CRC32,
    IMAGE_SUFFIXES,
    SIZE,
    VIDEO_SUFFIXES,
    FileListing,
    ImageFolder,
    missing_path_error,
)
from lwcl.data.sources.lists import LIST_SUFFIXES, ImageListFile
from lwcl.data.sources.packed import PackedTable
from lwcl.data.sources.source import ImageSource, source_layout
from lwcl.data.sources.splits import Labels
from lwcl.data.video import VideoFacts, decode_video, read_facts, survey_video
from lwcl.errors import DataError, UsageError
from lwcl.formatting import plural
from lwcl.models.pixel_format import PixelFormat
from lwcl.settings import expand_home
from lwcl.system.packages import require_package

SURVEYED_VIDEOS = 16  # whose headers are read, evenly spaced


class VideoReader(NamedTuple):
    """Decodes the videos of a folder (see `ImageReader`)."""

    folder: Path
    listing: FileListing

    def path(self, row: int) -> Path:
        """The file of a row; raises `UnreadableImageError` if it is missing."""
        if self.listing.table.row(row)[SIZE] < 0:
            raise UnreadableImageError("no such file")
        return self.folder / self.listing.names[row]

    def image(self, row: int, min_side: int | None, pixel_format: PixelFormat) -> Frames:
        """See `ImageReader`; all frames that clips of the format are taken of."""
        return decode_video(self.path(row), pixel_format, min_side)

    def native(self, row: int) -> NativeImage:
        """The size of a frame, by the header; nothing to load."""
        facts = read_facts(self.path(row))
        return NativeImage((facts.width, facts.height), 3, "uint8", 1, None, refuse_loading)


def refuse_loading() -> np.ndarray:
    """Raises `UnreadableImageError`: a video is no single image."""
    raise UnreadableImageError("a video")


def open_videos(spec: str, clip: PixelFormat, labels: Labels = "top", *, follow_links: bool = False) -> ImageSource:
    """The videos of a folder, or of a list of files, for clips of this format. Raises `UsageError` and `DataError`."""
    path = Path(expand_home(spec))
    if not path.exists():
        raise missing_path_error(path)
    if not path.is_dir() and path.suffix.lower() not in LIST_SUFFIXES:
        what = f"--clip reads a folder or a list (.txt, .csv) of videos; {spec!r} is neither."
        raise UsageError(what, remedy="Give --data the folder that the videos are in; unpack an archive.")
    require_package("av", "video")
    container = (
        ImageFolder(path, follow_links, IMAGE_SUFFIXES + VIDEO_SUFFIXES) if path.is_dir() else ImageListFile(path)
    )
    listing = only_videos(container, spec)
    layout, told = source_layout(spec, container, listing, labels)
    reader = VideoReader(path if path.is_dir() else path.parent, listing)
    keys = PackedTable(listing.table.columns[: CRC32 + 1], listing.table.rows)
    notes = (*listing.notes, *told, *video_notes(spec, reader, clip))
    return ImageSource("videos", listing.names, layout.splits, layout.classes, keys, reader, notes)


def only_videos(container: ImageFolder | ImageListFile, spec: str) -> FileListing:
    """The listing of a container of videos. Raises `UsageError` for images, `DataError` for both or none."""
    known = " ".join(VIDEO_SUFFIXES)
    try:
        listing = container.listing()
    except DataError as error:
        if not error.what.startswith("No images"):
            raise
        raise DataError(f"No videos in {spec!r}.", error.why, f"Video files end in {known}.") from None
    names = [*listing.names]
    videos = [name for name in names if name.lower().endswith(VIDEO_SUFFIXES)]
    if not videos:
        what = f"--clip is for videos; {spec!r} holds {plural(len(names), 'file')} that are none."
        raise UsageError(what, f"Videos end in {known}.", "Leave --clip out for images.")
    if len(videos) < len(names):
        other = next(name for name in names if not name.lower().endswith(VIDEO_SUFFIXES))
        others = plural(len(names) - len(videos), "other file")
        raise DataError(
            f"{spec!r} mixes {plural(len(videos), 'video')} with {others}, such as {other!r}.",
            "A run reads one kind.",
            "Put the videos into a folder of their own, or list them in a .txt file.",
        )
    return listing


def video_notes(spec: str, reader: VideoReader, clip: PixelFormat) -> Iterator[str]:
    """What a user may not expect of the videos, by the headers of a sample: other rates, depths and lengths."""
    facts: dict[str, VideoFacts] = {}
    variable: list[str] = []
    for row in np.linspace(0, len(reader.listing.names) - 1, SURVEYED_VIDEOS).round().astype(int):
        name = reader.listing.names[int(row)]
        if name not in facts:
            try:
                facts[name], varies = survey_video(reader.path(int(row)))
                variable += [name] if varies else []
            except UnreadableImageError:  # named, and counted, when it is decoded
                continue
    whole = f"of {plural(len(facts), 'video')} looked at in {spec!r}"
    deep = [name for name, one in facts.items() if one.bits > 8]
    need = (clip.frames - 1) * clip.stride + 1
    short = [name for name, one in facts.items() if 0 < one.seconds * one.rate < need - 1]
    rates = sorted({round(float(one.rate), 2) for one in facts.values()})
    if variable:
        first = f"{len(variable)} {whole} with a varying frame rate, such as {variable[0]!r}"
        yield f"{first}: frames are taken by their times."
    if deep:
        yield f"{len(deep)} {whole} with more than 8 bits, such as {deep[0]!r}: read as 8 bits."
    if short:
        first = f"{len(short)} {whole} shorter than a clip of {clip.clip}, such as {short[0]!r}"
        yield f"{first}: the last frame is repeated."
    if len(rates) > 1:
        times = f"a clip lasts {need / rates[-1]:.2f} to {need / rates[0]:.2f} s"
        yield f"Frame rates from {rates[0]:g} to {rates[-1]:g} {whole}: {times}."
