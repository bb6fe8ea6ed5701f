"""The verdict on an encoder's clusters: rules on measured evidence, each with its limit, its reason and what to try.

Over-clustering is ssl-small's finding (arXiv 2107.14762): small encoders solve the pretext task, but images of a class
lie in many tight clusters. The limits are in `clustering_rules`. Intra-class alignment is no evidence: in the paper's
own figures the better encoders have the worse one.
"""

from typing import NamedTuple

from lwcl.diagnosis.thresholds import VERDICT_ADVICE, Advice, near_threshold, threshold
from lwcl.formatting import percent


class Evidence(NamedTuple):
    """What is measured on N images and a view of each; `lwcl.diagnosis.evidence` says how. None: not measured.

    From `rank` on, on unit features less their mean. "Few" clusters are as many as classes (or about ten), "many" are
    16 times as many (or what the images allow).
    """

    images: int
    spread: float  # standard deviation of unit features x sqrt(width): 1 fills the sphere, 0 is one point
    rank: float  # effective rank (RankMe)
    participation: float  # participation ratio of the covariance: directions that matter, blind to faint noise
    instances: float  # share of images whose view is nearer than all other images (d-sd, top 1)
    classes: int | None = None
    mean_cosine: float | None = None  # of different images, before the mean is taken off
    view_cosine: float | None = None  # of an image and its view
    neighbour_cosine: float | None = None  # of an image and its nearest other
    duplicates: float | None = None  # share of images with another at a cosine of at least 0.95
    stability: float | None = None  # agreement (ARI) of few clusters from different seeds
    silhouette: float | None = None  # of few clusters
    fine_clusters: int | None = None  # how many "many" are
    fine_stability: float | None = None
    fine_silhouette: float | None = None
    same_class: float | None = None  # share of the ten nearest that share the class
    chance: float | None = None  # that share if neighbours were drawn blindly
    alignment: float | None = None  # accuracy of as many clusters as classes, matched one to one
    clusters_per_class: float | None = None  # how many of these hold 90% of a class
    fine_purity: float | None = None  # share of images that the others of their cluster, of many, name rightly


class Verdict(NamedTuple):
    """A word of `WORDS`, why, what to try, and how sure it is: `high`, `fair` or `low`."""

    word: str
    reasons: tuple[str, ...]
    advice: tuple[Advice, ...]
    sureness: str


VERDICT_MEANINGS = {
    "healthy": "Images of a class lie together.",
    "collapsed": "All images get practically the same features.",
    "partly-collapsed": "The features use only a few directions.",
    "over-clustered": "Images are told apart, but those of a class do not lie together.",
    "under-trained": "Neither images nor classes are found well enough yet.",
}
CONFIDENCE_LEVELS = ("high", "fair", "low")


class RuleFinding(NamedTuple):
    """What a rule found: its word, reasons, and how many doubts there are."""

    word: str
    reasons: tuple[str, ...]
    doubts: int


def clustering_verdict(
    evidence: Evidence, *, random: Evidence | None = None, teacher: Evidence | None = None
) -> Verdict:
    """The verdict: the first rule that speaks, beside an untrained encoder's and a teacher's evidence of these images.

    An untrained encoder tells low rank and poor neighbours that training caused from those that it began with. Without
    classes, over-clustered and healthy are guesses, and say so.
    """
    known = evidence.same_class is not None
    found = collapse_rule(evidence, random) or (class_rule(evidence, random, teacher) if known else None)
    found = (
        found
        or low_rank_rule(evidence, random)
        or (pretext_rule(evidence, random) if known else unlabelled_rule(evidence, random))
    )
    return Verdict(found.word, found.reasons, VERDICT_ADVICE[found.word], CONFIDENCE_LEVELS[min(found.doubts, 2)])


def same_class_lift(evidence: Evidence) -> float:
    """Same-class neighbours above chance: 0 as if drawn blindly, 1 all; 0 where it was not measured."""
    chance = evidence.chance or 0.0
    return ((evidence.same_class or 0.0) - chance) / max(1e-9, 1 - chance)


def collapse_rule(evidence: Evidence, random: Evidence | None) -> RuleFinding | None:
    """Hardly any spread, and what is left tells no images apart; an untrained net may look so, but its rest does."""
    if evidence.spread >= threshold("spread"):
        return None
    lucky = evidence.instances * evidence.images <= threshold("lucky")
    shrunk = random is not None and evidence.spread < threshold("shrunk") * random.spread
    if not lucky and not shrunk:
        return None
    point = f"The spread of the features is {evidence.spread:.3f}: 0 is one point, 1 fills the sphere."
    rest = f"Less their mean, they find {percent(evidence.instances)} of the images by a view."
    before = (f"Random init's spread is {random.spread:.3f}.",) if random else ()
    return RuleFinding("collapsed", (point, rest, *before), int(not lucky) + near_threshold(evidence.spread, "spread"))


