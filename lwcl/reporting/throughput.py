"""How fast it goes and how far it is: what a training or a count has done so far, its rates and its remaining time."""

import math
import statistics
import time
from array import array
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

from lwcl.formatting import duration, percent
from lwcl.reporting import health_words

RATE_WINDOW = 20  # steps that the shown speed is the median of
ETA_WINDOW = 200  # steps whose pace, with all that happens between them, gives the remaining time
MAX_CURVE_POINTS = 512  # points that a curve keeps at most


class RateLimiter:
    """Says `due` once in so many seconds; the first time at once, if wanted."""

    def __init__(self, seconds: float, *, at_once: bool = True) -> None:
        self._seconds = seconds
        self._next = -math.inf if at_once else time.monotonic() + seconds

    def due(self) -> bool:
        """Whether the time has come; if so, it starts anew."""
        if time.monotonic() < self._next:
            return False
        self.restart()
        return True

    def restart(self) -> None:
        """Waits the whole time again."""
        self._next = time.monotonic() + self._seconds


class DownsampledCurve:
    """A curve of any length in at most `TRACE` points: when that many are there, neighbours are merged two by two."""

    def __init__(self) -> None:
        self.points: list[float] = []
        self._each, self._pending = 1, array("d")

    def add(self, value: float) -> None:
        """One more value."""
        self._pending.append(value)
        if len(self._pending) == self._each:
            self.points.append(statistics.fmean(self._pending))
            self._pending = array("d")
        if len(self.points) == MAX_CURVE_POINTS:
            self.points = [(a + b) / 2 for a, b in zip(self.points[::2], self.points[1::2], strict=True)]
            self._each *= 2


class StepStats(NamedTuple):
    """What an optimiser step did, as far as people are told."""

    number: int  # from 1
    epoch: float  # epochs done after it
    lr: float
    loss: float
    waited: float  # seconds of waiting for data
    seconds: float  # in all


class TrainProgress:
    """What a training has done so far."""

    def __init__(self, title: str, start: int, steps: int, steps_per_epoch: int, batch_size: int) -> None:
        self.title, self.number, self.steps = title, start, steps
        self.steps_per_epoch, self.batch_size = steps_per_epoch, batch_size
        self.epoch, self.lr, self.loss = start / steps_per_epoch, math.nan, math.nan
        self.losses = DownsampledCurve()
        self.measures: dict[str, float] = {}
        self.scores: list[tuple[float, float]] = []  # epoch and accuracy
        self._begun = time.monotonic()
        self._ends: deque[float] = deque([self._begun], ETA_WINDOW)
        self._seconds, self._waited = array("d"), 0.0
        self._recent: deque[tuple[float, float]] = deque(maxlen=RATE_WINDOW)

    @property
    def epochs(self) -> float:
        """The epochs of the whole training."""
        return self.steps / self.steps_per_epoch

    def add(self, step: StepStats, measures: Mapping[str, float | None]) -> None:
        """One more step; measures that it does not have stay as they were."""
        self.number, self.epoch, self.lr, self.loss = step.number, step.epoch, step.lr, step.loss
        self.measures = health_words.known_metrics({**self.measures, **measures})
        self.losses.add(step.loss)
        self._seconds.append(step.seconds)
        self._waited += step.waited
        self._recent.append((step.seconds, step.waited))
        self._ends.append(time.monotonic())

    def speed(self) -> float:
        """Images a second, the median of the last steps; NaN before the first."""
        return self._images_per_second([seconds for seconds, _ in self._recent])

    def _images_per_second(self, seconds: "list[float] | array[float]") -> float:
        return self.batch_size / max(statistics.median(seconds), 1e-9) if seconds else math.nan

    def waiting(self) -> float:
        """The share of the last steps' time that was spent waiting for data; NaN before the first."""
        total = sum(seconds for seconds, _ in self._recent)
        return sum(waited for _, waited in self._recent) / total if total else math.nan

    def remaining(self) -> float:
        """Seconds to the end at the latest pace, monitoring and saving included; NaN before the first step."""
        known = len(self._ends) - 1
        return (self._ends[-1] - self._ends[0]) / known * (self.steps - self.number) if known else math.nan

    def scored(self) -> str:
        """The last monitor score, and the best if it was another."""
        epoch, last = self.scores[-1]
        best_epoch, best = max(self.scores, key=lambda score: score[1])
        told = f"after epoch {epoch:g}: {percent(last)}"
        return told if best <= last else f"{told} (best {percent(best)} after epoch {best_epoch:g})"

    def line(self) -> str:
        """Where the training is, on one plain line."""
        where = f"step {self.number}/{self.steps}, epoch {self.epoch:.2f}/{self.epochs:g}"
        loss = f"loss {self.loss:.4f}, lr {self.lr:.3g}"
        return "; ".join(
            filter(None, (where, loss, self.pace(), health_words.health_summary(self.measures, self.batch_size)))
        )

    def pace(self) -> str:
        """The speed, the share of waiting and the remaining time."""
        speed, waiting = f"{self.speed():,.0f} images/s", f"{percent(self.waiting())} waiting for data"
        return f"{speed}, {waiting}, {duration(self.remaining())} left"

    def timing(self) -> dict[str, float | None]:
        """Median images a second over all steps, seconds in all, share of the steps' time spent waiting for data."""
        total = sum(self._seconds)
        return {
            "images_per_second": self._images_per_second(self._seconds) if self._seconds else None,
            "seconds": time.monotonic() - self._begun,
            "waited": self._waited / total if total else None,
        }


class CountProgress:
    """How far a count is."""

    def __init__(self, title: str, total: int | None) -> None:
        self.title, self.total, self.count = title, total, 0
        self._begun = time.monotonic()

    def remaining(self) -> float:
        """Seconds to the end at the mean pace so far; NaN where the end or the pace is not known."""
        if not self.total or not self.count:
            return math.nan
        return self.seconds() / self.count * (self.total - self.count)

    def seconds(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._begun

    def line(self) -> str:
        """Where the count is, on one plain line."""
        if self.total is None:
            return f"{self.title}: {self.count:,}"
        share = percent(self.count / max(self.total, 1))
        return f"{self.title}: {self.count:,} of {self.total:,} ({share}), {duration(self.remaining())} left"

    def summary(self) -> str:
        """What was counted, and how long it took."""
        return f"{self.title}: {self.count:,} in {duration(self.seconds())}"
