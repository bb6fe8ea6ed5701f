"""How to optimise: `Optimization`; and `RECIPES`, the published recipes with the source of each number.

Sources: "ssl-small" is arXiv 2107.14762 and its code, "light-moco" is arXiv 2212.07158 and its code, "MoCo v2" is arXiv
2003.04297, "SwAV" is arXiv 2006.09882 and its code, "MSF" is arXiv 2105.07269 and its code, "ISD" is arXiv 2012.09259
and its code. light-moco's code does not contain its final ImageNet recipe; what is reconstructed from its flags and run
names says so.
"""

from typing import NamedTuple

from lwcl.config.citation import CitedValue, PublishedRecipe
from lwcl.config.distill_recipes import DISTILL_RECIPES
from lwcl.methods.method import TrainCommand, methods
from lwcl.settings import Auto, Settings, setting, unknown_name_error


class Optimization(Settings):
    """The optimization of a run."""

    epochs: Auto[float] = setting(
        None, "passes over the images, or a part of one: 0.5 [auto: from their number]", above=0, at_most=1e6,
        group="Optimization",
    )  # fmt: skip
    batch_size: Auto[int] = setting(
        None, "images per step, over all processes [auto: from their number]", at_least=2, group="Optimization"
    )
    accumulate: int = setting(
        1, "micro-batches per step (gradient accumulation): less memory", at_least=1, group="Optimization"
    )
    bn_splits: int = setting(
        1, "parts of a batch that are batch-normalised separately, as in several processes", at_least=1,
        group="Optimization",
    )  # fmt: skip
    sync_bn: bool = setting(
        False, "batch norm over the images of all processes (on accelerators)", group="Optimization"
    )
    optimizer: str = setting(
        "sgd", "sgd, adamw or lars (of timm)", choices=("sgd", "adamw", "lars"), group="Optimization"
    )
    lr: Auto[float] = setting(
        None, "peak learning rate [auto: base-lr scaled by the batch]", above=0, group="Optimization"
    )
    base_lr: float = setting(0.03, "learning rate for a batch of 256", above=0, group="Optimization")
    momentum: float = setting(0.9, "momentum of the optimizer", at_least=0, below=1, group="Optimization")
    weight_decay: Auto[float] = setting(
        None, "weight decay of all parameters [auto: from the number of images]", at_least=0, group="Optimization"
    )
    schedule: str = setting(
        "cosine",
        "learning rate schedule: cosine, constant or step",
        choices=("cosine", "constant", "step"),
        group="Optimization",
    )
    milestones: tuple[float, ...] = setting(
        (0.6, 0.8), "fractions of the run at which --schedule step lowers the learning rate", group="Optimization"
    )
    step_factor: float = setting(
        0.1, "multiply the learning rate by this at each milestone", above=0, at_most=1, group="Optimization"
    )
    warmup: Auto[float] = setting(
        None, "epochs of linear warm-up [auto: from the epochs]", at_least=0, group="Optimization"
    )
    per_epoch: bool = setting(
        False, "change the learning rate at epoch starts only, as the published code does", group="Optimization"
    )

    def steps(self, steps_per_epoch: int) -> int:
        """Steps of the whole run, at least one."""
        return max(1, round(self.epochs * steps_per_epoch))


#: With fewer images, a run has too few steps for SGD as published for ImageNet.
SMALL_DATA_IMAGES = 200_000
LWCL_RESULTS = "lwcl, docs/results.md: with few steps SGD and a head without batch norm stay on the plateau of InfoNCE"

#: What every recipe changes for fewer than `SMALL_DATA_IMAGES` images.
SMALL_DATA_COMMON: dict[str, CitedValue] = {
    "optimizer": CitedValue("adamw", LWCL_RESULTS),
    "base_lr": CitedValue(1e-3, LWCL_RESULTS),
    "weight_decay": CitedValue(
        0.05, "AdamW's customary value (MoCo v3, arXiv 2104.02057: 0.1; DeiT, arXiv 2012.12877: 0.05)"
    ),
    "zero_residuals": CitedValue(True, "lwcl, docs/results.md; light-moco's ResNets start so too (zero_init_residual)"),
}

#: The same by command; a flag or a file wins over it.
SMALL_DATA_OVERRIDES: dict[TrainCommand, dict[str, CitedValue]] = {
    "pretrain": {
        **SMALL_DATA_COMMON,
        "head_norm": CitedValue(True, LWCL_RESULTS + "; MoCo v3 (arXiv 2104.02057) has it too"),
        "smoothing_warmup": CitedValue(3.0, "light-moco, code: its warm-up of 3 epochs delays smoothing too"),
    },
    "distill": SMALL_DATA_COMMON,
    "compress": SMALL_DATA_COMMON,
}


class AutoRecipe(NamedTuple):
    """What `--recipe auto` means."""

    small: str  # below SMALL_DATA_IMAGES images
    large: str


