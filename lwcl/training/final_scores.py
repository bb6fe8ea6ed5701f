"""kNN accuracy of a trained encoder, with an untrained one as baseline, and compared with its teacher."""

import contextlib
from collections.abc import Sequence
from typing import NamedTuple

from lwcl.config.train_options import TrainOptions
from lwcl.data.dataset import ImageSet, random_subset
from lwcl.data.demo.builtin import DEFAULT_SET
from lwcl.data.labelled import LabelledPair, open_labelled_pair
from lwcl.data.pairs import add_partners
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
    evaluator: Evaluator | None = None  # of the student's images, with its features


def no_scores(error: BaseException | None = None) -> FinalScores:
    """No results; of `error`, why."""
    parts = (error.what, error.why) if isinstance(error, LwclError) else (f"{type(error).__name__}: {error}",)
    return FinalScores([], 0, [], None, missing=f"No kNN score: {' '.join(filter(None, parts))}" if error else "")


def has_labelled_splits(options: TrainOptions, images: ImageSet) -> bool:
    """Whether a run on these images is to end with a kNN score; of a pair, the labels are those of --data."""
    return bool(options.monitor and not options.student_data) or (images.labelled and images.has_splits)


def open_scored_images(options: TrainOptions) -> LabelledPair:
    """Bank and queries of the final score, with the student's partners where it sees others than the teacher."""
    if not options.student_data:
        return open_labelled_pair(options.monitor or options.data, (), seed=options.seed, **options.reading)
    pair = open_labelled_pair(options.data, (), seed=options.seed, **options.finding)
    return pair._replace(bank=add_partners(pair.bank, options), queries=add_partners(pair.queries, options))


def warn_without_final_score(options: TrainOptions, images: ImageSet, screen: Screen) -> None:
    """Says before a run why it will end without a kNN score. Raises the error of images that --monitor names."""
    if not has_labelled_splits(options, images):
        return
    try:
        open_scored_images(options)
    except DataError as error:
        if options.monitor:
            raise
        screen.warn(no_scores(error).missing)


def compute_shares(training: TrainingState, screen: Screen) -> int:
    """This process's share of the features of `final_scores`, for process 0; returns the exit code."""
    with contextlib.suppress(DataError):
        if has_labelled_splits(training.config.options, training.images):
            for one in scored_subjects(training, "", screen):
                one.evaluator.features(one.subject.loaded, one.compute)
    return 0


class ScoredSubject(NamedTuple):
    """What is scored, on which images, and how it computes."""

    subject: Subject
    evaluator: Evaluator
    compute: Compute


def scored_subjects(training: TrainingState, name: str, screen: Screen) -> list[ScoredSubject]:
    """The encoder, the teacher if there is one, and an untrained encoder; a student sees its own images, if it has."""
    options = training.config.options
    bank, queries, notes, _ = open_scored_images(options)
    bank, queries = random_subset(bank, MAX_BANK, options.seed), random_subset(queries, MAX_QUERIES, options.seed)
    evaluator = own = Evaluator(bank, queries, screen=screen)
    evaluator.notes.extend(notes)
    if bank.partner and queries.partner:
        own = Evaluator(bank.partner, queries.partner, screen=screen)
        own.notes.extend(notes)
    encoder = Subject(training.loaded(name))
    untrained = Subject(untrained_like(encoder.loaded, options.seed))
    subjects = [ScoredSubject(one, own, training.compute) for one in (encoder, untrained)]
    if training.teacher:
        teacher = Subject(training.teacher.loaded, is_teacher=True)
        subjects.insert(1, ScoredSubject(teacher, evaluator, training.teacher.compute))
    return subjects


def final_scores(training: TrainingState, folder: RunFolder, screen: Screen) -> FinalScores:
    """kNN accuracy of the encoder, an untrained one and the teacher, if there is one; nothing without labels."""
    options = training.config.options
    if not has_labelled_splits(options, training.images):
        return no_scores()
    scored = scored_subjects(training, str(folder.path), screen)
    subjects, computes, encoder = [one.subject for one in scored], [one.compute for one in scored], scored[0].subject
    evaluator = scored[0].evaluator
    bank, queries = evaluator.bank, evaluator.queries
    scores = [one.evaluator.score(one.subject.loaded, one.compute) for one in scored]
    rows = [
        encoder_result(one, score.accuracy, scores[-1].accuracy if one is encoder else None, options.seed, score.k)
        for one, score in zip(subjects, scores, strict=True)
    ]
    facts = {
        **pair_facts(bank, queries, options.student_data or options.monitor or options.data or (DEFAULT_SET,), ()),
        "notes": evaluator.notes,
    }
    sizes = sorted({one.loaded.input_spec.size for one in subjects})
    note = tuple(evaluation_note({**facts, "classes": len(bank.classes), "pixels": sizes}))
    if training.teacher is None:
        return FinalScores(rows, len(queries), [], None, note, facts["judged images"], evaluator=evaluator)
    gap_rows = distillation_rows(rows, subjects, computes, options.threads)
    student, teacher, baseline = (score.accuracy.top1 for score in scores)
    closed = gap_closed(student, teacher, baseline, options.seed)
    return FinalScores(
        rows, len(queries), gap_rows, (closed[0], closed[1:]) if closed else None, note, facts["judged images"],
        evaluator=evaluator,
    )  # fmt: skip


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
            frames=one.loaded.encoder.frames,
        )
        for one, how in zip(subjects[:2], computes, strict=False)
    )
    return [
        DistillationRow("student", rows[0], student),
        DistillationRow("teacher", rows[1], teacher),
        DistillationRow("untrained", rows[2], student),
    ]
