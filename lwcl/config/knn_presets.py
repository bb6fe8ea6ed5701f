"""Presets of kNN classification: the papers' protocols, by name; the defaults of `lwcl knn` and of the monitor.

`weighted` is light-moco's (the weighted vote of InstDisc, arXiv 1805.01978), `1nn` CompRess's, `monitor` MoCo's CIFAR
notebook's, `best` ssl-small's best-NN: the maximum over k = 1, 3, ..., 101 of a majority vote by Euclidean distance.
"""

from typing import NamedTuple

from lwcl.errors import UsageError
from lwcl.formatting import plural


class Vote(NamedTuple):
    """k neighbours vote with weight exp(cosine / temperature), or one vote each without a temperature."""

    k: int
    temperature: float | None = None

    def __str__(self) -> str:
        return f"k={self.k}" + (f", T={self.temperature:g}" if self.temperature else "")


DEFAULT_VOTE = Vote(20, 0.07)
KNN_PRESETS: dict[str, Vote | None] = {
    "weighted": DEFAULT_VOTE,
    "1nn": Vote(1),
    "monitor": Vote(200, 0.1),
    "best": None,
}


def describe_presets() -> str:
    """The presets with their numbers, for help texts."""
    return ", ".join(f"{name} ({vote})" if vote else name for name, vote in KNN_PRESETS.items())


def resolve_vote(preset: str, k: int | None, temperature: float | None, images: int) -> Vote | None:
    """The preset's vote, with `k` and `temperature` replaced where given; None for `best`, which tries every k.

    Raises `UsageError` where k exceeds the number of `images` in the bank, or `best` is given a k or a temperature.
    """
    if k and k > images:
        remedy = f"Give at most {images:,}, or more images."
        raise UsageError(f"--k {k} exceeds the bank of {plural(images, 'image')}.", remedy=remedy)
    default = KNN_PRESETS[preset]
    if default:
        return Vote(k or default.k, temperature or default.temperature)
    if k or temperature:
        raise UsageError(
            f"{'--k' if k else '--temperature'} cannot be combined with --preset {preset}.",
            "It tries k = 1, 3, 5, ..., 101 with an unweighted vote.",
            "Leave one of them out.",
        )
    return None
