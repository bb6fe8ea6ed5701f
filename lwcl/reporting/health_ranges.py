"""The metrics of embedding health: names, normal ranges, and warnings when an embedding collapses.

The ranges are rules of thumb for a batch of unit embeddings in contrastive training. Alignment and uniformity are those
of arXiv 2005.10242; the effective rank is RankMe (arXiv 2210.02885).
"""

import statistics
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

from lwcl.formatting import percent
from lwcl.settings import SettingValue, flag_name


class HealthMetric(NamedTuple):
    """A metric: its name, the limit of its normal range, the side of abnormal values, and what it measures."""

    title: str
    limit: float
    beyond: str  # "low": values below the limit are out of range; "high": those above it
    meaning: str


HEALTH_METRICS = {
    "std": HealthMetric("std", 0.3, "low", "Std of the embeddings times √d; 1: spread over the sphere, 0: collapsed"),
    "effective_rank": HealthMetric("effective rank", 6, "low", "Number of dimensions the embeddings use (RankMe)"),
    "top1": HealthMetric("top-1", 0.1, "low", "Share of queries whose own key is nearer than all negatives"),
    "alignment": HealthMetric("alignment", 1.2, "high", "Mean squared distance between the views of an image"),
    "uniformity": HealthMetric("uniformity", -1.0, "high", "-4: uniform on the sphere, 0: all embeddings equal"),
}
FULL_RANK_BATCH = 64  # the limit of the effective rank is for batches of at least this many images

COLLAPSE = "collapse: the embeddings of all images are nearly equal"
COLLAPSE_REMEDIES = "try a lower --lr, a longer --warmup, or a larger --batch-size"
RANK_WINDOW = 3  # the rank is the median of this many measurements
RANK_FALL, RANK_RECOVERY = 0.25, 0.5  # shares of the highest rank: fallen below the first, recovered above the second
RANK_SETTINGS = ("head_norm", "zero_residuals")  # they raise a low effective rank, see docs/results.md
STALL_SHARE, STALL_PATIENCE = 0.99, 5  # above this share of the collapse's loss, in this many measurements
HIGH_RANK = 16  # a fall that ends above this rank is no dimensional collapse


class HealthAlarm:
    """Follows the health of an embedding and warns when it collapses or its effective rank falls.

    It warns once of a collapse, and of a fall again after a recovery. The advice depends on the run's `settings`.
    """

    def __init__(self, settings: Mapping[str, SettingValue]) -> None:
        self._remedies = rank_remedies(settings)
        self.has_collapsed, self.rank_has_fallen = False, False
        self._highest = 0.0
        self._latest: deque[float] = deque(maxlen=RANK_WINDOW)

    def update(self, rank: float, *, collapsed: bool) -> str:
        """Account for the next effective rank, and whether the embedding has collapsed; returns a new warning."""
        self._latest.append(rank)
        self._highest = max(self._highest, rank)
        now, had_fallen, had_collapsed = statistics.median(self._latest), self.rank_has_fallen, self.has_collapsed
        limit = RANK_RECOVERY * self._highest if had_fallen else min(RANK_FALL * self._highest, HIGH_RANK)
        self.rank_has_fallen = now < limit and (had_fallen or len(self._latest) == RANK_WINDOW)
        self.has_collapsed = collapsed or had_collapsed
        if collapsed:
            return "" if had_collapsed else f"{COLLAPSE}; {COLLAPSE_REMEDIES}"
        return self.rank_fall() if self.rank_has_fallen and not had_fallen and not had_collapsed else ""

    def rank_fall(self) -> str:
        """A sentence on the fall of the effective rank, and what to try."""
        fall = f"effective rank fell from {self._highest:.0f} to {statistics.median(self._latest):.0f}"
        return f"possible dimensional collapse: {fall}; {self._remedies}"


class StallAlarm:
    """Follows a loss whose value in a collapse is known (`Method.stalled`), and returns a warning when it stays there.

    The first epoch does not count. A warning is given once, and again after a recovery.
    """

    def __init__(self, stalled: float | None, remedies: str) -> None:
        self.stalled, self.remedies, self.has_stalled = stalled, remedies, False
        self._latest: deque[float] = deque(maxlen=STALL_PATIENCE)

    def update(self, epoch: float, loss: float) -> str:
        """Account for the loss at a (fractional) epoch; returns a new warning."""
        if self.stalled is None or epoch <= 1:
            return ""
        self._latest.append(loss)
        before, lowest = self.has_stalled, min(self._latest)
        self.has_stalled = len(self._latest) == STALL_PATIENCE and lowest > STALL_SHARE * self.stalled
        if not self.has_stalled or before:
            return ""
        return f"the loss stays at {self.stalled:.3f}, where all images have the same output; {self.remedies}"


def rank_remedies(settings: Mapping[str, SettingValue]) -> str:
    """What to try when the effective rank falls: first the `RANK_SETTINGS` that are off."""
    flags = [flag_name(name) for name in RANK_SETTINGS if name in settings and not settings[name].value]
    return f"try {', '.join([*flags, 'a lower --lr'])} or a larger --batch-size"


def known_metrics(measured: Mapping[str, float | None]) -> dict[str, float]:
    """The health metrics that have a value, in the order of `HEALTH_METRICS`."""
    return {name: value for name in HEALTH_METRICS if (value := measured.get(name)) is not None}


def out_of_range(name: str, value: float, batch_size: int = FULL_RANK_BATCH) -> str:
    """`low` or `high` for a value out of its metric's normal range, else nothing; NaN is out of range."""
    metric = HEALTH_METRICS[name]
    scale = min(1.0, batch_size / FULL_RANK_BATCH) if name == "effective_rank" else 1.0
    is_normal = value >= scale * metric.limit if metric.beyond == "low" else value <= metric.limit
    return "" if is_normal else metric.beyond


def format_metric(name: str, value: float) -> str:
    """A metric's value as text; also that of `knn_top1`."""
    return percent(value) if name.endswith("top1") else f"{value:.{1 if name == 'effective_rank' else 2}f}"
