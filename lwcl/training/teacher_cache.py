"""What a frozen teacher says of K crops of each of N images, (K, N, D), computed once and mapped from disk.

CompRess keeps its teacher's answers too, those to the centre crop (arXiv 2010.14713, its code). They are kept as
bfloat16 unless told otherwise: raw features have no bound, and it holds whatever float32 does. It moves the cosine of
two images by 0.0001 to 0.0002 (root mean square, at most 0.0012; ResNet-18 and MobileNetV3 trained on Imagenette),
under a thousandth of what cosines differ by. Float16 moves it by an eighth of that, and is for unit embeddings.
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
from lwcl.formatting import json_text
from lwcl.system.atomic_files import cache_folder, explain_disk_errors, write_atomically
from lwcl.system.chunk_file import ChunkFile
from lwcl.system.lock import wait_for_lock

TEACHER_CACHE_FORMAT = 1
TEACHER_CHUNK_ROWS = 1024  # answers in a chunk, all to the same crop: what a kill can cost
MAX_EAGER_CHECK_BYTES = 10**9  # bytes (about a second); in a larger cache each chunk is checked when it is first read
TEACHER_CACHE_MANIFEST = "manifest.json"

TeacherCacheShape = tuple[int, int, int]
ComputeOutputs = Callable[[int, Tensor], Tensor]
ReportProgress = Callable[[int, int], None]


def teacher_cache_bytes(crops: int, images: int, width: int, dtype: torch.dtype = torch.bfloat16) -> int:
    """Bytes that answers (crops, images, width) take on disk."""
    return crops * images * width * dtype.itemsize


class TeacherCache:
    """Answers of `shape` (K crops, N images, width D) in `folder`, whose manifest `about` tells what they are of."""

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
        """The answers of the teacher, images and views that `fingerprint` (JSON) tells, as far as they are there.

        They are in `folder`, or else where the cache folder keeps them; nothing is made before `fill`. Damaged chunks
        count as not there. Raises `StorageError` when the folder holds other answers.
        """
        kind = {
            "format": TEACHER_CACHE_FORMAT,
            "chunk_rows": TEACHER_CHUNK_ROWS,
            "dtype": str(dtype).removeprefix("torch."),
            "shape": shape,
        }
        text = json_text({**kind, "fingerprint": fingerprint}, sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()[:32]
        cache = cls(folder or cache_folder() / "teachers" / key, json.loads(text), shape, dtype)
        cache._learn()
        return cache

    @property
    def done(self) -> int:
        """How many of the K x N answers are there."""
        return sum(self._count(chunk) for chunk in self._chunks.noted)

    def fill(self, compute: ComputeOutputs, batch_size: int, tell: ReportProgress) -> None:
        """Computes what is missing: `compute(crop, index (B,))` gives (B, D); `tell` hears how many of how many rows.

        One process fills; others wait, and take what it made. The batches are the same whatever was killed before.
        Raises `TrainingDivergedError` for answers that are not finite, `UsageError` for those that the type cannot
        hold, and
        `StorageError` when the disk refuses; what is done stays.
        """
        with ExitStack() as stack:
            with explain_disk_errors(self.folder):
                stack.enter_context(wait_for_lock(self.folder / ".lock"))
                self._learn()
                missing = self._chunks.missing()
                if missing:
                    self._chunks.begin()
                    write_atomically(self.folder / TEACHER_CACHE_MANIFEST, json_text(self.about, indent=2))
            for chunk in missing:
                content = self._computed(chunk, compute, batch_size, tell).view(torch.uint8).numpy().tobytes()
                with explain_disk_errors(self.folder):
                    self._chunks.write(chunk, content)

    def rows(self, crop: int, index: Tensor) -> Tensor:
        """Answers (B, D) float32 to a crop of images `index` (B,); the cache must be filled.

        Raises `StorageError` where they are damaged; the next `fill` then computes them again.
        """
        self._check(crop, set((index // TEACHER_CHUNK_ROWS).tolist()))
        return self._mapped()[crop].index_select(0, index).float()

    def whole(self, crop: int) -> Tensor:
        """Answers (N, D) float32 to a crop of all images; else as `rows`."""
        self._check(crop, range(len(self._slices)))
        return self._mapped()[crop].float()

    def _count(self, chunk: int) -> int:
        """The answers in a chunk."""
        return len(range(self.shape[1])[self._slices[chunk % len(self._slices)]])

    def _computed(self, chunk: int, compute: ComputeOutputs, batch_size: int, tell: ReportProgress) -> Tensor:
        """The answers of a chunk (rows, D), in the type they are kept in."""
        crop, place = divmod(chunk, len(self._slices))
        before, kept = self.done, list[Tensor]()
        for index in torch.split(torch.arange(self.shape[1])[self._slices[place]], batch_size):
            found = compute(crop, index).detach().float().cpu()
            assert found.shape == (len(index), self.shape[2]), f"{tuple(found.shape)} answers to {len(index)} images"
            kept.append(found.to(self.dtype))
            check_storable(found, kept[-1], index)
            tell(before + sum(map(len, kept)), self.shape[0] * self.shape[1])
        return torch.cat(kept)

    def _learn(self) -> None:
        """Reads what is there and drops what is damaged. Raises `StorageError` when it is of another teacher."""
        self._chunks.noted = {}
        if not (self.folder / TEACHER_CACHE_MANIFEST).exists():
            return
        self._must_be_ours()
        with explain_disk_errors(self.folder):
            self._chunks.learn()
            if teacher_cache_bytes(*self.shape, self.dtype) <= MAX_EAGER_CHECK_BYTES:
                self._chunks.drop(self._chunks.damaged(self._chunks.noted))

    def _must_be_ours(self) -> None:
        """Raises `StorageError` unless the manifest tells what is wanted."""
        remedy = f"Remove {str(self.folder)!r}, or name another folder."
        try:
            found = json.loads((self.folder / TEACHER_CACHE_MANIFEST).read_bytes())
            there, wanted = found.pop("fingerprint"), {**self.about}
            differing = settings_diff(there, wanted.pop("fingerprint")) | settings_diff(found, wanted)
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise StorageError(f"The manifest in {str(self.folder)!r} is damaged.", f"{error}.", remedy) from error
        if differing:
            why = "; ".join(f"{name}: {old} there, {new} wanted" for name, (old, new) in differing.items())
            raise StorageError(f"{str(self.folder)!r} holds a teacher's answers to something else.", f"{why}.", remedy)

    def _check(self, crop: int, places: Iterable[int]) -> None:
        """Raises `StorageError` when chunks of a crop are damaged, and notes on disk that they are not there."""
        with explain_disk_errors(self.folder):
            damaged = self._chunks.damaged(crop * len(self._slices) + place for place in places)
            if damaged:
                with wait_for_lock(self.folder / ".lock"):
                    self._chunks.drop(damaged)
                    self._chunks.note_all()
        if damaged:
            raise StorageError(
                f"{len(damaged)} chunks of the teacher's answers in {str(self.folder)!r} are damaged.",
                "They were changed since they were written, or the disk fails.",
                "Run again: they alone are computed again.",
            )

    def _mapped(self) -> Tensor:
        """All answers, mapped into memory: (K, N, D) in the type they are kept in."""
        if self._map is None:
            assert not self._chunks.missing(), "fill first"
            count = self.shape[0] * self.shape[1] * self.shape[2]
            flat = torch.from_file(str(self._chunks.path), shared=False, size=count, dtype=self.dtype)
            self._map = flat.view(self.shape)
        return self._map


def check_storable(found: Tensor, kept: Tensor, index: Tensor) -> None:
    """Raises `TrainingDivergedError` for answers (B, D) that are not finite, `UsageError` where they are not finite
    as kept."""
    if bool(kept.isfinite().all()):
        return
    finite = found.isfinite().all(1)
    if not bool(finite.all()):
        raise TrainingDivergedError(
            f"The teacher's answer to image {int(index[~finite][0])} is not finite.",
            "Its weights are damaged or its training diverged.",
            "Give another teacher, or compute in float32: --precision fp32.",
        )
    reach, end = float(found.abs().max()), torch.finfo(kept.dtype)
    raise UsageError(
        f"The teacher's answers reach {reach:g}, and {end.dtype} ends at {end.max:g}.",
        remedy="Keep them as bfloat16, which holds whatever float32 does.",
    )