def class_rule(evidence: Evidence, random: Evidence | None, teacher: Evidence | None) -> RuleFinding | None:
    """With labels: classes in many pure clusters are over-clustering, classes that lie together are health."""
    scatter = (evidence.fine_purity or 0.0) - (evidence.alignment or 0.0)
    if evidence.fine_purity is not None and scatter >= threshold("scattered"):
        return RuleFinding("over-clustered", scattered_reasons(evidence), near_threshold(scatter, "scattered"))
    kin, least, before = same_class_lift(evidence), threshold("kin"), same_class_lift(random) if random else 0.0
    if teacher and teacher.same_class is not None:
        least = max(least, threshold("taught") * same_class_lift(teacher))
    if kin < least or kin - before < threshold("gained"):
        return None
    return RuleFinding(
        "healthy", neighbour_reasons(evidence, random, teacher), near_threshold(kin, "kin") + int(random is None)
    )


def low_rank_rule(evidence: Evidence, random: Evidence | None) -> RuleFinding | None:
    """Few directions, and clearly fewer than before training."""
    low = evidence.rank < threshold("rank") or evidence.participation < threshold("directions")
    if not low or (random and evidence.participation > threshold("lost") * random.participation):
        return None
    reason = f"The features use few directions: effective rank {evidence.rank:.1f}, participation ratio "
    before = f", random init's {random.participation:.1f}." if random else "."
    doubts = int(random is None) + near_threshold(evidence.participation, "directions")
    return RuleFinding("partly-collapsed", (f"{reason}{evidence.participation:.1f}{before}",), doubts)


def pretext_rule(evidence: Evidence, random: Evidence | None) -> RuleFinding:
    """With labels, whose classes were not found: either the pretext task is solved, or there is training to do."""
    reasons = (instance_reason(evidence, random), *neighbour_reasons(evidence, random, None))
    doubts = int(random is None) + near_threshold(evidence.instances, "solved")
    return RuleFinding(
        "over-clustered" if evidence.instances >= threshold("solved") else "under-trained", reasons, doubts
    )


def unlabelled_rule(evidence: Evidence, random: Evidence | None) -> RuleFinding:
    """Without labels: what clusters and neighbours look like. A class is not seen, so only `under-trained` is fair."""
    few, many = evidence.silhouette or 0.0, evidence.fine_silhouette or 0.0
    unsure = "There are no labels, so whether clusters are classes is a guess: look at the pictures."
    if few >= threshold("clear") and (evidence.stability or 0.0) >= threshold("stable"):
        clear = f"A few clusters stand out: silhouette {few:.2f}, agreement between seeds {evidence.stability:.2f}."
        return RuleFinding("healthy", (clear, unsure), 2)
    if evidence.instances < threshold("solved"):
        return RuleFinding(
            "under-trained", (instance_reason(evidence, random),), 1 + near_threshold(evidence.instances, "solved")
        )
    alone = (evidence.neighbour_cosine or 0.0) / max(1e-9, evidence.view_cosine or 1e-9)
    solved = instance_reason(evidence, random)
    if evidence.neighbour_cosine is not None and alone < threshold("alone"):
        lonely = f"Images lie alone: the nearest other image is {percent(alone)} as similar as the own view."
        return RuleFinding("over-clustered", (solved, lonely, unsure), 2)
    if many >= threshold("tight") and many - few >= threshold("crumbs"):
        crumbs = f"Many small clusters: silhouette {many:.2f} with {evidence.fine_clusters}, {few:.2f} with few."
        return RuleFinding("over-clustered", (solved, crumbs, "With as many kinds of images, that is well.", unsure), 2)
    return RuleFinding("healthy", (solved, "Other images of the same look lie close, too.", unsure), 2)


def instance_reason(evidence: Evidence, random: Evidence | None) -> str:
    """The reason that is instance discrimination."""
    solved = "is" if evidence.instances >= threshold("solved") else "is not"
    before = f"; random init's find {percent(random.instances)}" if random else ""
    found = f"features less their mean find {percent(evidence.instances)} of the images by a view"
    return f"The pretext task {solved} solved: {found}{before}."


def neighbour_reasons(evidence: Evidence, random: Evidence | None, teacher: Evidence | None) -> tuple[str, ...]:
    """The reason that is same-class neighbours, beside those of others."""
    others = {"chance": evidence.chance, "random init": random and random.same_class}
    others["the teacher"] = teacher and teacher.same_class
    told = ", ".join(f"{name} {percent(share)}" for name, share in others.items() if share is not None)
    return (f"{percent(evidence.same_class or 0)} of nearest neighbours share the class ({told}).",)


def scattered_reasons(evidence: Evidence) -> tuple[str, ...]:
    """The reasons that are classes in many clusters."""
    few, many = percent(evidence.alignment or 0), percent(evidence.fine_purity or 0)
    told = f"As many clusters as classes match them to {few}, {evidence.fine_clusters} clusters to {many}."
    return (
        told,
        f"90% of a class are spread over {evidence.clusters_per_class or 0:.1f} of as many clusters as classes.",
    )
