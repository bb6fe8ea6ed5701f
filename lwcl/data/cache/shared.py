"""Decoded images in memory that the processes of a machine share: one decodes them, the others map what it has.

The memory has no name in any file system, so nothing is left of it when the processes end, however they do
(memfd_create(2)).
"""

import os
from collections.abc import Iterator

import torch

from lwcl.data.cache.decode_all import DecodedChunk
from lwcl.data.cache.disk import index_line, parse_index
from lwcl.data.cache.pixels import ImageIndex
from lwcl.system import distributed
from lwcl.system.ranks import current_ranks


def can_share_memory() -> bool:
    """Whether this system has memory that can be shared so: Linux."""
    return hasattr(os, "memfd_create")


class SharedMemory:
    """The bytes of decoded images and their index, which one process of each machine fills and the others map."""

    def __init__(self) -> None:
        self.files: list[int] = []

    def fill(self, chunks: Iterator[DecodedChunk], index: ImageIndex) -> None:
        """Stores the chunks; `index` grows as they are decoded."""
        self.files = [os.memfd_create(f"lwcl-{part}") for part in ("content", "index")]
        with open(self.files[0], "wb", closefd=False) as content, open(self.files[1], "wb", closefd=False) as notes:
            for chunk in chunks:
                content.write(chunk.content)
            notes.write(index_line(index).encode())

    def mapped(self) -> tuple[torch.Tensor, ImageIndex]:
        """The bytes (bytes,) and the index, in every process; to be called by all at once."""
        ranks = current_ranks()
        told = distributed.all_gather_json([f"/proc/{os.getpid()}/fd/{file}" for file in self.files])
        content, notes = told[ranks.rank - ranks.local_rank]
        index = ImageIndex.empty()
        with open(notes) as file:
            parse_index(file, index)
        pixels = torch.from_file(content, shared=False, size=sum(index.lengths), dtype=torch.uint8)
        distributed.all_gather_json(None)  # all have mapped it
        for opened in self.files:
            os.close(opened)
        return pixels, index
