"""How to optimise: `Recipe`, and `RECIPES`, the published recipes with the source of each number.

Sources: "ssl-small" is arXiv 2107.14762 and its code, "light-moco" is arXiv 2212.07158 and its code, "MoCo v2" is arXiv
2003.04297. light-moco's code does not contain its final ImageNet recipe; what is reconstructed from its flags and run
names says so.
"""

from lwcl.config.citation import Cited, Published
from lwcl.config.distill_recipes import TEACHING
from lwcl.methods.method import Verb, methods
from lwcl.settings import Settings, setting, unknown


class Recipe(Settings):
    """The optimisation of a run."""

    epochs: int | None = setting(
        None, "passes over the images [settled from their number]", at_least=1, group="Optimisation"
    )
    batch_size: int | None = setting(
        None, "images a step, over all processes [settled from their number]", at_least=2, group="Optimisation"
    )
    accumulate: int = setting(
        1, "parts of a batch that are computed one after another to save memory", at_least=1, group="Optimisation"
    )
    optimizer: str = setting(
        "sgd", "sgd, adamw or lars (of timm)", choices=("sgd", "adamw", "lars"), group="Optimisation"
    )
    lr: float | None = setting(None, "learning rate [base-lr scaled by the batch]", above=0, group="Optimisation")
    base_lr: float = setting(0.03, "learning rate for a batch of 256", above=0, group="Optimisation")
    momentum: float = setting(0.9, "momentum of the optimiser", at_least=0, below=1, group="Optimisation")
    weight_decay: float | None = setting(
        None, "weight decay of all parameters [settled from the number of images]", at_least=0, group="Optimisation"
    )
    schedule: str = setting(
        "cosine", "cosine, constant or step", choices=("cosine", "constant", "step"), group="Optimisation"
    )
    milestones: tuple[float, ...] = setting(
        (0.6, 0.8), "share of the epochs after which schedule step lowers the rate", group="Optimisation"
    )
    step_factor: float = setting(
        0.1, "what schedule step multiplies the rate with", above=0, at_most=1, group="Optimisation"
    )
    warmup: float | None = setting(
        None, "epochs of linear warm-up [settled from the epochs]", at_least=0, group="Optimisation"
    )
    per_epoch: bool = setting(
        False, "change the learning rate at epoch starts only, as the published code does", group="Optimisation"
    )


#: With fewer images than this a run has too few steps for SGD as published for ImageNet.
FEW_IMAGES = 200_000
MEASURED = "lwcl, docs/results.md: with few steps SGD and a head without batch norm stay on InfoNCE's plateau"

#: What every recipe that has a teacher changes for fewer than `FEW_IMAGES` images.
FEW_TAUGHT: dict[str, Cited] = {
    "optimizer": Cited("adamw", MEASURED),
    "base_lr": Cited(1e-3, MEASURED),
    "weight_decay": Cited(
        0.05, "AdamW's customary value (MoCo v3, arXiv 2104.02057: 0.1; DeiT, arXiv 2012.12877: 0.05)"
    ),
    "zero_residuals": Cited(True, "lwcl, docs/results.md; light-moco's ResNets start so too (zero_init_residual)"),
}

#: What the recipes of each command change for so few images; a flag or a file wins over it.
FEW: dict[Verb, dict[str, Cited]] = {
    "pretrain": {
        **FEW_TAUGHT,
        "head_norm": Cited(True, MEASURED + "; MoCo v3 (arXiv 2104.02057) has it too"),
        "smoothing_warmup": Cited(3.0, "light-moco, code: its warm-up of 3 epochs delays smoothing too"),
    },
    "distill": FEW_TAUGHT,
    "compress": FEW_TAUGHT,
}

#: What every recipe changes on an embedded set.
DEMONSTRATION: dict[str, Cited] = {
    "symmetric": Cited(False, "lwcl, docs/results.md: half of the time of a step, and it helps in as many steps"),
    "key_momentum": Cited(0.9, "lwcl, docs/results.md: a lag of 100 of 552 steps parts queries from their keys"),
}

ARCHS = ("mobilenetv3_large_100", "mobilenetv3_small_100", "efficientnet_b0", "resnet18", "deit_tiny_patch16_224")

MOCO_V2 = "MoCo v2, main_moco.py with --mlp --aug-plus --cos --moco-t 0.2"
SSL_SMALL = "ssl-small, published command"
LIGHT = "light-moco, code default"
LIGHT_RUN = "light-moco, name of an internal run (sym, t0.1, lr 0.12, warm 3, inner 2048)"
LIGHT_GUESS = "light-moco, reconstructed: published neither in the paper's code nor its README"

RECIPES: dict[str, Published] = {
    "moco-v2": Published(
        "the baseline: MoCo v2 as published for ResNet-50, which small models learn poorly from",
        "moco",
        {
            "augmentation": Cited("moco-v2", MOCO_V2),
            "temperature": Cited(0.2, MOCO_V2),
            "hidden": Cited("1x", MOCO_V2),
            "symmetric": Cited(False, MOCO_V2),
            "optimizer": Cited("sgd", MOCO_V2),
            "base_lr": Cited(0.03, MOCO_V2 + ": 0.03 at batch 256"),
            "schedule": Cited("cosine", MOCO_V2),
            "warmup": Cited(0.0, MOCO_V2 + ": none"),
        },
    ),
    "ssl-small": Published(
        "a colder contrast, stronger colour and a wider head (ssl-small); "
        "it starts from random weights here, the paper's from a SEED student",
        "moco",
        {
            "augmentation": Cited("ssl-small", SSL_SMALL + ": cj 1, gray 0.5"),
            "temperature": Cited(0.1, SSL_SMALL),
            "hidden": Cited("2x", SSL_SMALL + ": --mlp wide"),
            "symmetric": Cited(False, SSL_SMALL),
            "optimizer": Cited("sgd", SSL_SMALL),
            "base_lr": Cited(0.03, SSL_SMALL + ": 0.06 at batch 512"),
            "schedule": Cited("cosine", SSL_SMALL + ": --cos"),
            "warmup": Cited(0.0, SSL_SMALL + ": none"),
        },
    ),
    "light": Published(
        "smoothed targets, symmetric loss, a wide head and warm-up (light-moco): the default",
        "light-moco",
        {
            "augmentation": Cited("moco-v2", LIGHT + ": --aug-plus"),
            "temperature": Cited(0.1, LIGHT_RUN),
            "hidden": Cited("2048", LIGHT_RUN),
            "symmetric": Cited(True, LIGHT_RUN),
            "smoothing": Cited(0.2, LIGHT_GUESS + "; 0.2 is quoted by a third party as the paper's"),
            "neighbours": Cited(10, LIGHT_GUESS + "; its code covers 5, 10, 20 and 30"),
            "target": Cited("top", LIGHT + ": strategy 1"),
            "optimizer": Cited("sgd", LIGHT),
            "base_lr": Cited(0.06, LIGHT_RUN + ": 0.12 at batch 512"),
            "schedule": Cited("cosine", LIGHT + ": --cos"),
        },
    ),
    **TEACHING,
}


def recipes_of(verb: Verb) -> dict[str, Published]:
    """The recipes whose method is of that verb."""
    return {name: published for name, published in RECIPES.items() if published.method in methods(verb)}


def recipe_named(name: str, verb: Verb) -> Published:
    """The published recipe of that name for a command; raises `UsageError` with the nearest names."""
    known = recipes_of(verb)
    if name not in known:
        raise unknown(f"{verb} recipe", name, known, "`lwcl list recipes` shows them all.")
    return known[name]
