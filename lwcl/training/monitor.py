"""What is measured while a run trains: embedding health and kNN accuracy; warnings when the embedding collapses."""

import collections
import dataclasses
import math
from typing import Any

from torch import Tensor

from lwcl.engine import TrainStep
from lwcl.evaluation.evaluator import Evaluator, open_evaluator
from lwcl.metrics.bootstrap import mean_top1
from lwcl.metrics.health import (
    COLLAPSE_PATIENCE,
    MIN_STEPS_TO_COMPARE_VIEWS,
    MIN_VIEWS_IN_COMMON,
    Health,
    embedding_health,
    is_collapsed,
    views_in_common,
)
from lwcl.reporting.console import Screen, TrainingDisplay
from lwcl.reporting.health_ranges import HealthAlarm, StallAlarm
from lwcl.runs.folder import RunFolder
from lwcl.system import distributed
from lwcl.training.run_report import LivePage
from lwcl.training.state import TrainingState


def float_or_nan(value: float | None) -> float:
    """A metric read from JSON, where NaN is written as null."""
    return math.nan if value is None else value


class TrainingMonitor:
    """Measures while training: health every few steps, kNN accuracy every few epochs; writes both to metrics.jsonl."""

    def __init__(self, training: TrainingState, folder: RunFolder, screen: Screen) -> None:
        self.training, self.folder, self.screen = training, folder, screen
        options = training.config.options
        self.page = LivePage(training, folder)
        self.log_every = options.log_every  # steps
        self.knn_every = options.monitor_every * training.loader.steps_per_epoch  # steps
        self.evaluator = (
            open_evaluator(dataclasses.replace(options, data=options.monitor), 256, (), options.seed, screen)
            if options.monitor
            else None
        )
        for note in self.evaluator.notes if self.evaluator else ():
            screen.warn(f"--monitor: {note}")
        method, records = training.config.method, folder.metrics()
        measured = (record for record in records if "std" in record)
        self.history = collections.deque[Health](maxlen=COLLAPSE_PATIENCE)
        self.alarm, self.stall = HealthAlarm(training.config.values), StallAlarm(*method.stalled)
        self.compares_views = not method.teacher_space and not any(
            can_compare_views(record["step"], record["epoch"]) for record in records
        )
        for record in records:
            self.stall.update(record["epoch"], float_or_nan(record["loss"]))
        for record in measured:
            self.history.append(Health(*(float_or_nan(record[name]) for name in Health._fields)))
            self.alarm.update(self.history[-1].effective_rank, collapsed=is_collapsed([*self.history]))

    @property
    def has_collapsed(self) -> bool:
        """Whether the embedding has collapsed, or the loss stays where it would have."""
        return self.alarm.has_collapsed or self.stall.has_stalled

    def measure(self, step: TrainStep, *, last: bool, display: TrainingDisplay) -> Health | None:
        """Measures and records a step if it is due; warns when the embedding collapses or its effective rank falls."""
        due = step.number % self.log_every == 0 or step.number == 1 or last
        monitored = self.evaluator is not None and (step.number % self.knn_every == 0 or last)
        if not due and not monitored:
            self.page.update(step.number)
            return None
        record: dict[str, Any] = {
            "step": step.number,
            "epoch": step.epoch,
            "lr": step.lr,
            **step.metrics,
            "grad_norm": step.grad_norm,
        }
        pairs = tuple(map(distributed.all_gather_rows, step.pairs)) if step.pairs else None
        health = embedding_health((pairs[0], pairs[1])) if pairs and not distributed.rank() else None
        if health:
            record |= health._asdict()
            self.history.append(health)
            self.warn(step, self.alarm.update(health.effective_rank, collapsed=is_collapsed([*self.history])))
        self.warn(step, self.stall.update(step.epoch, step.metrics["loss"]))
        if self.compares_views and step.pairs and can_compare_views(step.number, step.epoch):
            self.warn(step, compare_views(step.pairs))
            self.compares_views = False
        if monitored and self.evaluator:
            self.monitor(self.evaluator, step, record, display)
        self.folder.append_metrics(record)
        self.page.update(step.number)
        return health

    def monitor(self, evaluator: Evaluator, step: TrainStep, record: dict[str, Any], display: TrainingDisplay) -> None:
        """Adds the kNN accuracy of the encoder to the record; other processes than the first compute their share."""
        loaded, compute = self.training.loaded("monitor"), self.training.compute
        if distributed.rank():
            evaluator.features(loaded, compute)
        else:
            record["knn_top1"] = mean_top1(evaluator.score(loaded, compute).accuracy)
            display.knn(step.epoch, record["knn_top1"])
        self.training.net.train()

    def warn(self, step: TrainStep, warning: str) -> None:
        """Writes a warning about a step, if there is one."""
        if warning:
            self.screen.warn(f"step {step.number:,}: {warning}")


def can_compare_views(step: int, epoch: float) -> bool:
    """Whether a net has been trained for long enough that comparing the two views of an image is meaningful."""
    return epoch >= 1 and step >= MIN_STEPS_TO_COMPARE_VIEWS


def compare_views(pairs: tuple[Tensor, Tensor]) -> str:
    """A warning where the views of an image are not much nearer than those of different images: (B, D) each."""
    common = views_in_common(pairs)
    if common >= MIN_VIEWS_IN_COMMON:
        return ""
    return (
        f"the two views of an image are only {max(0.0, common):.0%} closer to each other than views of "
        "different images: the crops may share no content; try a larger --crop-min or a weaker --augmentation"
    )
