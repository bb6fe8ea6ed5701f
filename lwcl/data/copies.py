"""Images that are the same, pixel for pixel: a query must not find itself, or its copy, in the bank."""

import collections
import hashlib
from collections.abc import Iterator, Sequence

from torch import Tensor

from lwcl.formatting import plural

HASH_BYTES = 16
Copies = dict[int, list[int]]  # of a query, the rows of the bank with the same pixels


def pixel_hashes(pixels: Tensor) -> list[bytes]:
    """A hash of each image of a batch, (B, C, side, side)."""
    return [hashlib.blake2b(image.tobytes(), digest_size=HASH_BYTES).digest() for image in pixels.contiguous().numpy()]


def find_copies(bank: Sequence[bytes], queries: Sequence[bytes]) -> Copies:
    """For each query with copies in the bank their rows, from the hashes of all images."""
    rows = collections.defaultdict(list)
    for row, one in enumerate(bank):
        rows[one].append(row)
    return {number: rows[one] for number, one in enumerate(queries) if one in rows}


def first_of_each(hashes: Sequence[bytes]) -> list[int]:
    """The positions of the images that no earlier one equals."""
    return sorted({one: position for position, one in reversed([*enumerate(hashes)])}.values())


def copy_notes(copies: Copies, queries: int) -> Iterator[str]:
    """A note for the report on queries that have copies in the bank."""
    if copies:
        yield (
            f"{len(copies):,} of {plural(queries, 'test image')} are pixel-identical to training images "
            "and do not test an encoder. kNN ignores those copies as neighbours."
        )
