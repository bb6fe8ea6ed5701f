"""Two labelled data sets that need no download: handwritten digits, and generated textures.

`digits`: the test set of the UCI "Optical Recognition of Handwritten Digits" data, 1,797 images of 8 x 8 pixels, as in
scikit-learn (`load_digits`). `textures`: 3,960 generated images of 64 x 64 pixels (`textures.py`).
"""

import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lwcl.data.demo import textures
from lwcl.data.demo.patterns import PATTERNS
from lwcl.data.sources.source import ArrayReader, ImageSource
from lwcl.data.sources.splits import stratified_holdout

DEFAULT_SET = "textures"
DIGITS_VAL_FRACTION = 500 / 1797  # held out, the same fraction of each digit
TEXTURES_TRAIN, TEXTURES_ALL = 3000, 3960  # 125 and 40 of each class


def digits_source() -> ImageSource:
    """The digits, scaled from 0..16 to 0..255, as RGB; 1,297 train and 500 val, up to rounding."""
    from sklearn.datasets import load_digits  # takes a second to import

    data = load_digits()
    pixels = np.rint(data.images * (255 / 16)).astype(np.uint8)
    classes = [str(label) for label in data.target]
    own = [f"{label}/{position:04d}" for position, label in enumerate(classes)]
    val = stratified_holdout(own, data.target.tolist(), DIGITS_VAL_FRACTION, seed=0)
    splits = np.where(val, "val", "train").tolist()
    return source_from_arrays("digits", np.repeat(pixels[:, :, :, None], 3, axis=3), splits, classes)


def textures_source() -> ImageSource:
    """The textures: 3,000 train and 960 val images, classes in turn."""
    names = list(PATTERNS)
    classes = [names[index % len(names)] for index in range(TEXTURES_ALL)]
    splits = ["train" if index < TEXTURES_TRAIN else "val" for index in range(TEXTURES_ALL)]
    return source_from_arrays("textures", textures.draw_textures(TEXTURES_ALL), splits, classes)


def source_from_arrays(
    kind: str, pixels: npt.NDArray[np.uint8], splits: Sequence[str], classes: Sequence[str]
) -> ImageSource:
    """Images in memory, uint8 (rows, height, width, 3), as a source."""
    rows = zip(splits, classes, range(len(pixels)), strict=True)
    names = [f"{split}/{label}/{position:05d}" for split, label, position in rows]
    checksums = np.array([[zlib.crc32(image)] for image in pixels], dtype=np.int64)
    return ImageSource(kind, names, list(splits), list(classes), checksums, ArrayReader(pixels))


BUILTIN_SETS = {"digits": digits_source, "textures": textures_source}
