"""What is measured while a run trains: the embedding's health, the monitor's kNN; and an alarm when it collapses."""

import dataclasses
import math
from typing import Any

from lwcl.engine import TrainStep
from lwcl.evaluation.judge import open_evaluator
from lwcl.metrics.health import Health, embedding_health, is_collapsed
from lwcl.reporting.console import Screen
from lwcl.reporting.console import TrainingDisplay as Told
from lwcl.runs.folder import RunFolder
from lwcl.training.state import TrainingState

COLLAPSE_ADVICE = (
    "The embeddings of all images are nearly one point (collapse). "
    "Try a lower --lr, a longer --warmup, or a larger --batch-size."
)


def float_or_nan(value: float | None) -> float:
    """A measure as it was before it was written: JSON has null for NaN."""
    return math.nan if value is None else value


class TrainingMonitor:
    """Measures while training: health every few steps, the monitor's kNN every few epochs; each is recorded once."""

    def __init__(self, training: TrainingState, folder: RunFolder, screen: Screen) -> None:
        self.training, self.folder, self.screen = training, folder, screen
        options = training.plan.options
        self.every, self.epochs = options.log_every, options.monitor_every * training.loader.steps_per_epoch
        self.judge = (
            open_evaluator(dataclasses.replace(options, data=options.monitor), 256, (), options.seed, screen)
            if options.monitor
            else None
        )
        known = (record for record in folder.metrics() if "spread" in record)
        self.history = [Health(*(float_or_nan(record[name]) for name in Health._fields)) for record in known]
        self.alarmed = is_collapsed(self.history)

    def look(self, step: TrainStep, *, last: bool, told: Told) -> Health | None:
        """Measures and records a step if it is due; says so when the embedding has collapsed."""
        due = step.number % self.every == 0 or step.number == 1 or last
        monitored = self.judge is not None and (step.number % self.epochs == 0 or last)
        if not due and not monitored:
            return None
        record: dict[str, Any] = {
            "step": step.number,
            "epoch": step.epoch,
            "lr": step.lr,
            **step.parts,
            "grad_norm": step.grad_norm,
        }
        health = embedding_health(step.pairs) if step.pairs else None
        if health:
            record |= health._asdict()
            self.history.append(health)
            if is_collapsed(self.history) and not self.alarmed:
                self.alarmed = True
                self.screen.warn(COLLAPSE_ADVICE)
        if monitored and self.judge:
            score = self.judge.score(self.training.loaded("monitor"), self.training.compute)
            record["monitor"] = float(score.top1.float().mean())
            told.monitored(step.epoch, record["monitor"])
            self.training.net.train()
        self.folder.append_metrics(record)
        return health