#: Measured in docs/results.md on small data sets; the papers' on large ones.
AUTO_RECIPES: dict[TrainCommand, AutoRecipe] = {
    "pretrain": AutoRecipe("simclr", "light"),
    "distill": AutoRecipe("disco", "disco"),
    "compress": AutoRecipe("regression", "compress-2q"),
}

#: What every recipe changes on a built-in data set.
DEMO_OVERRIDES: dict[str, CitedValue] = {
    "symmetric": CitedValue(False, "lwcl, docs/results.md: half the time per step, a few points lower"),
    "key_momentum": CitedValue(0.9, "lwcl, docs/results.md: 0.99 lags 100 of 552 steps, so keys do not match queries"),
}

TESTED_ARCHS = (
    "mobilenetv3_large_100",
    "mobilenetv3_small_100",
    "efficientnet_b0",
    "resnet18",
    "deit_tiny_patch16_224",
)

MOCO_V2_CODE = "MoCo v2, main_moco.py with --mlp --aug-plus --cos --moco-t 0.2"
SSL_SMALL_COMMAND = "ssl-small, published command"
LIGHT_CODE = "light-moco, code default"
LIGHT_RUN = "light-moco, name of an internal run (sym, t0.1, lr 0.12, warm 3, inner 2048)"
SWAV_RUN = "SwAV, published command for batch 256 (200 epochs)"
SWAV_CODE = "SwAV, code: colour distortion of strength 1"
MSF_COMMAND = "MSF, published command"
ISD_COMMAND = "ISD, published command for ResNet-18"
LIGHT_RECONSTRUCTED = "light-moco, reconstructed: published neither in the paper's code nor its README"

SIMCLR_STUDY = "lwcl, docs/results.md: the best of the objectives tried at 320 to 620 steps"

