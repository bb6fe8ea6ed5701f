"""A word for each measure of an embedding's health, so that a number means something to who has not read the papers.

The limits are ours, rules of thumb for a batch of unit embeddings from contrastive training. Alignment and uniformity
are those of arXiv 2005.10242, the effective rank is RankMe's (arXiv 2210.02885). The words explain and decide nothing.
"""

from collections.abc import Mapping
from typing import NamedTuple

from lwcl.formatting import percent


class HealthMetric(NamedTuple):
    """How a measure is called and judged; `good` above `fair` says that more is better, below it that less is."""

    title: str
    good: float
    fair: float
    words: tuple[str, str, str]  # for good, fair, and worse
    meaning: str


HEALTH_METRICS = {
    "spread": HealthMetric(
        "spread", 0.7, 0.3, ("good", "fair", "low"), "1: embeddings fill the sphere, 0: all are one point"
    ),
    "rank": HealthMetric("effective rank", 16, 6, ("good", "fair", "low"), "how many directions the embeddings use"),
    "found": HealthMetric(
        "keys found", 0.5, 0.1, ("good", "fair", "few"), "share of queries nearer to their key than to any other"
    ),
    "alignment": HealthMetric(
        "alignment", 0.6, 1.2, ("close", "fair", "far"), "mean squared distance of two views of an image"
    ),
    "uniformity": HealthMetric(
        "uniformity", -2.5, -1.0, ("even", "fair", "clumped"), "-4: spread evenly over the sphere, 0: one point"
    ),
}
FULL_RANK_BATCH = 64  # the limits of the rank are for batches of at least this many images; fewer cannot reach them


def known_metrics(measures: Mapping[str, float | None]) -> dict[str, float]:
    """Those of `measures` that have a value and can be judged, in the order of `MEASURES`."""
    return {name: value for name in HEALTH_METRICS if (value := measures.get(name)) is not None}


def severity(name: str, value: float, batch_size: int = FULL_RANK_BATCH) -> int:
    """0 for good, 1 for fair, 2 for worse; a NaN is worse."""
    measure = HEALTH_METRICS[name]
    sign = 1 if measure.good > measure.fair else -1
    scale = min(1.0, batch_size / FULL_RANK_BATCH) if name == "rank" else 1.0
    return sum(not sign * value >= sign * scale * limit for limit in (measure.good, measure.fair))


def health_word(name: str, value: float, batch_size: int = FULL_RANK_BATCH) -> str:
    """The word for a measure's value."""
    return HEALTH_METRICS[name].words[severity(name, value, batch_size)]


def format_metric(name: str, value: float) -> str:
    """A measure's value as text."""
    return percent(value) if name == "found" else f"{value:.1f}" if name == "rank" else f"{value:.2f}"


def health_summary(measures: Mapping[str, float], batch_size: int = FULL_RANK_BATCH) -> str:
    """All measures with their words on one line: `spread 0.93 good, effective rank 61.2 good`."""
    told = (
        (HEALTH_METRICS[name].title, format_metric(name, v), health_word(name, v, batch_size))
        for name, v in measures.items()
    )
    return ", ".join(map(" ".join, told))
