"""The verdict on an encoder's clusters: rules on measured evidence, with reasons, confidence and what to try.

Over-clustering is ssl-small's finding (arXiv 2107.14762): small encoders solve the pretext task, but the images of a
class form many tight clusters. The thresholds are in `thresholds`. Intra-class alignment is not used: in the paper's
own figures the better encoders have the worse one.
"""

from typing import NamedTuple

from lwcl.diagnosis.thresholds import VERDICT_ADVICE, Advice, near_threshold, threshold
from lwcl.formatting import percent


class Evidence(NamedTuple):
    """Metrics of N images and of one or two views of each, as `diagnosis.evidence` computes them. None: not measured.

    From `effective_rank` on, of mean-centred unit features. "Few" clusters: as many as classes (or about ten); "many":
    16 times as many (or what the number of images allows).
    """

    images: int
    std: float  # of unit features x sqrt(D): 1 fills the sphere, 0 is one point
    effective_rank: float  # RankMe
    participation: float  # participation ratio of the covariance: ignores faint noise
    instances: float  # instance discrimination: share of images closer to their view than to any other image
    classes: int | None = None
    mean_cosine: float | None = None  # of different images, before centring
    view_cosine: float | None = None  # of an image and its view
    neighbour_cosine: float | None = None  # of an image and its nearest neighbour
    duplicates: float | None = None  # share of images with a neighbour at a cosine of at least 0.95
    stability: float | None = None  # agreement (ARI) of few clusters from different seeds
    silhouette: float | None = None  # of few clusters
    fine_clusters: int | None = None  # the number of "many" clusters
    fine_stability: float | None = None
    fine_silhouette: float | None = None
    same_class: float | None = None  # share of the ten nearest neighbours with the same class
    chance: float | None = None  # that share for neighbours drawn at random
    cluster_accuracy: float | None = None  # of few clusters matched one-to-one to classes
    clusters_per_class: float | None = None  # few clusters that hold 90% of a class
    fine_purity: float | None = None  # leave-one-out purity of many clusters


class Verdict(NamedTuple):
    """A diagnosis (a key of `VERDICT_MEANINGS`), its reasons, what to try, and one of `CONFIDENCE_LEVELS`."""

    diagnosis: str
    reasons: tuple[str, ...]
    advice: tuple[Advice, ...]
    confidence: str


VERDICT_MEANINGS = {
    "healthy": "Images of the same class are close together.",
    "collapsed": "All images have practically the same features.",
    "partly-collapsed": "The features use only a few directions (dimensional collapse).",
    "over-clustered": "Images are told from one another, but images of the same class are not close together.",
    "under-trained": "Neither instances nor classes are discriminated well yet.",
}
CONFIDENCE_LEVELS = ("high", "medium", "low")


class RuleFinding(NamedTuple):
    """The diagnosis of a rule, its reasons, and the number of doubts about it."""

    diagnosis: str
    reasons: tuple[str, ...]
    doubts: int


def clustering_verdict(
    evidence: Evidence, *, untrained: Evidence | None = None, teacher: Evidence | None = None
) -> Verdict:
    """The verdict of the first rule that applies, given evidence of an untrained encoder and a teacher on these images.

    Comparison with the untrained encoder separates the effect of training from what the architecture already does.
    Without labels, over-clustered and healthy are guesses, and say so.
    """
    labelled = evidence.same_class is not None
    finding = (
        collapse_rule(evidence, untrained)
        or (class_rule(evidence, untrained, teacher) if labelled else None)
        or low_rank_rule(evidence, untrained)
        or (pretext_rule(evidence, untrained) if labelled else unlabelled_rule(evidence, untrained))
    )
    confidence = CONFIDENCE_LEVELS[min(finding.doubts, 2)]
    return Verdict(finding.diagnosis, finding.reasons, VERDICT_ADVICE[finding.diagnosis], confidence)


def same_class_lift(evidence: Evidence) -> float:
    """Chance-corrected share of same-class neighbours: 0 at chance, 1 if all are; 0 where it was not measured."""
    chance = evidence.chance or 0.0
    return ((evidence.same_class or 0.0) - chance) / max(1e-9, 1 - chance)


def collapse_rule(evidence: Evidence, untrained: Evidence | None) -> RuleFinding | None:
    """Low std, and matching at chance level after centring or a std far below the untrained encoder's."""
    if evidence.std >= threshold("std"):
        return None
    by_chance = evidence.instances * evidence.images <= threshold("chance_matches")
    shrunk = untrained is not None and evidence.std < threshold("std_ratio") * untrained.std
    if not by_chance and not shrunk:
        return None
    baseline = f"; untrained: {untrained.std:.3f}" if untrained else ""
    reasons = (
        f"Embedding std {evidence.std:.3f} (0: all features are one point, 1: they fill the sphere{baseline}).",
        f"After centring, {percent(evidence.instances)} of the images are closer to their own view than "
        "to any other image.",
    )
    return RuleFinding("collapsed", reasons, int(not by_chance) + near_threshold(evidence.std, "std"))


