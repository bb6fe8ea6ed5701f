"""Images downscaled once and cached as JPEG in one file: for data sets too large to be cached decoded.

They are decoded in every epoch, like the original files, but a photograph of many megapixels now has a few thousand.
"""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lwcl.data.band_image import Picture
from lwcl.data.cache.pixels import ImageIndex
from lwcl.data.dataset import ImageSet
from lwcl.data.decode import decode
from lwcl.data.native import NativeImage, UnreadableImageError, open_native
from lwcl.data.sources.files import read_image_bytes
from lwcl.data.sources.packed import IndexArray
from lwcl.errors import StorageError
from lwcl.models.pixel_format import PixelFormat


class JpegCacheReader(NamedTuple):
    """Reads images (see `ImageReader`) from one file; a broken one's row is that of its replacement."""

    file: Path
    offsets: IndexArray  # (N,)
    lengths: IndexArray  # (N,)

    def image(self, row: int, min_side: int | None, pixel_format: PixelFormat) -> Picture:
        """See `ImageReader`. At full size: it is as small as it may be."""
        try:
            return decode(self.data(row), pixel_format=pixel_format)
        except (OSError, UnreadableImageError) as error:  # it was complete when the run began
            what = f"The image cache in {str(self.file.parent)!r} was removed or changed while it was in use."
            raise StorageError(what, f"{error}.", "Repeat the command: the cache is built again.") from None

    def native(self, row: int) -> NativeImage:
        """See `ImageReader`."""
        return open_native(self.data(row))

    def data(self, row: int) -> bytes:
        """The bytes of an image."""
        return read_image_bytes(self.file, int(self.offsets[row]), int(self.lengths[row]))


def with_jpeg_cache(images: ImageSet, file: Path, index: ImageIndex) -> ImageSet:
    """The image set, read from the cache file that `index` describes."""
    source, offsets = (column.numpy() for column in index.locate())
    reader = JpegCacheReader(file, offsets[source], np.array(index.lengths)[source])
    position = np.arange(len(images))
    return dataclasses.replace(images, readers=(reader,), rows=np.stack([np.zeros_like(position), position], axis=1))
