"""Images shrunk once to what views need and kept as JPEG in one file: for sets too large to be kept decoded.

They are decoded each time, as from their own files, but a photograph of many megapixels is now one of a few thousand.
"""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from lwcl.data.cache.pixels import ImageIndex
from lwcl.data.dataset import ImageSet, IndexArray
from lwcl.data.decode import UnreadableImageError, decode
from lwcl.data.sources.files import read_image_bytes
from lwcl.errors import StorageError


class JpegCacheReader(NamedTuple):
    """Pictures (see `lwcl.data.sources.source`) in one file; a broken one's row is its stand-in's."""

    file: Path
    starts: IndexArray  # (N,)
    lengths: IndexArray  # (N,)

    def image(self, row: int, at_least: int | None) -> Image.Image:
        """See `Pictures`. It comes whole: it is as small as it may be."""
        try:
            return decode(read_image_bytes(self.file, int(self.starts[row]), int(self.lengths[row])))
        except (OSError, UnreadableImageError) as error:  # it was whole when the run began
            what = f"The kept images in {str(self.file.parent)!r} were removed or changed while they were in use."
            raise StorageError(what, f"{error}.", "Give the command again: they are made anew.") from None


def with_jpeg_cache(images: ImageSet, file: Path, rows: ImageIndex) -> ImageSet:
    """The set, its images taken from the file whose bytes these rows describe."""
    source, starts = (places.numpy() for places in rows.places())
    pictures = JpegCacheReader(file, starts[source], np.array(rows.lengths)[source])
    place = np.arange(len(images))
    return dataclasses.replace(images, pictures=(pictures,), rows=np.stack([np.zeros_like(place), place], axis=1))
