"""Features and kNN accuracy of encoders on labelled images; also the monitor of a training run."""

import functools
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

import numpy
import torch
from torch import Tensor

from lwcl import engine
from lwcl.config.knn_presets import DEFAULT_VOTE, Vote
from lwcl.config.train_options import DataOptions
from lwcl.data.copies import HASH_BYTES, Copies, copy_notes, find_copies, pixel_hashes
from lwcl.data.dataset import BrokenImage, ImageSet
from lwcl.data.eval_loader import center_crop_batches, eval_batches
from lwcl.data.labelled import open_labelled_pair
from lwcl.data.workers import worker_count
from lwcl.errors import TrainingDivergedError
from lwcl.evaluation.subjects import Subject
from lwcl.formatting import plural
from lwcl.metrics.bootstrap import Accuracy, bootstrap_interval, mean_top1, paired_gain
from lwcl.metrics.health import all_finite
from lwcl.metrics.knn import KnnScore, best_knn, knn_score
from lwcl.models.loaded import InputSpec, LoadedEncoder
from lwcl.reporting.console import Screen
from lwcl.reporting.knn import EncoderResult
from lwcl.system import distributed
from lwcl.system.compute import Compute
from lwcl.system.limits import available_memory

MAX_MEMORY_SHARE = 0.25  # of the available memory, for decoded batches
B = TypeVar("B")


