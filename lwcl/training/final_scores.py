"""What a finished training is worth: kNN of the encoder beside an untrained one, and beside its teacher."""

from typing import NamedTuple

from lwcl.data.dataset import ImageSet
from lwcl.data.labelled import open_labelled_pair
from lwcl.evaluation.judge import Evaluator, encoder_result, untrained_like
from lwcl.metrics.bootstrap import gap_closed
from lwcl.metrics.cost import measure_cost
from lwcl.reporting.console import Screen
from lwcl.reporting.distillation import DistillationRow, GapShare
from lwcl.reporting.knn import EncoderResult
from lwcl.rng import epoch_permutation
from lwcl.runs.folder import RunFolder
from lwcl.system.device import choose_compute
from lwcl.training.state import TrainingState

BANK, QUERIES = 20_000, 5_000  # at most; `lwcl knn` takes all


class FinalScores(NamedTuple):
    """The rows of encoders, how many images were judged, and for a taught student its place beside its teacher."""

    rows: list[EncoderResult]
    images: int
    standings: list[DistillationRow]
    share: GapShare | None  # of the teacher's lead over an untrained net


def final_scores(training: TrainingState, folder: RunFolder, screen: Screen) -> FinalScores:
    """Judges the encoder, an untrained one and the teacher, if there is one; nothing without labels."""
    options = training.plan.options
    if not options.monitor and not (training.images.labelled and training.images.has_splits):
        return FinalScores([], 0, [], None)
    bank, queries = (
        random_subset(part, most, options.seed)
        for part, most in zip(
            open_labelled_pair(options.monitor or options.data, (), seed=options.seed), (BANK, QUERIES), strict=True
        )
    )
    judge = Evaluator(bank, queries, batch_size=256, workers=0, screen=screen)
    trained = training.loaded(str(folder.path))
    fresh = untrained_like(trained, options.seed)
    compute = choose_compute(trained.encoder, options.device, options.precision)
    student, untrained = judge.score(trained, compute), judge.score(fresh, compute)
    rows = [
        encoder_result(trained, student, untrained, options.seed),
        encoder_result(fresh, untrained, None, options.seed),
    ]
    if training.teacher is None:
        return FinalScores(rows, len(queries), [], None)
    loaded = training.teacher.loaded
    teacher = judge.score(loaded, training.teacher.compute)
    rows.insert(1, encoder_result(loaded, teacher, None, options.seed))
    found = gap_closed(student.top1, teacher.top1, untrained.top1, options.seed)
    spent = [
        measure_cost(
            one.encoder.backbone, one.input_spec.size, channels_last=how.channels_last, threads=options.threads or 1
        )
        for one, how in ((trained, compute), (loaded, training.teacher.compute))
    ]
    standings = [
        DistillationRow("student", rows[0], spent[0]),
        DistillationRow("teacher", rows[1], spent[1]),
        DistillationRow("untrained", rows[2], spent[0]),
    ]
    return FinalScores(rows, len(queries), standings, (found[0], found[1:]) if found else None)


def random_subset(images: ImageSet, most: int, seed: int) -> ImageSet:
    """At most `most` of the images, chosen by the seed."""
    return images if len(images) <= most else images.subset(epoch_permutation(len(images), seed, 0)[:most])
