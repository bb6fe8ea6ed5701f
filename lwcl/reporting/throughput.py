"""Progress of a training run or of another loop over images: steps done, throughput, and remaining time."""

import math
import statistics
import time
from array import array
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

from lwcl.formatting import duration, percent

RATE_WINDOW = 20  # the speed shown is the median of this many steps
ETA_WINDOW = 200  # the remaining time follows from this many steps, including evaluation and checkpoints
MAX_CURVE_POINTS = 512


class RateLimiter:
    """`due` is true at most once in `seconds`; `at_once`: also at the first call."""

    def __init__(self, seconds: float, *, at_once: bool = True) -> None:
        self._seconds = seconds
        self._next = -math.inf if at_once else time.monotonic() + seconds

    def due(self) -> bool:
        """Whether the time has passed; if so, restarts it."""
        if time.monotonic() < self._next:
            return False
        self.restart()
        return True

    def restart(self) -> None:
        """Start the time again."""
        self._next = time.monotonic() + self._seconds


class DownsampledCurve:
    """A curve in at most `MAX_CURVE_POINTS` points: when there are as many, neighbours are averaged in pairs."""

    def __init__(self) -> None:
        self.points: list[float] = []
        self._stride, self._pending = 1, array("d")

    def add(self, value: float) -> None:
        """Append a value."""
        self._pending.append(value)
        if len(self._pending) == self._stride:
            self.points.append(statistics.fmean(self._pending))
            self._pending = array("d")
        if len(self.points) == MAX_CURVE_POINTS:
            self.points = [(a + b) / 2 for a, b in zip(self.points[::2], self.points[1::2], strict=True)]
            self._stride *= 2


class StepStats(NamedTuple):
    """What the progress display needs to know about an optimizer step."""

    number: int  # from 1
    epoch: float  # epochs done after it
    lr: float
    loss: float
    waited: float  # seconds of waiting for data
    seconds: float  # in total


class TrainProgress:
    """The progress of a run: the last step, the latest metrics, throughput, and remaining time.

    `metrics` holds the latest value of each metric.
    """

    def __init__(self, title: str, start: int, steps: int, steps_per_epoch: int, batch_size: int) -> None:
        self.title, self.step, self.steps = title, start, steps
        self.steps_per_epoch, self.batch_size = steps_per_epoch, batch_size
        self.epoch, self.lr, self.loss = start / steps_per_epoch, math.nan, math.nan
        self.losses = DownsampledCurve()
        self.metrics: dict[str, float] = {}
        self.measured_at = start  # the step of the latest health metrics
        self.knn: list[tuple[float, float]] = []  # epoch and accuracy
        self._begun = time.monotonic()
        self._ends: deque[float] = deque([self._begun], ETA_WINDOW)
        self._seconds, self._waited = array("d"), 0.0
        self._recent: deque[tuple[float, float]] = deque(maxlen=RATE_WINDOW)
        self._fresh: dict[str, list[float]] = {}  # measured since they were last averaged

    @property
    def epochs(self) -> float:
        """Epochs of the whole run."""
        return self.steps / self.steps_per_epoch

    def add(self, step: StepStats, metrics: Mapping[str, float]) -> None:
        """Account for a step and the metrics measured in it, if any."""
        self.step, self.epoch, self.lr, self.loss = step.number, step.epoch, step.lr, step.loss
        self.metrics |= metrics
        if "std" in metrics:
            self.measured_at = step.number
        self._note({"loss": step.loss, **metrics})
        self.losses.add(step.loss)
        self._seconds.append(step.seconds)
        self._waited += step.waited
        self._recent.append((step.seconds, step.waited))
        self._ends.append(time.monotonic())

    def add_knn(self, epoch: float, accuracy: float) -> None:
        """Account for a kNN accuracy after `epoch` epochs."""
        self.knn.append((epoch, accuracy))
        self._note({"knn_top1": accuracy})

    def _note(self, measured: Mapping[str, float]) -> None:
        for name, value in measured.items():
            self._fresh.setdefault(name, []).append(value)

    def take_averages(self) -> dict[str, float]:
        """The mean of the loss and of each metric over what was measured since the last call."""
        averages = {name: statistics.fmean(values) for name, values in self._fresh.items()}
        self._fresh.clear()
        return averages

    def speed(self) -> float:
        """Images per second, the median of the last steps; NaN before the first."""
        return self._images_per_second([seconds for seconds, _ in self._recent])

    def _images_per_second(self, seconds: "list[float] | array[float]") -> float:
        return self.batch_size / max(statistics.median(seconds), 1e-9) if seconds else math.nan

    def waiting(self) -> float:
        """Share of the last steps' time spent waiting for data; NaN before the first."""
        total = sum(seconds for seconds, _ in self._recent)
        return sum(waited for _, waited in self._recent) / total if total else math.nan

    def remaining(self) -> float:
        """Seconds to the end at the latest pace, evaluation and checkpoints included; NaN before the first step."""
        known = self.known_steps()
        return (self._ends[-1] - self._ends[0]) / known * (self.steps - self.step) if known else math.nan

    def known_steps(self) -> int:
        """How many steps the remaining time follows from."""
        return len(self._ends) - 1

    def timing(self) -> dict[str, float | None]:
        """Median images per second over all steps, total seconds, share of the steps' time spent waiting for data."""
        total = sum(self._seconds)
        return {
            "images_per_second": self._images_per_second(self._seconds) if self._seconds else None,
            "seconds": time.monotonic() - self._begun,
            "waited": self._waited / total if total else None,
        }


class CountProgress:
    """The progress of a loop over `total` items; None if their number is not known."""

    def __init__(self, title: str, total: int | None) -> None:
        self.title, self.total, self.count = title, total, 0
        self._begun = time.monotonic()

    def remaining(self) -> float:
        """Seconds to the end at the mean pace so far; NaN where the total or the pace is not known."""
        if not self.total or not self.count:
            return math.nan
        return self.seconds() / self.count * (self.total - self.count)

    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._begun

    def line(self) -> str:
        """The progress on one plain line."""
        if self.total is None:
            return f"{self.title}: {self.count:,}"
        share = percent(self.count / max(self.total, 1))
        return f"{self.title}: {self.count:,} of {self.total:,} ({share}), {duration(self.remaining())} left"

    def summary(self) -> str:
        """What was counted, and how long it took."""
        return f"{self.title}: {self.count:,} in {duration(self.seconds())}"