class BatchCache(Generic[B]):
    """Decoded batches by key, kept for the next encoder if they take less than `MAX_MEMORY_SHARE` of the memory."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, list[B]] = {}

    def batches(self, key: Hashable, size: int, decode: Callable[[], Iterable[B]]) -> Iterator[B]:
        """The batches of a key, `size` bytes together, from memory or decoded anew."""
        if key in self._kept:
            yield from self._kept[key]
            return
        fits = size < MAX_MEMORY_SHARE * available_memory()
        kept: list[B] = []
        for batch in decode():
            if fits:
                kept.append(batch)
            yield batch
        if fits:
            self._kept[key] = kept


class Evaluator:
    """Features and kNN accuracy on a labelled bank and labelled queries; decodes them once if memory allows."""

    def __init__(
        self, bank: ImageSet, queries: ImageSet, *, screen: Screen, batch_size: int = 256, workers: int = 0
    ) -> None:
        self.bank, self.queries = bank, queries
        self.batch_size, self.workers, self.screen = batch_size, workers, screen
        self.broken: set[BrokenImage] = set()
        self.notes: list[str] = []  # what is left out or counts as wrong, for the report
        self.copies: Copies | None = None  # known when the images have been decoded once
        self._cache: BatchCache[Tensor] = BatchCache()
        self._hashes: tuple[list[bytes], list[bytes]] = ([], [])

    def features(self, loaded: LoadedEncoder, compute: Compute) -> tuple[Tensor, Tensor]:
        """The backbone's features of bank (M, D) and queries (N, D). Raises `TrainingDivergedError` if not finite.

        Several processes compute a share each, and the first has them all.
        """
        encoder, spec = compute.place(loaded.encoder), loaded.input_spec
        features = []
        for images in (self.bank, self.queries):
            with self.screen.counting(f"{loaded.name}: features", len(images)) as counting:
                share = distributed.Share(len(images), self.batch_size)
                pixels = self._pixels(images, spec, share.own, counting.advance)
                batches = eval_batches(pixels, images.labels[share.own], spec, compute)
                features.append(share.together(engine.extract_features(encoder, batches, compute, len(share.own))))
        if distributed.rank() == 0:
            check_features_finite(loaded.name, *features)
        if self.copies is None:
            self.copies = find_copies(*(self._all_hashes(number) for number in (0, 1)))
            self.broken.update(
                BrokenImage(*row) for rows in distributed.all_gather_json(list(self.broken)) for row in rows
            )
            self.notes += copy_notes(self.copies, len(self.queries))
        return features[0], features[1]

    def _all_hashes(self, number: int) -> Sequence[bytes]:
        """The hashes of all images of the bank (0) or of the queries (1)."""
        own = torch.from_numpy(numpy.frombuffer(b"".join(self._hashes[number]), numpy.uint8).copy())
        own = own.reshape(len(self._hashes[number]), HASH_BYTES)
        share = distributed.Share(len((self.bank, self.queries)[number]), self.batch_size)
        return [row.tobytes() for row in share.together(own).numpy()]

    def _pixels(
        self, images: ImageSet, spec: InputSpec, places: Tensor, advance: Callable[[int], None]
    ) -> Iterator[Tensor]:
        """Center crops of the images at `places`, (B, C, size, size)."""
        decode = functools.partial(
            center_crop_batches,
            images,
            spec,
            batch_size=self.batch_size,
            workers=self.workers,
            broken=self.broken.add,
            places=places,
        )
        key = spec.size, spec.crop_pct, spec.pixel_format, images is self.bank
        hashes = self._hashes[0 if images is self.bank else 1]
        loaded_bytes = max(1, spec.pixel_format.frames) * spec.pixel_format.bytes * spec.size**2 * len(places)
        for pixels in self._cache.batches(key, loaded_bytes, decode):
            advance(len(pixels))
            if self.copies is None:
                hashes += pixel_hashes(pixels)
            yield pixels

    def score(self, loaded: LoadedEncoder, compute: Compute, vote: Vote | None = DEFAULT_VOTE) -> KnnScore:
        """kNN accuracy on the queries, ignoring copies of a query in the bank; with `vote` None, that of the best k."""
        bank, queries = self.features(loaded, compute)
        labelled = queries, self.queries.labels, bank, self.bank.labels
        copies = self.copies or {}
        if vote is None:
            return best_knn(*labelled, copies)
        return knn_score(*labelled, k=vote.k, temperature=vote.temperature, copies=copies)


def open_evaluator(
    options: DataOptions,
    batch_size: int,
    val: Sequence[str],
    seed: int,
    screen: Screen,
    *,
    known_classes: bool = False,
) -> Evaluator:
    """An evaluator on the labelled images that the options name."""
    bank, queries, notes, _ = open_labelled_pair(
        options.data,
        val,
        seed=seed,
        **options.reading,
        known_classes=known_classes,
    )
    classes = plural(len(bank.classes), "class", "classes")
    screen.say(f"kNN bank: {plural(len(bank), 'image')} of {classes}; queries: {plural(len(queries), 'image')}")
    workers = worker_count(options.workers, len(bank))
    evaluator = Evaluator(bank, queries, screen=screen, batch_size=batch_size, workers=workers)
    evaluator.notes.extend(notes)
    return evaluator


def check_features_finite(name: str, *features: Tensor) -> None:
    """Raises `TrainingDivergedError` unless all features (N, D) are finite."""
    if not all(map(all_finite, features)):
        raise TrainingDivergedError(
            f"{name}: its features are not finite.",
            "Its weights are damaged, or its training diverged.",
            "Train it again with a lower --lr, or give another checkpoint.",
        )


def encoder_result(
    subject: Subject, accuracy: Accuracy, baseline: Accuracy | None, seed: int, k: int | None = None
) -> EncoderResult:
    """An encoder's accuracy with bootstrap intervals, and the paired gain over its untrained `baseline`."""
    gain = paired_gain(accuracy.top1, baseline.top1, seed) if baseline else None
    return EncoderResult(
        name=subject.loaded.name,
        arch=subject.loaded.encoder.arch,
        top1=mean_top1(accuracy),
        top1_interval=bootstrap_interval(accuracy.top1, seed),
        top5=float(accuracy.top5.float().mean()),
        top5_interval=bootstrap_interval(accuracy.top5, seed),
        k=k,
        untrained=subject.untrained,
        gain=(gain[0], (gain[1], gain[2])) if gain else None,
    )
