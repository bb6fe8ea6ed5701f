"""kNN accuracy of a trained encoder, with an untrained one as baseline, and compared with its teacher."""

import contextlib
from collections.abc import Sequence
from typing import NamedTuple

from lwcl.config.train_options import TrainOptions
from lwcl.data.dataset import ImageSet, random_subset
from lwcl.data.demo.builtin import DEFAULT_SET
from lwcl.data.labelled import open_labelled_pair
from lwcl.errors import DataError, LwclError
from lwcl.evaluation.eval_data import pair_facts
from lwcl.evaluation.evaluator import Evaluator, encoder_result
from lwcl.evaluation.subjects import Subject, untrained_like
from lwcl.metrics.bootstrap import gap_closed
from lwcl.metrics.cost import measure_cost
from lwcl.reporting.console import Screen
from lwcl.reporting.distillation import DistillationRow, GapShare
from lwcl.reporting.knn import EncoderResult, evaluation_note
from lwcl.runs.folder import RunFolder
from lwcl.system.compute import Compute
from lwcl.training.state import TrainingState

MAX_BANK, MAX_QUERIES = 20_000, 5_000  # `lwcl knn` takes all


class FinalScores(NamedTuple):
    """Results of the encoders, the number of query images, and a distilled student's comparison with its teacher."""

    rows: list[EncoderResult]
    images: int
    gap_rows: list[DistillationRow]
    share: GapShare | None  # of the teacher's lead over an untrained encoder
    notes: tuple[str, ...] = ()  # on what images, and what was left out or counts as wrong
    judged_images: str = ""  # what tells whether two scores are of the same images
    missing: str = ""  # why there is no score, where one was to be expected


def no_scores(error: BaseException | None = None) -> FinalScores:
    """No results; of `error`, why."""
    parts = (error.what, error.why) if isinstance(error, LwclError) else (f"{type(error).__name__}: {error}",)
    return FinalScores([], 0, [], None, missing=f"No kNN score: {' '.join(filter(None, parts))}" if error else "")


def has_labelled_splits(options: TrainOptions, images: ImageSet) -> bool:
    """Whether a run on these images is to end with a kNN score."""
    return bool(options.monitor) or (images.labelled and images.has_splits)


def warn_without_final_score(options: TrainOptions, images: ImageSet, screen: Screen) -> None:
    """Says before a run why it will end without a kNN score. Raises the error of images that --monitor names."""
    if not has_labelled_splits(options, images):
        return
    try:
        open_labelled_pair(
            options.monitor or options.data,
            (),
            seed=options.seed,
            **options.reading,
        )
    except DataError as error:
        if options.monitor:
            raise
        screen.warn(no_scores(error).missing)


def compute_shares(training: TrainingState, screen: Screen) -> int:
    """This process's share of the features of `final_scores`, for process 0; returns the exit code."""
    with contextlib.suppress(DataError):
        if has_labelled_splits(training.config.options, training.images):
            evaluator, subjects, computes = scored_subjects(training, "", screen)
            for one, how in zip(subjects, computes, strict=True):
                evaluator.features(one.loaded, how)
    return 0


def scored_subjects(
    training: TrainingState, name: str, screen: Screen
) -> tuple[Evaluator, list[Subject], list[Compute]]:
    """What is scored on what: the encoder, the teacher if there is one, an untrained encoder, and how each computes."""
    options = training.config.options
    bank, queries, notes, _ = open_labelled_pair(
        options.monitor or options.data,
        (),
        seed=options.seed,
        **options.reading,
    )
    bank, queries = random_subset(bank, MAX_BANK, options.seed), random_subset(queries, MAX_QUERIES, options.seed)
    evaluator = Evaluator(bank, queries, screen=screen)
    evaluator.notes.extend(notes)
    encoder = Subject(training.loaded(name))
    untrained = Subject(untrained_like(encoder.loaded, options.seed))
    subjects, computes = [encoder, untrained], [training.compute, training.compute]
    if training.teacher:
        subjects.insert(1, Subject(training.teacher.loaded, is_teacher=True))
        computes.insert(1, training.teacher.compute)
    return evaluator, subjects, computes


def final_scores(training: TrainingState, folder: RunFolder, screen: Screen) -> FinalScores:
    """kNN accuracy of the encoder, an untrained one and the teacher, if there is one; nothing without labels."""
    options = training.config.options
    if not has_labelled_splits(options, training.images):
        return no_scores()
    evaluator, subjects, computes = scored_subjects(training, str(folder.path), screen)
    bank, queries, encoder = evaluator.bank, evaluator.queries, subjects[0]
    scores = [evaluator.score(one.loaded, how) for one, how in zip(subjects, computes, strict=True)]
    rows = [
        encoder_result(one, score.accuracy, scores[-1].accuracy if one is encoder else None, options.seed, score.k)
        for one, score in zip(subjects, scores, strict=True)
    ]
    facts = {
        **pair_facts(bank, queries, options.monitor or options.data or (DEFAULT_SET,), ()),
        "notes": evaluator.notes,
    }
    sizes = sorted({one.loaded.input_spec.size for one in subjects})
    note = tuple(evaluation_note({**facts, "classes": len(bank.classes), "pixels": sizes}))
    if training.teacher is None:
        return FinalScores(rows, len(queries), [], None, note, facts["judged images"])
    gap_rows = distillation_rows(rows, subjects, computes, options.threads)
    student, teacher, baseline = (score.accuracy.top1 for score in scores)
    closed = gap_closed(student, teacher, baseline, options.seed)
    return FinalScores(
        rows, len(queries), gap_rows, (closed[0], closed[1:]) if closed else None, note, facts["judged images"]
    )


def distillation_rows(
    rows: Sequence[EncoderResult], subjects: Sequence[Subject], computes: Sequence[Compute], threads: int
) -> list[DistillationRow]:
    """Accuracy and cost of a student, its teacher, and the untrained student, in this order."""
    student, teacher = (
        measure_cost(
            one.loaded.encoder.backbone,
            one.loaded.input_spec.size,
            channels_last=how.channels_last,
            threads=threads,
            channels=one.loaded.encoder.channels,
        )
        for one, how in zip(subjects[:2], computes, strict=False)
    )
    return [
        DistillationRow("student", rows[0], student),
        DistillationRow("teacher", rows[1], teacher),
        DistillationRow("untrained", rows[2], student),
    ]
