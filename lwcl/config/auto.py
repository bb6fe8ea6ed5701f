"""Automatic settings: what depends on the images, the batch or the machine, each by a stated rule with its reason.

The rules' numbers come from the papers at ImageNet's size and from MoCo's CIFAR notebook (50,000 images: queue 4,096,
key momentum 0.99, weight decay 5e-4) at small sizes; in between they interpolate. What was tried is in
`docs/results.md`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from lwcl.config.citation import CitedValue
from lwcl.config.plan import Plan, ResolvedConfig
from lwcl.config.recipes import AUTO_RECIPES, DEMO_OVERRIDES, RECIPES, SMALL_DATA_IMAGES, SMALL_DATA_OVERRIDES
from lwcl.methods.method import TrainCommand
from lwcl.settings import AUTO, Origin, OriginKind, SettingValue, auto_value

DEMO_IMAGES_SEEN = 27_000  # images over all epochs of a run on a built-in data set
TOTAL_IMAGES_SEEN = 800_000  # images over all epochs of a run on a small data set

FEW_BITS_IMAGES_SEEN = 40_000  # a student of few bits

#: Values of these origins may be changed for small data sets or for the demo: the user did not choose them.
OVERRIDABLE = (OriginKind.DEFAULT, OriginKind.RECIPE, OriginKind.METHOD)


class RunFacts(NamedTuple):
    """The properties of the images and the machine that the rules depend on."""

    images: int  # in the training set
    short_side: int  # pixels, median
    cpus: int  # that this process may use, its share of those of the machine
    accelerated: bool  # whether training runs on a GPU
    demo: bool = False  # whether the data set is built in
    opencv: bool = False  # whether OpenCV is installed
    emulated_bf16: bool = False  # whether training runs on a CPU without bfloat16 instructions
    processes: int = 1  # that train together
    rgb: bool = True  # whether the images are 8-bit RGB


def resolve_plan(plan: Plan, facts: RunFacts) -> ResolvedConfig:
    """The plan with a value for every automatic setting; what a flag or a file chose stays.

    Raises `UsageError` for a value outside its limits.
    """
    if plan.options.recipe == AUTO:
        plan = plan.with_recipe(*auto_recipe(plan.command, facts))
    values = plan.values | preset_overrides(plan, facts)
    values |= apply_rules({name: one.value for name, one in values.items()}, facts)
    values |= neighbours_in_queue(values)
    return ResolvedConfig.from_values(plan.command, values)


def auto_recipe(command: TrainCommand, facts: RunFacts) -> tuple[str, str]:
    """The recipe of `--recipe auto`, and why (docs/results.md)."""
    if facts.images < SMALL_DATA_IMAGES:
        return AUTO_RECIPES[command].small, f"fewer than {SMALL_DATA_IMAGES:,} images"
    return AUTO_RECIPES[command].large, f"{SMALL_DATA_IMAGES:,} images or more"


def preset_overrides(plan: Plan, facts: RunFacts) -> dict[str, SettingValue]:
    """The overrides for small data sets and for the demo, except where the user chose a value."""
    if RECIPES[plan.options.recipe].for_small_data:
        return {}
    small = SMALL_DATA_OVERRIDES[plan.command] if facts.images < SMALL_DATA_IMAGES else {}
    demo = DEMO_OVERRIDES if facts.demo else {}
    return {
        **_overrides(plan, small, f"recipes for fewer than {SMALL_DATA_IMAGES:,} images"),
        **_overrides(plan, demo, "demo preset: short run, not best accuracy"),
    }


def _overrides(plan: Plan, changes: Mapping[str, CitedValue], reason: str) -> dict[str, SettingValue]:
    return {
        name: SettingValue(cited.value, Origin(OriginKind.PRESET, reason))
        for name, cited in changes.items()
        if name in plan.values and plan.values[name].origin.kind in OVERRIDABLE
    }


def neighbours_in_queue(values: Mapping[str, SettingValue]) -> dict[str, SettingValue]:
    """Neighbours that nobody chose are at most the keys of the queue, which a tiny data set keeps short."""
    neighbours, queue, target = (values.get(name) for name in ("neighbours", "queue_size", "target"))
    if not neighbours or not queue or not target or target.value != "top":
        return {}
    if neighbours.origin.kind not in OVERRIDABLE or neighbours.value <= queue.value:
        return {}
    return {"neighbours": auto_value(queue.value, f"the queue holds no more than {queue.value} keys")}


def floor_power_of_two(number: float, low: int, high: int) -> int:
    """The largest power of two up to `number`, within [low, high]."""
    return max(low, min(high, 1 << (max(1, int(number)).bit_length() - 1)))


def apply_rules(values: Mapping[str, Any], facts: RunFacts) -> dict[str, SettingValue]:
    """Values, with reasons, for the settings that are still None or `AUTO`; `values` has every setting by name."""
    known = dict(values)
    resolved: dict[str, SettingValue] = {}

    def rule(name: str, value: Any, reason: str) -> None:
        if name in known and known[name] in (None, AUTO):
            known[name] = value
            resolved[name] = auto_value(value, reason)

    # 1. The views and the batch come first: the learning rate, the queue and the momentum of the key encoder follow.
    rule("image_size", *auto_image_size(facts))
    batch = floor_power_of_two(min(facts.images / 2, max(64, facts.images / 100)), 2, 256)
    reason = "256, reduced to no less than 64 so that a small data set gets enough steps"
    if batch % facts.processes:
        batch, reason = max(1, batch // facts.processes) * facts.processes, f"{reason}; for {facts.processes} processes"
    rule("batch_size", batch, reason)
    # 2. Optimization: the papers' values at ImageNet's size, the CIFAR notebook's for few images.
    few = facts.images < SMALL_DATA_IMAGES
    rule("epochs", *auto_epochs(facts, few_bits=known.get("bits") is not None))
    rule("lr", *auto_lr(known))
    rule("warmup", round(min(3.0, known["epochs"] / 10), 6), "3 epochs (light-moco), at most 10% of all")
    notebook, published = "5e-4 for a small data set (MoCo's CIFAR notebook)", "1e-4, as published for ImageNet"
    rule("weight_decay", 5e-4 if few else 1e-4, notebook if few else published)
    # 3. Memories must not hold most of a small data set.
    queue = floor_power_of_two(facts.images / 8, 2 * known["batch_size"], 65536)
    rule("queue_size", queue, "at most N/8, so a query's own image is rarely a negative")
    anchors = max(2 * known["batch_size"], min(128_000, facts.images // 2))
    rule("anchors", anchors, "N/2 (1 in 8 images then meets its own anchor), at most CompRess's 128,000")
    rule("clusters", max(2, min(16_000, facts.images // 80)), "80 images per cluster, as CompRess's 16,000 of ImageNet")
    steps = known["epochs"] * max(1, facts.images // known["batch_size"])
    lag = max(100, min(1000, steps / 100))
    reason = f"time constant of {lag:.0f} steps: 1% of the run, within 100 (MoCo's CIFAR notebook) and 1,000"
    rule("key_momentum", round(1 - 1 / lag, 6), reason)
    # 4. The machine.
    rule("devices", facts.processes, "processes that were started")
    rule("threads", facts.cpus, "CPUs available to this process")
    rule("workers", facts.cpus, "CPUs available to this process")
    rule("view_backend", *auto_view_backend(facts))
    if known.get("teacher"):
        half = "bf16", "half the time and memory"
        rule("teacher_precision", *(("fp32", "this CPU emulates bf16") if facts.emulated_bf16 else half))
    return resolved


def auto_epochs(facts: RunFacts, *, few_bits: bool = False) -> tuple[int, str]:
    """Epochs, and the reason; `few_bits`: of a student that starts as its float32 twin."""
    if few_bits:
        epochs = max(2, min(20, round(FEW_BITS_IMAGES_SEEN / facts.images)))
        return epochs, f"{FEW_BITS_IMAGES_SEEN:,} images seen in total: the student starts as its float32 twin"
    if facts.demo:
        return max(1, DEMO_IMAGES_SEEN // facts.images), "demo preset: minutes on two cores"
    if facts.images >= SMALL_DATA_IMAGES:
        return 200, "200, as published for ImageNet"
    epochs = max(20, min(200, round(TOTAL_IMAGES_SEEN / facts.images)))
    return epochs, f"{TOTAL_IMAGES_SEEN:,} images seen in total, within 20 and 200 epochs"


def auto_lr(known: Mapping[str, Any]) -> tuple[float, str]:
    """The learning rate for the batch size, and the reason: linear scaling, square-root scaling for AdamW."""
    adamw, ratio = known["optimizer"] == "adamw", known["batch_size"] / 256
    scaled = known["base_lr"] * (ratio**0.5 if adamw else ratio)
    factor = f"sqrt(batch {known['batch_size']} / 256)" if adamw else f"batch {known['batch_size']} / 256"
    return float(f"{scaled:.6g}"), f"base-lr {known['base_lr']:g} x {factor}"


def auto_view_backend(facts: RunFacts) -> tuple[str, str]:
    """What computes augmentations, and the reason; measured in benchmarks/views.py."""
    if facts.accelerated:
        return "tensor", "computed on the GPU"
    if not facts.rgb:
        return "tensor", "channels that are no colours"
    if facts.opencv:
        return "opencv", "faster on a CPU"
    return "tensor", "OpenCV, which is faster on a CPU, is not installed"


def auto_image_size(facts: RunFacts) -> tuple[int, str]:
    """Pixels of a view: the short side of the images, within limits."""
    own = max(32, facts.short_side // 32 * 32)
    if own < 64:
        return 64, f"images are {facts.short_side} px; below 64 px a backbone of stride 32 has a 1 x 1 feature map"
    largest = 224 if facts.accelerated else 128
    if own > largest:
        limit = "224 px as published" if facts.accelerated else "more than 128 px is slow on a CPU"
        return largest, f"images are {facts.short_side} px; {limit}"
    return own, f"images are {facts.short_side} px"
