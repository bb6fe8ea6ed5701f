"""Settings that depend on the data, the batch and the machine: each settled by a stated rule, told with its reason.

The rules' numbers come from the papers at ImageNet's size and from MoCo's CIFAR notebook (50,000 images: queue 4,096,
key momentum 0.99, weight decay 5e-4) at small sizes; in between they interpolate. What was tried is in
`docs/results.md`.
"""

from typing import Any, NamedTuple

from lwcl.config.recipes import SMALL_DATA_IMAGES
from lwcl.settings import SettingValue, auto_value

DEMO_IMAGES_SEEN = 36_000  # images over all epochs of a run on an embedded set
TOTAL_IMAGES_SEEN = 800_000  # over all epochs of a run on few images

#: What the rules may settle.
AUTO_SETTINGS = (
    "image_size",
    "batch_size",
    "epochs",
    "lr",
    "warmup",
    "weight_decay",
    "queue_size",
    "anchors",
    "clusters",
    "key_momentum",
    "threads",
    "workers",
    "views_by",
    "teacher_precision",
)


class RunFacts(NamedTuple):
    """What the rules look at."""

    images: int  # in the training set
    short_side: int  # pixels, median
    cpus: int  # that this process may use
    accelerated: bool  # whether training runs on a GPU
    embedded: bool = False  # whether the set is embedded: a demonstration
    opencv: bool = False  # whether OpenCV is installed
    slow_bf16: bool = False  # whether training runs on a CPU that does not multiply bfloat16 itself


def floor_power_of_two(number: float, low: int, high: int) -> int:
    """The largest power of two up to `number`, within [low, high]."""
    return max(low, min(high, 1 << (max(1, int(number)).bit_length() - 1)))


def apply_rules(values: dict[str, Any], facts: RunFacts) -> dict[str, SettingValue]:
    """Values for all settings of a run that are still None, with reasons; `values` has every setting by name."""
    known = dict(values)
    settled: dict[str, SettingValue] = {}

    def rule(name: str, value: Any, reason: str) -> None:
        if name in known and known[name] is None:
            known[name] = value
            settled[name] = auto_value(value, reason)

    rule("image_size", *auto_image_size(facts))
    batch = floor_power_of_two(min(facts.images / 2, max(64, facts.images / 100)), 2, 256)
    rule(
        "batch_size", batch, f"256, or less for more steps from {facts.images:,} images, but 64 where there are enough"
    )
    steps = max(1, facts.images // known["batch_size"])
    few = facts.images < SMALL_DATA_IMAGES
    if facts.embedded:
        rule("epochs", max(1, DEMO_IMAGES_SEEN // facts.images), "a demonstration: minutes on two cores")
    epochs = max(20, min(200, round(TOTAL_IMAGES_SEEN / facts.images))) if few else 200
    seen = f"{TOTAL_IMAGES_SEEN:,} images seen in all, within 20 to 200 epochs"
    rule("epochs", epochs, seen if few else "200, as published for ImageNet")
    share = known["batch_size"] / 256
    scaled = known["base_lr"] * (share**0.5 if known["optimizer"] == "adamw" else share)
    root = "the root of " if known["optimizer"] == "adamw" else ""
    rule("lr", float(f"{scaled:.6g}"), f"base-lr {known['base_lr']:g} x {root}batch {known['batch_size']} / 256")
    rule("warmup", min(3.0, known["epochs"] / 10), "3 epochs (light-moco), at most a tenth of them")
    notebook, published = "5e-4 for few images (MoCo's CIFAR notebook)", "1e-4, as published for ImageNet"
    rule("weight_decay", 5e-4 if few else 1e-4, notebook if few else published)
    queue = floor_power_of_two(facts.images / 8, 2 * known["batch_size"], 65536)
    rule("queue_size", queue, "a queue longer than an eighth of the images holds keys of the query's own image")
    anchors = max(2 * known["batch_size"], min(128_000, facts.images // 2))
    rule("anchors", anchors, "half of the images (one in eight then meets its own anchor), at most CompRess's 128,000")
    rule("clusters", max(2, min(16_000, facts.images // 80)), "80 images a cluster, as CompRess's 16,000 of ImageNet")
    time = max(100, min(1000, known["epochs"] * steps / 100))
    lag = f"the key encoder lags {time:.0f} steps: a hundredth of the run, within 100 (MoCo's CIFAR notebook) and 1,000"
    rule("key_momentum", round(1 - 1 / time, 6), lag)
    rule("threads", facts.cpus, "the CPUs this process may use")
    rule("workers", facts.cpus, "the CPUs this process may use")
    rule("views_by", *auto_views_by(facts))
    if known.get("teacher"):
        half = "bf16", "half of the time and the memory"
        rule("teacher_precision", *(("fp32", "this CPU does not multiply bf16 itself") if facts.slow_bf16 else half))
    return settled


def auto_views_by(facts: RunFacts) -> tuple[str, str]:
    """How views are made: benchmarks/views.py."""
    if facts.accelerated:
        return "tensor", "the GPU makes them"
    if facts.opencv:
        return "opencv", "OpenCV is installed and makes them faster on a CPU"
    return "tensor", "OpenCV, which makes them faster on a CPU, is not installed"


def auto_image_size(facts: RunFacts) -> tuple[int, str]:
    """Pixels of a view: the images' own short side, within limits."""
    own = max(32, facts.short_side // 32 * 32)
    if own < 64:
        return 64, f"images are {facts.short_side} px; below 64 px a backbone of stride 32 sees a map of 1 x 1"
    most = 224 if facts.accelerated else 128
    if own > most:
        return most, f"images are {facts.short_side} px; " + (
            "224 px as published" if facts.accelerated else "more than 128 px is slow on a CPU"
        )
    return own, f"images are {facts.short_side} px"