RECIPES: dict[str, PublishedRecipe] = {
    "simclr": PublishedRecipe(
        "contrast within the batch (SimCLR), with AdamW and a head with batch norm: for small data sets and few steps",
        "simclr",
        {
            "augmentation": CitedValue("moco-v2", "as light-moco's and MoCo v2's; others were not tried"),
            "temperature": CitedValue(0.2, SIMCLR_STUDY + "; 0.1 is within its noise"),
            "hidden": CitedValue("2048", "as light-moco's; others were not tried"),
            "head_norm": CitedValue(True, LWCL_RESULTS),
            "optimizer": CitedValue("adamw", LWCL_RESULTS),
            "base_lr": CitedValue(2e-3, SIMCLR_STUDY + ": 1e-3 at batch 64; 2e-3 was no better on the demo"),
            "weight_decay": CitedValue(0.05, "AdamW's customary value (DeiT, arXiv 2012.12877)"),
            "schedule": CitedValue("cosine", "SimCLR (arXiv 2002.05709)"),
            "zero_residuals": CitedValue(True, "lwcl, docs/results.md, with light-moco"),
        },
        for_small_data=True,
    ),
    "moco-v2": PublishedRecipe(
        "the baseline: MoCo v2 as published for ResNet-50; small models learn little from it",
        "moco",
        {
            "augmentation": CitedValue("moco-v2", MOCO_V2_CODE),
            "temperature": CitedValue(0.2, MOCO_V2_CODE),
            "hidden": CitedValue("1x", MOCO_V2_CODE),
            "symmetric": CitedValue(False, MOCO_V2_CODE),
            "optimizer": CitedValue("sgd", MOCO_V2_CODE),
            "base_lr": CitedValue(0.03, MOCO_V2_CODE + ": 0.03 at batch 256"),
            "schedule": CitedValue("cosine", MOCO_V2_CODE),
            "warmup": CitedValue(0.0, MOCO_V2_CODE + ": none"),
        },
    ),
    "ssl-small": PublishedRecipe(
        "lower temperature, stronger colour jitter and a wider head (ssl-small); "
        "starts from random weights here, in the paper from a SEED student",
        "moco",
        {
            "augmentation": CitedValue("ssl-small", SSL_SMALL_COMMAND + ": cj 1, gray 0.5"),
            "temperature": CitedValue(0.1, SSL_SMALL_COMMAND),
            "hidden": CitedValue("2x", SSL_SMALL_COMMAND + ": --mlp wide"),
            "symmetric": CitedValue(False, SSL_SMALL_COMMAND),
            "optimizer": CitedValue("sgd", SSL_SMALL_COMMAND),
            "base_lr": CitedValue(0.03, SSL_SMALL_COMMAND + ": 0.06 at batch 512"),
            "schedule": CitedValue("cosine", SSL_SMALL_COMMAND + ": --cos"),
            "warmup": CitedValue(0.0, SSL_SMALL_COMMAND + ": none"),
        },
    ),
    "light": PublishedRecipe(
        "smoothed targets, symmetric loss, wide head, warm-up (light-moco)",
        "light-moco",
        {
            "augmentation": CitedValue("moco-v2", LIGHT_CODE + ": --aug-plus"),
            "temperature": CitedValue(0.1, LIGHT_RUN),
            "hidden": CitedValue("2048", LIGHT_RUN),
            "symmetric": CitedValue(True, LIGHT_RUN),
            "smoothing": CitedValue(0.2, LIGHT_RECONSTRUCTED + "; 0.2 is quoted by a third party as the paper's"),
            "neighbours": CitedValue(10, LIGHT_RECONSTRUCTED + "; its code covers 5, 10, 20 and 30"),
            "target": CitedValue("top", LIGHT_CODE + ": strategy 1"),
            "optimizer": CitedValue("sgd", LIGHT_CODE),
            "base_lr": CitedValue(0.06, LIGHT_RUN + ": 0.12 at batch 512"),
            "schedule": CitedValue("cosine", LIGHT_CODE + ": --cos"),
        },
    ),
    "swav": PublishedRecipe(
        "clusters instead of negatives, with six local crops (SwAV); published for batch 256 with --queue-size 3840; "
        "can collapse on few images",
        "swav",
        {
            "augmentation": CitedValue("moco-v2", "SwAV, code: blur, gray and flip as MoCo v2's"),
            **dict.fromkeys(("brightness", "contrast", "saturation"), CitedValue(0.8, SWAV_CODE)),
            "hue": CitedValue(0.2, SWAV_CODE),
            "temperature": CitedValue(0.1, SWAV_RUN),
            "prototypes": CitedValue(3000, SWAV_RUN),
            "prototype_freeze": CitedValue(1.0, SWAV_RUN + ": 5,005 iterations, an epoch"),
            "epsilon": CitedValue(0.05, SWAV_RUN),
            "sinkhorn_iterations": CitedValue(3, SWAV_RUN),
            "hidden": CitedValue("2048", "SwAV, code default"),
            "local_crops": CitedValue(6, SWAV_RUN),
            "local_size": CitedValue(0.429, SWAV_RUN + ": 96 of 224"),
            "local_scale": CitedValue(0.14, SWAV_RUN),
            "local_weight": CitedValue(0.857, "SwAV, arXiv 2006.09882: a mean over the other global and 6 local crops"),
            "optimizer": CitedValue("lars", SWAV_RUN),
            "base_lr": CitedValue(0.6, SWAV_RUN + ": 0.6 at batch 256, falling to 0.0006"),
            "weight_decay": CitedValue(1e-6, SWAV_RUN),
            "schedule": CitedValue("cosine", SWAV_RUN),
            "warmup": CitedValue(0.0, SWAV_RUN + ": none"),
        },
    ),
    "msf": PublishedRecipe(
        "mean shift to the nearest neighbours, no negatives (MSF); published for ResNet-50",
        "msf",
        {
            "augmentation": CitedValue("moco-v2", "MSF, code: as MoCo v2's"),
            "weak_targets": CitedValue(True, MSF_COMMAND + ": --weak_strong"),
            "neighbours": CitedValue(10, MSF_COMMAND),
            "hidden": CitedValue("2x", "MSF, code: twice the features"),
            "key_momentum": CitedValue(0.99, MSF_COMMAND),
            "optimizer": CitedValue("sgd", MSF_COMMAND),
            "base_lr": CitedValue(0.05, MSF_COMMAND + ": 0.05 at batch 256"),
            "schedule": CitedValue("cosine", MSF_COMMAND),
            "warmup": CitedValue(0.0, MSF_COMMAND + ": none"),
        },
    ),
    "isd": PublishedRecipe(
        "CompRess's similarities from a momentum encoder instead of a teacher (ISD); published for ResNet-18",
        "isd",
        {
            "augmentation": CitedValue("moco-v2", "ISD, code: as MoCo v2's"),
            "temperature": CitedValue(0.02, ISD_COMMAND),
            "weak_targets": CitedValue(False, "ISD, code: both views alike"),
            "hidden": CitedValue("1x", "ISD, code: as wide as the features"),
            "optimizer": CitedValue("sgd", ISD_COMMAND),
            "base_lr": CitedValue(0.01, ISD_COMMAND + ": 0.01 at batch 256"),
            "schedule": CitedValue("step", ISD_COMMAND),
            "milestones": CitedValue((0.7, 0.9), ISD_COMMAND + ": epochs 140 and 180 of 200"),
            "step_factor": CitedValue(0.2, "ISD, code default"),
            "warmup": CitedValue(0.0, ISD_COMMAND + ": none"),
        },
    ),
    **DISTILL_RECIPES,
}


def recipes_for(command: TrainCommand) -> dict[str, PublishedRecipe]:
    """The recipes of a command."""
    return {name: published for name, published in RECIPES.items() if published.method in methods(command)}


def recipe_named(name: str, command: TrainCommand) -> PublishedRecipe:
    """The recipe of that name for a command; raises `UsageError` with the nearest names."""
    known = recipes_for(command)
    if name not in known:
        raise unknown_name_error(f"{command} recipe", name, known, "`lwcl list recipes` shows them all.")
    return known[name]
