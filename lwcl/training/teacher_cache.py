"""A frozen teacher's outputs for K crops of each of N images, (K, N, D), computed once and memory-mapped from disk.

CompRess caches its teacher's outputs for the center crop (arXiv 2010.14713, its code). The default is bfloat16, since
raw features are unbounded and it has the range of float32. It changes the cosine of two images by 0.0001 to 0.0002
(root mean square, at most 0.0012; ResNet-18 and MobileNetV3 trained on Imagenette), less than a thousandth of the
spread of cosines. Float16 changes it by an eighth of that, and suits unit embeddings.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lwcl.config.diff import settings_diff
from lwcl.errors import StorageError, TrainingDivergedError, UsageError
from lwcl.formatting import json_text, plural
from lwcl.system import distributed
from lwcl.system.atomic_files import cache_folder, explain_disk_errors, write_atomically
from lwcl.system.chunk_file import ChunkFile
from lwcl.system.lock import wait_for_lock
from lwcl.system.ranks import current_ranks

TEACHER_CACHE_FORMAT = 1
TEACHER_CHUNK_ROWS = 1024  # outputs in a chunk, all of the same crop: what a kill can lose
MAX_EAGER_CHECK_BYTES = 10**9  # checked on opening (about a second); in a larger cache, chunks on first read
TEACHER_CACHE_MANIFEST = "manifest.json"

TeacherCacheShape = tuple[int, int, int]
ComputeOutputs = Callable[[int, Tensor], Tensor]
ReportProgress = Callable[[int, int], None]


def teacher_cache_bytes(crops: int, images: int, width: int, dtype: torch.dtype = torch.bfloat16) -> int:
    """Bytes on disk of outputs (crops, images, width)."""
    return crops * images * width * dtype.itemsize


class TeacherCache:
    """Outputs of `shape` (K crops, N images, width D) in `folder`, identified by the manifest `about`."""

    def __init__(self, folder: Path, about: Mapping[str, Any], shape: TeacherCacheShape, dtype: torch.dtype) -> None:
        self.folder, self.about, self.shape, self.dtype = folder, about, shape, dtype
        self._slices = [slice(start, start + TEACHER_CHUNK_ROWS) for start in range(0, shape[1], TEACHER_CHUNK_ROWS)]
        sizes = [
            teacher_cache_bytes(1, self._count(chunk), shape[2], dtype) for chunk in range(shape[0] * len(self._slices))
        ]
        self._chunks = ChunkFile(folder, sizes)
        self._map: Tensor | None = None

    @classmethod
    def open(
        cls,
        fingerprint: Mapping[str, Any],
        shape: TeacherCacheShape,
        dtype: torch.dtype = torch.bfloat16,
        folder: Path | None = None,
    ) -> "TeacherCache":
        """The outputs for the teacher, images and views of `fingerprint` (JSON), as far as they are cached.

        They are in `folder`, by default in the cache folder; nothing is created before `fill`. Damaged chunks count as
        missing. Raises `StorageError` if the folder holds other outputs.
        """
        layout = {
            "format": TEACHER_CACHE_FORMAT,
            "chunk_rows": TEACHER_CHUNK_ROWS,
            "dtype": str(dtype).removeprefix("torch."),
            "shape": shape,
        }
        text = json_text({**layout, "fingerprint": fingerprint}, sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()[:32]
        cache = cls(folder or cache_folder() / "teachers" / key, json.loads(text), shape, dtype)
        cache._read_state()
        return cache

    @property
    def done(self) -> int:
        """The number of cached outputs, of K x N."""
        return sum(self._count(chunk) for chunk in self._chunks.noted)

    def fill(self, compute: ComputeOutputs, batch_size: int, report: ReportProgress) -> None:
        """Computes what is missing: `compute(crop, index (B,))` returns (B, D); `report(done, total)` after each batch.

        One process fills, others wait and use the result; those that train together compute a chunk each in turn, and
        one of each machine writes them. Batches do not depend on earlier interruptions. Raises
        `TrainingDivergedError` for outputs that are not finite, `UsageError` for those out of range of the type, and
        `StorageError` if writing fails; what is done stays.
        """
        with ExitStack() as stack:
            writes = current_ranks().local_rank == 0
            with explain_disk_errors(self.folder):
                if writes:
                    stack.enter_context(wait_for_lock(self.folder / ".lock"))
                self._read_state()
                missing = sorted(
                    {chunk for chunks in distributed.all_gather_json(self._chunks.missing()) for chunk in chunks}
                )
                if missing and writes:
                    self._chunks.begin()
                    write_atomically(self.folder / TEACHER_CACHE_MANIFEST, json_text(self.about, indent=2))
            for number in range(0, len(missing), distributed.world_size()):
                turn = missing[number : number + distributed.world_size()]
                for chunk, content in zip(turn, self._compute_turn(turn, compute, batch_size, report), strict=True):
                    if writes:
                        with explain_disk_errors(self.folder):
                            self._chunks.write(chunk, content)
            distributed.all_gather_json(None)  # what is read now has been written
        if not writes:
            self._read_state()

    def rows(self, crop: int, index: Tensor) -> Tensor:
        """Outputs (B, D) float32 for a crop of the images at `index` (B,); the cache must be filled.

        Raises `StorageError` if they are damaged; the next `fill` computes them again.
        """
        self._check(crop, set((index // TEACHER_CHUNK_ROWS).tolist()))
        return self._mapped()[crop].index_select(0, index).float()

    def whole(self, crop: int) -> Tensor:
        """Outputs (N, D) float32 for a crop of all images; otherwise as `rows`."""
        self._check(crop, range(len(self._slices)))
        return self._mapped()[crop].float()

    def _count(self, chunk: int) -> int:
        """The number of outputs in a chunk."""
        return len(range(self.shape[1])[self._slices[chunk % len(self._slices)]])

    def _compute_turn(
        self, turn: list[int], compute: ComputeOutputs, batch_size: int, report: ReportProgress
    ) -> list[bytes]:
        """The content of some chunks, of which each process computes one."""
        own, size = (
            distributed.rank(),
            teacher_cache_bytes(1, min(TEACHER_CHUNK_ROWS, self.shape[1]), self.shape[2], self.dtype),
        )
        content = torch.zeros(size, dtype=torch.uint8)
        if own < len(turn):
            rows = self._compute_chunk(turn[own], compute, batch_size, report).view(torch.uint8).flatten()
            content[: len(rows)] = rows
        sizes = [teacher_cache_bytes(1, self._count(chunk), self.shape[2], self.dtype) for chunk in turn]
        gathered = distributed.all_gather_rows(content[None])
        return [row[:end].numpy().tobytes() for row, end in zip(gathered, sizes, strict=False)]

    def _compute_chunk(self, chunk: int, compute: ComputeOutputs, batch_size: int, report: ReportProgress) -> Tensor:
        """The outputs of a chunk (rows, D), in the type of the cache."""
        crop, place = divmod(chunk, len(self._slices))
        before, stored = self.done, list[Tensor]()
        for index in torch.split(torch.arange(self.shape[1])[self._slices[place]], batch_size):
            outputs = compute(crop, index).detach().float().cpu()
            assert outputs.shape == (len(index), self.shape[2]), f"{tuple(outputs.shape)} for {len(index)} images"
            stored.append(outputs.to(self.dtype))
            check_storable(outputs, stored[-1], index)
            report(before + sum(map(len, stored)), self.shape[0] * self.shape[1])
        return torch.cat(stored)

    def _read_state(self) -> None:
        """Reads what is cached and drops damaged chunks. Raises `StorageError` if the manifest differs."""
        self._chunks.noted = {}
        if not (self.folder / TEACHER_CACHE_MANIFEST).exists():
            return
        self._check_manifest()
        with explain_disk_errors(self.folder):
            self._chunks.learn()
            if teacher_cache_bytes(*self.shape, self.dtype) <= MAX_EAGER_CHECK_BYTES:
                self._chunks.drop(self._chunks.damaged(self._chunks.noted))

    def _check_manifest(self) -> None:
        """Raises `StorageError` if the manifest is of other outputs."""
        remedy = f"Remove {str(self.folder)!r}, or name another folder."
        try:
            cached = json.loads((self.folder / TEACHER_CACHE_MANIFEST).read_bytes())
            fingerprint, wanted = cached.pop("fingerprint"), {**self.about}
            differing = settings_diff(fingerprint, wanted.pop("fingerprint")) | settings_diff(cached, wanted)
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise StorageError(f"The manifest in {str(self.folder)!r} is damaged.", f"{error}.", remedy) from error
        if differing:
            why = "; ".join(f"{name}: cached {old}, expected {new}" for name, (old, new) in differing.items())
            raise StorageError(f"{str(self.folder)!r} holds other teacher outputs.", f"{why}.", remedy)

    def _check(self, crop: int, places: Iterable[int]) -> None:
        """Raises `StorageError` if chunks of a crop are damaged, after marking them as missing on disk."""
        with explain_disk_errors(self.folder):
            damaged = self._chunks.damaged(crop * len(self._slices) + place for place in places)
            if damaged:
                with wait_for_lock(self.folder / ".lock"):
                    self._chunks.drop(damaged)
                    self._chunks.note_all()
        if damaged:
            raise StorageError(
                f"{plural(len(damaged), 'chunk')} of teacher outputs in {str(self.folder)!r} damaged.",
                "The file was changed, or the disk is failing.",
                "Run the command again: only damaged chunks are computed again.",
            )

    def _mapped(self) -> Tensor:
        """All outputs, memory-mapped: (K, N, D) in the type of the cache."""
        if self._map is None:
            assert not self._chunks.missing(), "fill first"
            count = self.shape[0] * self.shape[1] * self.shape[2]
            flat = torch.from_file(str(self._chunks.path), shared=False, size=count, dtype=self.dtype)
            self._map = flat.view(self.shape)
        return self._map


def check_storable(outputs: Tensor, stored: Tensor, index: Tensor) -> None:
    """Raises `TrainingDivergedError` for outputs (B, D) that are not finite, `UsageError` if `stored` overflows."""
    if bool(stored.isfinite().all()):
        return
    finite = outputs.isfinite().all(1)
    if not bool(finite.all()):
        raise TrainingDivergedError(
            f"The teacher's output for image {int(index[~finite][0])} is not finite.",
            "Its weights are damaged, or its training diverged.",
            "Give another teacher, or --teacher-precision fp32.",
        )
    largest, limits = float(outputs.abs().max()), torch.finfo(stored.dtype)
    raise UsageError(
        f"Teacher outputs of up to {largest:g} overflow {limits.dtype}, whose maximum is {limits.max:g}.",
        remedy="Cache them in bfloat16, which has the range of float32.",
    )
