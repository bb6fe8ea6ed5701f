"""What int8 costs: the written file against its float32 twin, as this machine runs it and as it is written."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lwcl.checkpoints.onnx_encoder import OnnxBackbone, OnnxEncoder
from lwcl.config.knn_presets import DEFAULT_VOTE
from lwcl.data.dataset import ImageSet
from lwcl.evaluation.embed_images import CroppedImages
from lwcl.evaluation.latency import Latency, measure_latency
from lwcl.metrics.bootstrap import Accuracy, mean_top1, paired_gain
from lwcl.metrics.knn import knn_score
from lwcl.models.loaded import LoadedEncoder

MIN_INT8_COSINE = 0.98
SATURATION_GAP = 0.005  # mean cosine that the file loses as this machine runs it
MAX_BANK, MAX_QUERIES = 2000, 1000  # labelled images of the kNN comparison


class CosineSummary(NamedTuple):
    """Cosines of int8 to float32 features over images."""

    mean: float
    percentile_1: float
    least: float


class KnnChange(NamedTuple):
    """kNN top-1 of float32 and int8, and the paired difference with its 95 % interval; shares of 1."""

    float32: float
    int8: float
    change: float
    interval: tuple[float, float]
    images: int


class Int8Check(NamedTuple):
    """The cost of an int8 file."""

    as_run: CosineSummary
    unfused: CosineSummary  # without onnxruntime's int8 kernels: what the file says
    images: int
    knn: KnnChange | None
    latency: Latency
    float32_latency: Latency

    @property
    def saturates(self) -> bool:
        """Whether this processor's int8 kernels lose what the file keeps."""
        return self.unfused.mean - self.as_run.mean > SATURATION_GAP

    def as_json(self) -> dict[str, Any]:
        """The check as nested dicts."""
        nested = {
            name: value._asdict() if isinstance(value, CosineSummary | KnnChange | Latency) else value
            for name, value in self._asdict().items()
        }
        return {**nested, "saturates": self.saturates}


def check_int8(
    float32: LoadedEncoder, int8: LoadedEncoder, images: ImageSet, pair: tuple[ImageSet, ImageSet] | None, *,
    threads: int, seed: int,
) -> Int8Check:  # fmt: skip
    """Compare two ONNX files on images that were not used for calibration, and by kNN on a labelled pair."""
    crops = CroppedImages(images, int8.input_spec)
    wanted = crops.features(float32)
    return Int8Check(
        as_run=summarise_cosines(crops.features(int8), wanted),
        unfused=summarise_cosines(crops.features(as_written(int8)), wanted),
        images=len(images),
        knn=knn_change(float32, int8, pair, seed) if pair else None,
        latency=measure_latency(int8, 1, threads=threads),
        float32_latency=measure_latency(float32, 1, threads=threads),
    )


def summarise_cosines(found: Tensor, wanted: Tensor) -> CosineSummary:
    """Cosines of rows (N, D) with their twins."""
    cosines = torch.cosine_similarity(found.double(), wanted.double())
    return CosineSummary(float(cosines.mean()), float(cosines.quantile(0.01)), float(cosines.min()))


def as_written(loaded: LoadedEncoder) -> LoadedEncoder:
    """The same ONNX file, run without graph optimisations."""
    old = loaded.encoder
    assert isinstance(old, OnnxEncoder) and isinstance(old.backbone, OnnxBackbone)
    path: Path = old.backbone.path
    backbone = OnnxBackbone(path, loaded.input_spec, with_preprocess=old.backbone.with_preprocess, fused=False)
    encoder = OnnxEncoder(old.arch, old.arguments, old.width, backbone).eval()
    return LoadedEncoder(loaded.name, encoder, loaded.input_spec, loaded.metadata)


def knn_change(float32: LoadedEncoder, int8: LoadedEncoder, pair: tuple[ImageSet, ImageSet], seed: int) -> KnnChange:
    """The kNN accuracy of both files, each with a bank of its own, on the same images."""
    bank, queries = (CroppedImages(images, int8.input_spec) for images in pair)

    def score(loaded: LoadedEncoder) -> Accuracy:
        labelled = queries.features(loaded), queries.images.labels, bank.features(loaded), bank.images.labels
        return knn_score(*labelled, k=DEFAULT_VOTE.k, temperature=DEFAULT_VOTE.temperature).accuracy

    before, after = score(float32), score(int8)
    change, low, high = paired_gain(after.top1, before.top1, seed)
    return KnnChange(mean_top1(before), mean_top1(after), change, (low, high), len(queries.images))
