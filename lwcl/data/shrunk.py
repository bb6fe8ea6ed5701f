"""Images shrunk once to what views need and kept as JPEG in one file: for sets too large to be kept decoded.

They are decoded each time, as from their own files, but a photograph of many megapixels is now one of a few thousand.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from lwcl.data.decode import decode
from lwcl.data.images import ImageSet
from lwcl.data.store import Rows


class Shrunk(NamedTuple):
    """Pictures (see `lwcl.data.parts`) in a file that is mapped into memory; a broken one's row is its stand-in's."""

    content: Tensor  # uint8 (bytes,)
    starts: Tensor  # int64 (N,)
    lengths: Tensor  # int64 (N,)

    def image(self, row: int, at_least: int | None) -> Image.Image:
        """See `Pictures`. It comes whole: it is as small as it may be."""
        return decode(self.content.narrow(0, int(self.starts[row]), int(self.lengths[row])).numpy().tobytes())


def shrunk_set(images: ImageSet, content: Tensor, rows: Rows) -> ImageSet:
    """The set, its images taken from the bytes (bytes,) that these rows describe."""
    source, starts = rows.places()
    pictures = Shrunk(content, starts[source], source.new_tensor(rows.lengths)[source])
    place = np.arange(len(images))
    return dataclasses.replace(images, pictures=(pictures,), rows=np.stack([np.zeros_like(place), place], axis=1))
