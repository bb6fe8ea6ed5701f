"""What a finished training is worth: kNN of the encoder beside an untrained one, and beside its teacher."""

from typing import NamedTuple

from lwcl.data.dataset import ImageSet
from lwcl.data.labelled import labelled_pair
from lwcl.evaluation.judge import Judge, judged, untrained_like
from lwcl.metrics.bootstrap import closed
from lwcl.metrics.cost import cost
from lwcl.reporting.console import Screen
from lwcl.reporting.distillation import Share, Standing
from lwcl.reporting.knn import Judged
from lwcl.rng import epoch_order
from lwcl.runs.folder import RunFolder
from lwcl.system.device import compute_for
from lwcl.training.state import Training

BANK, QUERIES = 20_000, 5_000  # at most; `lwcl knn` takes all


class Final(NamedTuple):
    """The rows of encoders, how many images were judged, and for a taught student its place beside its teacher."""

    rows: list[Judged]
    images: int
    standings: list[Standing]
    share: Share | None  # of the teacher's lead over an untrained net


def final_scores(training: Training, folder: RunFolder, screen: Screen) -> Final:
    """Judges the encoder, an untrained one and the teacher, if there is one; nothing without labels."""
    options = training.plan.options
    if not options.monitor and not (training.images.labelled and training.images.has_splits):
        return Final([], 0, [], None)
    bank, queries = (
        some(part, most, options.seed)
        for part, most in zip(
            labelled_pair(options.monitor or options.data, (), seed=options.seed), (BANK, QUERIES), strict=True
        )
    )
    judge = Judge(bank, queries, batch_size=256, workers=0, screen=screen)
    trained = training.loaded(str(folder.path))
    fresh = untrained_like(trained, options.seed)
    compute = compute_for(trained.encoder, options)
    student, untrained = judge.score(trained, compute), judge.score(fresh, compute)
    rows = [judged(trained, student, untrained, options.seed), judged(fresh, untrained, None, options.seed)]
    if training.teacher is None:
        return Final(rows, len(queries), [], None)
    loaded = training.teacher.loaded
    teacher = judge.score(loaded, training.teacher.compute)
    rows.insert(1, judged(loaded, teacher, None, options.seed))
    found = closed(student.top1, teacher.top1, untrained.top1, options.seed)
    spent = [
        cost(one.encoder.backbone, one.images.size, channels_last=how.channels_last, threads=options.threads or 1)
        for one, how in ((trained, compute), (loaded, training.teacher.compute))
    ]
    standings = [
        Standing("student", rows[0], spent[0]),
        Standing("teacher", rows[1], spent[1]),
        Standing("untrained", rows[2], spent[0]),
    ]
    return Final(rows, len(queries), standings, (found[0], found[1:]) if found else None)


def some(images: ImageSet, most: int, seed: int) -> ImageSet:
    """At most `most` of the images, chosen by the seed."""
    return images if len(images) <= most else images.subset(epoch_order(len(images), seed, 0)[:most])
