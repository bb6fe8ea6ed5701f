"""The thresholds of the clustering verdict, and what to try for each diagnosis, with its source.

The thresholds are ours. They were set on untrained encoders, partly trained ones and a supervised one, on 1,000 small
photos of ten classes and a view of each (MoCo v2), and on synthetic features; `threshold_table` lists them.
"""

from typing import NamedTuple


class Threshold(NamedTuple):
    """A number that a rule compares a metric with, and the diagnosis that the rule supports."""

    diagnosis: str
    metric: str
    value: float
    condition: str


THRESHOLDS = {
    "std": Threshold("collapsed", "embedding std", 0.1, "below, and images match their views only by chance"),
    "chance_matches": Threshold("collapsed", "images that match their view", 4, "at most: by chance"),
    "std_ratio": Threshold("collapsed", "embedding std / untrained std", 0.3, "below, and the std below its threshold"),
    "rank": Threshold("partly-collapsed", "effective rank", 8, "below, unless classes are found"),
    "participation": Threshold("partly-collapsed", "participation ratio", 3, "below, unless classes are found"),
    "participation_vs_untrained": Threshold(
        "partly-collapsed", "participation ratio / untrained ratio", 0.5, "below: training narrowed them"
    ),
    "lift": Threshold("healthy", "chance-corrected same-class share of neighbours", 0.35, "at least"),
    "teacher_lift": Threshold("healthy", "same-class share / the teacher's", 0.6, "at least, if a teacher is given"),
    "lift_gain": Threshold("healthy", "same-class share - untrained share", 0.05, "at least: else not due to training"),
    "instances": Threshold("over-clustered", "instance discrimination", 0.6, "at least: the pretext task is solved"),
    "purity_gap": Threshold("over-clustered", "purity of many clusters - accuracy of few", 0.25, "at least"),
    "neighbour_ratio": Threshold(
        "over-clustered", "cosine of the nearest neighbour / of the view", 0.5, "below, without labels"
    ),
    "silhouette_gap": Threshold(
        "over-clustered", "silhouette of many clusters - of few", 0.25, "at least, without labels"
    ),
    "fine_silhouette": Threshold("over-clustered", "silhouette of many clusters", 0.5, "and at least, without labels"),
    "silhouette": Threshold("healthy", "silhouette of few clusters", 0.4, "at least, without labels"),
    "stability": Threshold("healthy", "stability of few clusters", 0.8, "and at least, without labels"),
}


class Advice(NamedTuple):
    """What to try: a setting or command, why, and the source of the finding; for a run also the `command`.

    `flags` are those of the command, with names of `lwcl.diagnosis.advice.placeholders` in braces.
    """

    setting: str
    why: str
    source: str
    flags: str
    command: str = ""


TEACHER_ADVICE = Advice(
    "lwcl distill --teacher ENCODER",
    "a larger teacher provides the similarities between images that small encoders do not learn on their own",
    "SEED, arXiv 2101.04731; DisCo, arXiv 2104.09124",
    "--arch {arch} --image-size {image_size} --teacher timm/resnet50.a1_in1k",
)
VERDICT_ADVICE: dict[str, tuple[Advice, ...]] = {
    "healthy": (),
    "collapsed": (
        Advice(
            "a lower --lr, a longer --warmup",
            "large early steps can collapse the embedding",
            "arXiv 2104.02057",
            "--lr {low_lr} --warmup {long_warmup}",
        ),
        Advice(
            "a higher --key-momentum",
            "keys that change fast are inconsistent",
            "MoCo, arXiv 1911.05722, 4.1",
            "--key-momentum {high_momentum}",
        ),
        Advice(
            "--bn-splits 8",
            "batch norm can leak which key is the positive",
            "MoCo, arXiv 1911.05722, 3.3",
            "--bn-splits 8",
        ),
    ),
    "partly-collapsed": (
        Advice(
            "--hidden 2x",
            "a wider projection head keeps dimensional collapse out of the backbone",
            "Jing et al., arXiv 2110.09348",
            "--hidden 2x",
        ),
        Advice(
            "--augmentation moco-v2",
            "augmentation with more variance than the data causes dimensional collapse",
            "Jing et al., arXiv 2110.09348",
            "--augmentation moco-v2",
        ),
    ),
    "over-clustered": (
        TEACHER_ADVICE,
        Advice(
            "--recipe light",
            "its soft target leaves mass for the nearest keys, which often have the same class",
            "light-moco, arXiv 2212.07158",
            "--recipe light",
        ),
        Advice(
            "--recipe ssl-small",
            "stronger augmentation, a wider head and temperature 0.1 gained small networks 9 to 16 points of linear "
            "accuracy on ImageNet, but ResNet-18 nothing",
            "ssl-small, arXiv 2107.14762, figure 1",
            "--recipe ssl-small",
        ),
    ),
    "under-trained": (
        Advice(
            "more --epochs",
            "on ImageNet 800 instead of 200 epochs gained EfficientNet-B0, DeiT-Tiny and ResNet-18 5 to 6 points, "
            "MobileNetV3 nothing",
            "ssl-small, arXiv 2107.14762, figure 1",
            "--epochs {more_epochs}",
        ),
        Advice(
            "a smaller --queue-size",
            "a queue longer than the data set contains older keys of the query's own image as negatives",
            "MoCo's CIFAR-10 notebook: 4,096 keys for 50,000 images",
            "--queue-size {short_queue}",
        ),
        TEACHER_ADVICE,
    ),
}


def threshold(name: str) -> float:
    """The value of a threshold."""
    return THRESHOLDS[name].value


def near_threshold(value: float, name: str) -> int:
    """1 where a value is within 20% of a threshold: another sample of images might change the verdict."""
    return int(abs(value - threshold(name)) < 0.2 * threshold(name))


def threshold_table() -> list[tuple[str, str, str, str]]:
    """All thresholds for the documentation: diagnosis, metric, threshold, condition."""
    return [(one.diagnosis, one.metric, f"{one.value:g}", one.condition) for one in THRESHOLDS.values()]
