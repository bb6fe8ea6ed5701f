"""`--minutes`: as many steps as end in time, told by a trial of the run itself; its weights are then discarded.

Not only steps count: also what came before them (imports, decoding, a teacher's cached outputs), evaluations between
epochs, and the scores, the pictures and the report at the end.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator
from statistics import fmean

from lwcl import engine
from lwcl.data.dataset import random_subset
from lwcl.evaluation.evaluator import Evaluator
from lwcl.formatting import duration
from lwcl.reporting.console import Screen
from lwcl.runs.folder import RunFolder
from lwcl.training.build import build_placed_net, prepare_method
from lwcl.training.final_scores import ScoredSubject, has_labelled_splits, scored_subjects
from lwcl.training.resolve import REPORT_SECONDS, RunCost, with_epochs, without_schedule
from lwcl.training.run_report import PAGE_DRAWN_SECONDS, pages_in
from lwcl.training.state import TrainingState

FIRST_STEPS, TIMED_STEPS = 2, 8  # slower than the others, and timed at the least
TRIAL_SHARE, TRIAL_SECONDS = 0.03, 60.0  # of the time that was asked for, and at the most
TIMED_IMAGES = 32  # each of the bank and of the queries, in a trial of an evaluation


def settle_epochs(
    training: TrainingState, folder: RunFolder, screen: Screen, begun: float, most_steps: int | None
) -> TrainingState:
    """The run with the number of epochs that `--minutes` left open, and what follows from it, before its first step.

    `begun`: `time.monotonic` when the command began. The trial takes at most `most_steps`.
    """
    config, minutes = training.config, training.config.options.minutes
    if minutes is None or not config.unsettled or folder.settings().get("epochs") is not None:
        return training
    screen.say(f"Timing a trial for --minutes {minutes:g}.")
    seconds, cost = 60 * minutes, run_cost(training, 60 * minutes, begun, most_steps)
    if (expected := cost.total(1)) > seconds:
        screen.warn(f"--minutes {minutes:g}: even one step makes the run take {duration(expected)}.")
    settled = with_epochs(config, training.images, cost)
    for name in reversed(config.unsettled):  # the epochs last: where they are recorded, all is
        screen.say(f"  {name} {settled.values[name]}")
        folder.record_setting(name, settled.values[name].value)
    return restarted(dataclasses.replace(training, config=settled))


def restarted(training: TrainingState) -> TrainingState:
    """The run with new weights, those that its configuration begins with."""
    config, dim = training.config, training.teacher.dim if training.teacher else 0
    net, compute = build_placed_net(config, dim, training.input_spec.pixel_format)
    plan = config.optimization
    optimizer = engine.build_optimizer(net, plan, plan.lr, plan.weight_decay)
    return dataclasses.replace(training, net=net, optimizer=optimizer, compute=compute)


def run_cost(training: TrainingState, seconds: float, begun: float, most_steps: int | None) -> RunCost:
    """What a run of the given duration takes, by a trial that leaves its net unusable."""
    options, initial = training.config.options, 0.0
    if training.config.method.needs_teacher_features:
        prepare_method(training, Screen(quiet=True))  # what this caches is not computed again
        initial = seconds_of(lambda: prepare_method(training, Screen(quiet=True)))
    steps = list(timed_steps(training, min(TRIAL_SECONDS, TRIAL_SHARE * seconds), most_steps))
    between, scores = evaluation_seconds(training)
    per_epoch = training.loader.steps_per_epoch
    epoch = fmean(steps[FIRST_STEPS:] or steps) * per_epoch
    between = between if options.monitor else 0.0  # also after the last step
    epoch += between / options.monitor_every
    epoch += pages_in(epoch) * PAGE_DRAWN_SECONDS if options.html else 0.0
    return RunCost(time.monotonic() - begun, epoch / per_epoch, initial + between + scores + REPORT_SECONDS)


def seconds_of(act: Callable[[], object]) -> float:
    """How long something takes."""
    begun = time.monotonic()
    act()
    return time.monotonic() - begun


def timed_steps(training: TrainingState, seconds: float, most_steps: int | None) -> Iterator[float]:
    """Seconds of each step of a trial that takes about so long, in all processes equally many."""
    config, loader, begun = training.config, training.loader, time.monotonic()
    least, most = FIRST_STEPS + TIMED_STEPS, most_steps or loader.steps_per_epoch
    fitted = engine.fit(
        config.method, training.net, loader.batches(0, most), without_schedule(config.optimization),
        training.optimizer, training.compute, steps_per_epoch=loader.steps_per_epoch, start=0, seed=config.options.seed,
        messages=lambda: (time.monotonic() - begun,),
    )  # fmt: skip
    for step in fitted:
        yield step.seconds
        if step.number >= least and step.messages[0] > seconds:
            break


def evaluation_seconds(training: TrainingState) -> tuple[float, float]:
    """Seconds of a kNN score between epochs, and of those at the end, by evaluating a few images."""
    if not has_labelled_splits(training.config.options, training.images):
        return 0.0, 0.0
    encoder, *others = scored_subjects(training, "", Screen(quiet=True))
    times = [features_seconds(one) for one in (encoder, *others[:-1])]  # the last is an untrained encoder, as large
    training.net.train()
    return times[0][1], sum(first for first, _ in times) + times[0][1]


def features_seconds(one: ScoredSubject) -> tuple[float, float]:
    """Seconds of the features of all images, and of computing them again when they are decoded; by a few of them."""
    sides = one.evaluator.bank, one.evaluator.queries
    few = [random_subset(images, TIMED_IMAGES, 0) for images in sides]
    scale = sum(map(len, sides)) / sum(map(len, few))

    def features(evaluator: Evaluator) -> float:
        return scale * seconds_of(lambda: evaluator.features(one.subject.loaded, one.compute))

    features(Evaluator(*few, screen=Screen(quiet=True)))  # kernels are slow at first
    evaluator = Evaluator(*few, screen=Screen(quiet=True))
    return features(evaluator), features(evaluator)
