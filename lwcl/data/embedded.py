"""Two labelled sets that need no download: real handwritten digits, and drawn figures.

`digits`: the test set of the UCI "Optical Recognition of Handwritten Digits" data, 1,797 images of 8 x 8 pixels, as in
scikit-learn (`load_digits`). `shapes`: 4,000 drawn images of 64 x 64 pixels (`shapes.py`).
"""

import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lwcl.data import shapes
from lwcl.data.layout import held_out
from lwcl.data.parts import Arrays, Part

DEFAULT = "shapes"
DIGITS_VAL = 500 / 1797  # held out of the digits, of each the same share
SHAPES_TRAIN, SHAPES_ALL = 3000, 4000


def digits() -> Part:
    """The digits, 0..16 scaled to 0..255, as RGB; 1,297 train and 500 val, give or take rounding."""
    from sklearn.datasets import load_digits  # a second to import: only for who wants it

    found = load_digits()
    pixels = np.rint(found.images * (255 / 16)).astype(np.uint8)
    classes = [str(label) for label in found.target]
    own = [f"{label}/{position:04d}" for position, label in enumerate(classes)]
    val = held_out(own, found.target.tolist(), DIGITS_VAL, seed=0)
    splits = np.where(val, "val", "train").tolist()
    return arrays_part("digits", np.repeat(pixels[:, :, :, None], 3, axis=3), splits, classes)


def figures() -> Part:
    """The drawn figures: 3,000 train, 1,000 val, classes in turn."""
    kinds = list(shapes.FIGURES)
    classes = [kinds[index % len(kinds)] for index in range(SHAPES_ALL)]
    splits = ["train" if index < SHAPES_TRAIN else "val" for index in range(SHAPES_ALL)]
    return arrays_part("shapes", shapes.drawn(SHAPES_ALL), splits, classes)


def arrays_part(kind: str, pixels: npt.NDArray[np.uint8], splits: Sequence[str], classes: Sequence[str]) -> Part:
    """Images in memory, uint8 (rows, height, width, 3), as a part."""
    trio = zip(splits, classes, range(len(pixels)), strict=True)
    names = [f"{split}/{label}/{position:05d}" for split, label, position in trio]
    marks = np.array([[zlib.crc32(image)] for image in pixels], dtype=np.int64)
    return Part(kind, names, list(splits), list(classes), marks, Arrays(pixels))


SETS = {"digits": digits, "shapes": figures}
