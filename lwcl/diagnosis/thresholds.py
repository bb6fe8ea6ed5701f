"""The numbers that verdicts on clusters compare with, and what to try against each finding, with its source.

The limits are ours. They were set on untrained encoders, on encoders in the midst of training and on a supervised one,
on 1,000 small photos of ten classes and a view of each (MoCo v2), and on made features; see `table`.
"""

from typing import NamedTuple


class Threshold(NamedTuple):
    """A number that a rule compares with, for the word that it speaks for."""

    word: str
    title: str
    limit: float
    meaning: str


THRESHOLDS = {
    "spread": Threshold("collapsed", "spread", 0.1, "below it, if images are found by chance only"),
    "lucky": Threshold("collapsed", "images found", 4, "at most so many of all images: chance finds one"),
    "shrunk": Threshold("collapsed", "spread by random init's", 0.3, "below it (and below the limit of the spread)"),
    "rank": Threshold("partly-collapsed", "effective rank", 8, "below it, unless classes are found"),
    "directions": Threshold("partly-collapsed", "participation ratio", 3, "below it, unless classes are found"),
    "lost": Threshold(
        "partly-collapsed", "participation ratio by random init's", 0.5, "above it, training lost nothing"
    ),
    "kin": Threshold("healthy", "same-class neighbours above chance", 0.35, "from it on, classes are found"),
    "taught": Threshold("healthy", "the same by the teacher's", 0.6, "from it on, where a teacher is given"),
    "gained": Threshold("healthy", "the same less random init's", 0.05, "from it on: else it is no merit of training"),
    "solved": Threshold("over-clustered", "instance discrimination", 0.6, "from it on, the pretext task is solved"),
    "scattered": Threshold("over-clustered", "purity of many clusters less alignment of few", 0.25, "from it on"),
    "alone": Threshold("over-clustered", "cosine of the nearest other by the view's", 0.5, "below it, without labels"),
    "crumbs": Threshold(
        "over-clustered", "silhouette of many clusters less that of few", 0.25, "from it on, no labels"
    ),
    "tight": Threshold("over-clustered", "silhouette of many clusters", 0.5, "from it on, too, without labels"),
    "clear": Threshold("healthy", "silhouette of few clusters", 0.4, "from it on, without labels"),
    "stable": Threshold("healthy", "stability of few clusters", 0.8, "from it on, too, without labels"),
}


class Advice(NamedTuple):
    """What to try: a setting or command, why, and who found it."""

    setting: str
    why: str
    source: str


TEACHER_ADVICE = Advice(
    "lwcl distill --teacher ENCODER",
    "a larger encoder says which images are alike, which a small one does not find out by itself",
    "SEED, arXiv 2101.04731; DisCo, arXiv 2104.09124",
)
VERDICT_ADVICE: dict[str, tuple[Advice, ...]] = {
    "healthy": (),
    "collapsed": (
        Advice("a lower --lr, a longer --warmup", "large first steps throw all images together", "arXiv 2104.02057"),
        Advice("a larger --key-momentum", "keys that change fast cannot be learnt", "MoCo, arXiv 1911.05722, 4.1"),
        Advice("--bn-splits 8", "batch norm can give the positive away", "MoCo, arXiv 1911.05722, 3.3"),
    ),
    "partly-collapsed": (
        Advice("--hidden 2x", "a wider head takes the loss of directions upon itself", "Jing et al., arXiv 2110.09348"),
        Advice(
            "--augmentation moco-v2",
            "views that differ more than images do erase directions",
            "Jing et al., arXiv 2110.09348",
        ),
    ),
    "over-clustered": (
        TEACHER_ADVICE,
        Advice(
            "--method light-moco",
            "its target leaves mass for the nearest keys, which are often of the same class",
            "light-moco, arXiv 2212.07158",
        ),
        Advice(
            "--recipe ssl-small",
            "stronger views, a wider head and temperature 0.1 gave light nets 9 to 16 points of linear accuracy on "
            "ImageNet, but ResNet-18 none",
            "ssl-small, arXiv 2107.14762, figure 1",
        ),
    ),
    "under-trained": (
        Advice(
            "more --epochs",
            "on ImageNet 800 instead of 200 gave EfficientNet-B0, DeiT-tiny and ResNet-18 5 to 6 points, though "
            "MobileNetV3 none",
            "ssl-small, arXiv 2107.14762, figure 1",
        ),
        Advice(
            "a smaller --queue-size",
            "a queue longer than the data set holds other keys of the same image as negatives",
            "MoCo's CIFAR-10 notebook: 4,096 keys for 50,000 images",
        ),
        TEACHER_ADVICE,
    ),
}


def threshold(name: str) -> float:
    """The number of a limit."""
    return THRESHOLDS[name].limit


def near_threshold(value: float, name: str) -> int:
    """1 where a value is within a fifth of a limit: then another draw of images might decide otherwise."""
    return int(abs(value - threshold(name)) < 0.2 * threshold(name))


def threshold_table() -> list[tuple[str, str, str, str]]:
    """All limits for the documentation: word, measure, limit, what it means."""
    return [(one.word, one.title, f"{one.limit:g}", one.meaning) for one in THRESHOLDS.values()]