def class_rule(evidence: Evidence, untrained: Evidence | None, teacher: Evidence | None) -> RuleFinding | None:
    """With labels: over-clustered if classes split into many pure clusters, healthy if neighbours share a class."""
    gap = (evidence.fine_purity or 0.0) - (evidence.cluster_accuracy or 0.0)
    if evidence.fine_purity is not None and gap >= threshold("purity_gap"):
        return RuleFinding("over-clustered", purity_reasons(evidence), near_threshold(gap, "purity_gap"))
    lift, least = same_class_lift(evidence), threshold("lift")
    if teacher and teacher.same_class is not None:
        least = max(least, threshold("teacher_lift") * same_class_lift(teacher))
    if lift < least or lift - (same_class_lift(untrained) if untrained else 0.0) < threshold("lift_gain"):
        return None
    doubts = near_threshold(lift, "lift") + int(untrained is None)
    return RuleFinding("healthy", (neighbour_reason(evidence, untrained, teacher),), doubts)


def low_rank_rule(evidence: Evidence, untrained: Evidence | None) -> RuleFinding | None:
    """Few directions, and clearly fewer than before training."""
    low = evidence.effective_rank < threshold("rank") or evidence.participation < threshold("participation")
    if not low or (
        untrained and evidence.participation > threshold("participation_vs_untrained") * untrained.participation
    ):
        return None
    baseline = f"; untrained: {untrained.participation:.1f}" if untrained else ""
    reason = (
        f"Low effective rank ({evidence.effective_rank:.1f}) or participation ratio ({evidence.participation:.1f}"
        f"{baseline}): possible dimensional collapse."
    )
    doubts = int(untrained is None) + near_threshold(evidence.participation, "participation")
    return RuleFinding("partly-collapsed", (reason,), doubts)


def pretext_rule(evidence: Evidence, untrained: Evidence | None) -> RuleFinding:
    """With labels whose classes were not found: over-clustered once the pretext task is solved, else under-trained."""
    solved = evidence.instances >= threshold("instances")
    reasons = (instance_reason(evidence, untrained), neighbour_reason(evidence, untrained, None))
    doubts = int(untrained is None) + near_threshold(evidence.instances, "instances")
    return RuleFinding("over-clustered" if solved else "under-trained", reasons, doubts)


def unlabelled_rule(evidence: Evidence, untrained: Evidence | None) -> RuleFinding:
    """Without labels, from clusters and neighbours; only `under-trained` has more than low confidence."""
    silhouette, fine_silhouette = evidence.silhouette or 0.0, evidence.fine_silhouette or 0.0
    guess = "Without labels, whether clusters correspond to classes is a guess: inspect the plots."
    if silhouette >= threshold("silhouette") and (evidence.stability or 0.0) >= threshold("stability"):
        few = f"A few distinct clusters: silhouette {silhouette:.2f}, stability (ARI) {evidence.stability:.2f}."
        return RuleFinding("healthy", (few, guess), 2)
    solved = instance_reason(evidence, untrained)
    if evidence.instances < threshold("instances"):
        return RuleFinding("under-trained", (solved,), 1 + near_threshold(evidence.instances, "instances"))
    ratio = (evidence.neighbour_cosine or 0.0) / max(1e-9, evidence.view_cosine or 1e-9)
    if evidence.neighbour_cosine is not None and ratio < threshold("neighbour_ratio"):
        isolated = (
            f"Images are isolated: the cosine to the nearest neighbour is {percent(ratio)} of that to the own view."
        )
        return RuleFinding("over-clustered", (solved, isolated, guess), 2)
    gap = fine_silhouette - silhouette
    if fine_silhouette >= threshold("fine_silhouette") and gap >= threshold("silhouette_gap"):
        many = f"Many small clusters: silhouette {fine_silhouette:.2f} with k = {evidence.fine_clusters}"
        kinds = "This is expected if the data set really has that many categories."
        return RuleFinding("over-clustered", (solved, f"{many}, {silhouette:.2f} with about ten.", kinds, guess), 2)
    return RuleFinding("healthy", (solved, "Images have close neighbours besides their own views.", guess), 2)


def instance_reason(evidence: Evidence, untrained: Evidence | None) -> str:
    """The reason given by instance discrimination."""
    solved = "is" if evidence.instances >= threshold("instances") else "is not"
    baseline = f" (untrained: {percent(untrained.instances)})" if untrained else ""
    matched = f"{percent(evidence.instances)} of the images are closest to their own view"
    return f"The pretext task {solved} solved: after centring, {matched}{baseline}."


def neighbour_reason(evidence: Evidence, untrained: Evidence | None, teacher: Evidence | None) -> str:
    """The reason given by same-class neighbours, compared with chance, the untrained encoder, and the teacher."""
    baselines = {"chance": evidence.chance, "untrained": untrained and untrained.same_class}
    baselines["teacher"] = teacher and teacher.same_class
    compared = ", ".join(f"{name}: {percent(share)}" for name, share in baselines.items() if share is not None)
    return f"{percent(evidence.same_class or 0)} of the nearest neighbours have the same class ({compared})."


def purity_reasons(evidence: Evidence) -> tuple[str, str]:
    """The reasons given by classes that are split into many clusters."""
    accuracy, purity = percent(evidence.cluster_accuracy or 0), percent(evidence.fine_purity or 0)
    spread = f"{evidence.clusters_per_class or 0:.1f}"
    return (
        f"With as many clusters as classes, matching reaches {accuracy}; the purity of {evidence.fine_clusters} "
        f"clusters is {purity}.",
        f"With as many clusters as classes, 90% of a class spreads over {spread} of them.",
    )
