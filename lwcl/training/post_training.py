"""A student of few bits beside what costs no training: its float32 twin, quantised after training."""

import copy
import dataclasses
import itertools
from typing import Any, NamedTuple

from torch import Tensor

from lwcl.checkpoints.load import load_encoder
from lwcl.config.train_options import CompressOptions
from lwcl.data.dataset import random_subset
from lwcl.evaluation.embed_images import CroppedImages
from lwcl.evaluation.evaluator import Evaluator
from lwcl.evaluation.int8_check import summarise_cosines
from lwcl.formatting import percent
from lwcl.metrics.bootstrap import Accuracy, bootstrap_interval, mean_top1, paired_gain
from lwcl.models.encoder import Encoder
from lwcl.models.loaded import LoadedEncoder
from lwcl.models.low_bits import LowBits, settle_ranges, simulate_bits, weight_bytes
from lwcl.reporting.knn import format_gain, format_interval
from lwcl.reporting.report import Table
from lwcl.training.state import TrainingState

CALIBRATION_IMAGES = 512  # whose extremes and batch statistics are taken
COMPARED_IMAGES = 256  # training images on which features are compared with the twin's
TWIN, RANGES, BATCH_NORM, TRAINED = "float32 twin", "post-training", "post-training, batch norm", "trained"
ROW_NAMES = {"training": TRAINED, "batch-norm": BATCH_NORM, "ranges": RANGES}
COLUMNS = ("Encoder", "Bits", "KB", "Cosine to float32", "1st percentile", "kNN top-1", "95% interval", "vs. this run")


class BitsRow(NamedTuple):
    """One encoder of the comparison; accuracies are shares of 1, None without labelled images."""

    name: str
    bits: LowBits | None
    bytes: int
    cosine: float  # of its features to the twin's, mean over images
    percentile_1: float
    top1: float | None = None
    interval: tuple[float, float] | None = None
    gain: tuple[float, tuple[float, float]] | None = None  # of this row over the run's encoder, paired


def needs_training(training: TrainingState) -> bool:
    """Whether a run takes steps: not where its bits come after training."""
    options = training.config.options
    return not isinstance(options, CompressOptions) or options.bits is None or options.bits_by == "training"


def calibration_batches(training: TrainingState) -> list[Tensor]:
    """Training views (B, 3, H, W) of `CALIBRATION_IMAGES` images, as the first steps see them."""
    loader = dataclasses.replace(training.loader, teacher=None)
    count = max(1, min(loader.steps_per_epoch, -(-CALIBRATION_IMAGES // loader.batch_size)))
    return [batch.views[0] for batch in itertools.islice(loader.batches(0, count), count)]


def quantise_student(training: TrainingState) -> None:
    """Finishes a student whose bits come after training."""
    by = training.config.values["bits_by"].value
    settle_ranges(training.net.student, calibration_batches(training), batch_norm=by == "batch-norm")


def post_training_encoders(
    training: TrainingState, twin: LoadedEncoder, bits: LowBits, mine: str
) -> dict[str, Encoder]:
    """The twin with these bits after training: with ranges alone, and with batch norm re-estimated, but for `mine`."""
    batches, found = calibration_batches(training), {}
    for name, batch_norm in ((RANGES, False), (BATCH_NORM, True)):
        if name == mine:
            continue
        encoder = simulate_bits(training.compute.place(copy.deepcopy(twin.encoder)), bits)
        settle_ranges(encoder, batches, batch_norm=batch_norm)
        found[name] = encoder
    return found


def compare_bits(training: TrainingState, bits: LowBits, evaluator: Evaluator | None) -> list[BitsRow]:
    """The run's encoder, its float32 twin, and the twin quantised after training, by features and by kNN."""
    options = training.config.options
    twin = load_encoder(str(options.init), image_size=options.image_size)
    mine = ROW_NAMES[training.config.values["bits_by"].value]
    encoders = {TWIN: twin.encoder, **post_training_encoders(training, twin, bits, mine), mine: training.net.student}
    loaded = {name: dataclasses.replace(twin, name=name, encoder=encoder) for name, encoder in encoders.items()}
    crops = CroppedImages(random_subset(training.images, COMPARED_IMAGES, options.seed), training.input_spec)
    wanted = crops.features(twin)
    scores = (
        {name: evaluator.score(one, training.compute).accuracy for name, one in loaded.items()} if evaluator else {}
    )
    rows = []
    for name, one in loaded.items():
        cosines = summarise_cosines(crops.features(one), wanted)
        size = weight_bytes(one.encoder)
        known = () if not scores else knn_cells(scores[name], scores[mine] if name != mine else None, options.seed)
        rows.append(BitsRow(name, one.encoder.bits, size, cosines.mean, cosines.percentile_1, *known))
    return rows


def knn_cells(accuracy: Accuracy, run: Accuracy | None, seed: int) -> tuple[Any, ...]:
    """Accuracy with its interval, and the paired gain over the run's encoder."""
    gain = paired_gain(accuracy.top1, run.top1, seed) if run else None
    return mean_top1(accuracy), bootstrap_interval(accuracy.top1, seed), (gain[0], gain[1:]) if gain else None


def bits_table(rows: list[BitsRow]) -> Table:
    """The comparison as a table."""
    cells = tuple(
        (
            row.name,
            f"{row.bits.weights}/{row.bits.activations}" if row.bits else "32/32",
            round(row.bytes / 1000),
            round(row.cosine, 3),
            round(row.percentile_1, 3),
            None if row.top1 is None else percent(row.top1),
            row.interval and format_interval(row.interval),
            format_gain(row.gain),
        )
        for row in rows
    )
    note = (
        "Bits of weights/activations, simulated in float32; first and last layer 8 bits. KB: backbone, weights packed."
    )
    return Table("Few bits", COLUMNS, cells, note)


def bits_verdict(rows: list[BitsRow]) -> str:
    """Whether training was worth it: by paired kNN accuracy, or without labels by the cosine to the twin."""
    known = {row.name: row for row in rows}
    if TRAINED not in known:
        mine = rows[-1]
        return f"No training: mean cosine {mine.cosine:.3f} to the features of the float32 twin."
    best = max((known[RANGES], known[BATCH_NORM]), key=lambda row: (row.top1 or 0, row.cosine))
    if best.gain is None:
        mine = known[TRAINED]
        better = mine.cosine > best.cosine
        verdict = "Training brought the features nearer to the twin's" if better else "Training was not needed"
        return f"{verdict}: mean cosine {mine.cosine:.3f}, without training {best.cosine:.3f} ({best.name})."
    gain, (low, high) = -best.gain[0], (-best.gain[1][1], -best.gain[1][0])
    points = f"{100 * gain:+.1f} points over {best.name}, 95% interval {100 * low:+.1f} to {100 * high:+.1f}"
    if low > 0:
        return f"Training was worth it: {points}."
    remedy = " `--bits-by batch-norm` gives that without training." if best.name == BATCH_NORM else ""
    return f"Training was not needed: {points}.{remedy}"
