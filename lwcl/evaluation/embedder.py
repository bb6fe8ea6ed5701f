"""Embeddings of all images of a set, computed in chunks that are kept on disk: memory stays flat, and a kill costs one.

The chunks lie in a hidden folder beside the file that is to be written, until it is written.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from lwcl.data.augment.views import normalise_images
from lwcl.data.dataset import BrokenImage, ImageSet
from lwcl.data.eval_loader import CenterCropDataset
from lwcl.data.workers import load_in_workers
from lwcl.formatting import json_text
from lwcl.models.loaded import LoadedEncoder
from lwcl.reporting.console import Screen
from lwcl.system.atomic_files import explain_disk_errors, write_atomically
from lwcl.system.chunk_file import ChunkFile
from lwcl.system.compute import Compute
from lwcl.system.lock import folder_lock

MANIFEST_FILE = "manifest.json"


class Embedder:
    """The embeddings (N, D) of an image set by an encoder; `head`: after its projection head."""

    def __init__(
        self, loaded: LoadedEncoder, images: ImageSet, compute: Compute, *, head: bool, batch_size: int, workers: int
    ) -> None:
        self.loaded, self.images, self.compute, self.head, self.workers = loaded, images, compute, head, workers
        self.encoder = compute.place(loaded.encoder).eval()
        self.width = self.encoder.head_widths[-1] if head else self.encoder.width
        self.chunks = [chunk.tolist() for chunk in torch.split(torch.arange(len(images)), batch_size)]
        self.broken: set[BrokenImage] = set()

    @torch.inference_mode()
    def embed(self, pixels: Tensor) -> Tensor:
        """The embeddings of center crops, (B, C, size, size): (B, D) float32 on the CPU."""
        spec = self.loaded.input_spec
        views = normalise_images(
            pixels.to(self.compute.device), **spec.normalisation, channels_last=self.compute.channels_last
        )
        with self.compute.context():
            rows = self.encoder(views) if self.head else self.encoder.features(views)
        return rows.float().cpu()

    def rows_of(self, items: list[tuple[Tensor, list[BrokenImage]]]) -> NDArray[numpy.float32]:
        """The embeddings of loaded images; NaN for broken ones."""
        rows: NDArray[numpy.float32] = self.embed(torch.stack([pixels for pixels, _ in items])).numpy()
        for row, (_, broken) in zip(rows, items, strict=True):
            if broken:  # the pixels are those of another image
                self.broken.add(broken[0])
                row[:] = numpy.nan
        return rows

    def compute_chunks(self, wanted: list[int]) -> Iterator[tuple[int, NDArray[numpy.float32]]]:
        """The embeddings of some chunks, in order."""
        dataset = CenterCropDataset(self.images, self.loaded.input_spec)
        loaded = load_in_workers(dataset, [self.chunks[chunk] for chunk in wanted], self.workers)
        for chunk, items in zip(wanted, loaded, strict=True):
            yield chunk, self.rows_of(items)

    def fill(self, folder: Path, fingerprint: dict[str, Any], screen: Screen) -> NDArray[numpy.float32]:
        """All embeddings, mapped from `folder`; those that are there from an interrupted call are kept.

        `fingerprint`: what they depend on; chunks of another one are removed. Raises `StorageError`.
        """
        file = ChunkFile(folder, [4 * self.width * len(chunk) for chunk in self.chunks])
        with explain_disk_errors(folder, file.starts[-1]):
            folder.mkdir(parents=True, exist_ok=True)
        with explain_disk_errors(folder, file.starts[-1]), folder_lock(folder):
            open_chunks(file, fingerprint)
            wanted = file.missing()
            done = len(self.images) - sum(len(self.chunks[chunk]) for chunk in wanted)
            with screen.counting(f"{self.loaded.name}: embeddings", len(self.images)) as counting:
                counting.advance(done)
                for chunk, rows in self.compute_chunks(wanted):
                    file.write(chunk, rows.tobytes())
                    counting.advance(len(rows))
        return numpy.memmap(file.path, numpy.float32, "r", shape=(len(self.images), self.width))


def open_chunks(file: ChunkFile, fingerprint: dict[str, Any]) -> None:
    """Prepare a chunk file: keep the sound chunks of the same fingerprint, drop all others."""
    manifest, text = file.folder / MANIFEST_FILE, json_text(fingerprint, sort_keys=True)
    if manifest.exists() and json.loads(manifest.read_bytes()) == json.loads(text):
        file.learn()
        file.drop(file.damaged(file.noted))
    else:
        for path in (file.path, manifest):
            path.unlink(missing_ok=True)
    file.begin()
    write_atomically(manifest, text)
