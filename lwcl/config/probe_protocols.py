"""Protocols of `lwcl probe`: how a linear classifier is trained on features, with the source of each number.

The papers train on augmented images; `fast` and `logistic` are ours and train on features computed once. Learning rates
are for a batch of 256, as in the papers.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from lwcl.config.citation import CitedValue
from lwcl.settings import unknown_name_error


@dataclass(frozen=True)
class Protocol:
    """A protocol, published or our own: settings, with their sources, of optimization, probe and augmentation."""

    about: str
    settings: dict[str, CitedValue] = field(default_factory=dict)
    way: Literal["images", "fast", "logistic"] = "images"
    share: float = 1.0  # of the labels


def cited_settings(source: str, **values: Any) -> dict[str, CitedValue]:
    """Settings that have the same source."""
    return {name: CitedValue(value, source) for name, value in values.items()}


PER_EPOCH_SCHEDULE = {"momentum": 0.9, "warmup": 0.0, "per_epoch": True, "augmentation": "crop-flip"}
MOCO = "MoCo (arXiv 1911.05722), main_lincls.py; also ssl-small's (2107.14762) and SEED's (2101.04731)"
DISCO = "DisCo (arXiv 2104.09124), Reproduction.md"
SIMSIAM = "SimSiam (arXiv 2011.10566), main_lincls.py; light-moco (2212.07158), main_lincls_lars.py"
COMPRESS = "CompRess (arXiv 2010.14713), eval_linear.py"
SWAV = "SwAV (arXiv 2006.09882), eval_linear.py, 32 images on each of 8 devices; DisCo's tests of SwAV"
TRANSFER = "ssl-small (arXiv 2107.14762), commands of its CIFAR runs; 2 instead of 1.5 on Caltech-101"
FINETUNE = "ssl-small (arXiv 2107.14762), commands of its finetuning runs"
SEMI = "DisCo (arXiv 2104.09124), script for 1% and 10% of the labels"

FINETUNING = cited_settings(
    FINETUNE,
    **PER_EPOCH_SCHEDULE | {"crop_min": 0.2, "form": "unit", "finetune": True},
    **{"base_lr": 0.01, "batch_size": 256, "epochs": 100, "weight_decay": 0.0},
    **{"schedule": "step", "milestones": (0.4, 0.7), "step_factor": 0.1},
)
SEMI_LINEAR = cited_settings(
    SEMI,
    **PER_EPOCH_SCHEDULE,
    **{"base_lr": 3.0, "batch_size": 256, "epochs": 100, "weight_decay": 0.0},
    **{"schedule": "step", "milestones": (0.6, 0.8), "step_factor": 0.5},
)

PROTOCOLS: dict[str, Protocol] = {
    "fast": Protocol(
        "a grid of learning rates, weight decays and feature normalisations, trained together on features computed "
        "once; selected on 20% of the training images: the default",
        way="fast",
    ),
    "logistic": Protocol(
        "logistic regression on standardised features (scikit-learn), its penalty selected on 20% of the training "
        "images",
        way="logistic",
    ),
    "moco": Protocol(
        "MoCo: raw features, learning rate 30",
        cited_settings(
            MOCO,
            **PER_EPOCH_SCHEDULE,
            **{"base_lr": 30.0, "batch_size": 256, "epochs": 100, "weight_decay": 0.0},
            **{"schedule": "step", "milestones": (0.6, 0.8), "step_factor": 0.1},
        ),
    ),
    "disco": Protocol(
        "DisCo: raw features, learning rate 3, halved 11 times",
        cited_settings(
            DISCO,
            **PER_EPOCH_SCHEDULE,
            **{"base_lr": 3.0, "batch_size": 256, "epochs": 100, "weight_decay": 0.0, "schedule": "step"},
            **{"milestones": (*(n / 100 for n in range(5, 50, 5)), 0.6, 0.8), "step_factor": 0.5},
        ),
    ),
    "simsiam": Protocol(
        "SimSiam and light-moco: raw features, LARS, batch 4,096",
        cited_settings(
            SIMSIAM,
            **PER_EPOCH_SCHEDULE | {"optimizer": "lars", "schedule": "cosine"},
            **{"base_lr": 0.1, "batch_size": 4096, "epochs": 90, "weight_decay": 0.0},
        ),
    ),
    "compress": Protocol(
        "CompRess: L2-normalised features, standardised by the training images",
        cited_settings(
            COMPRESS,
            **PER_EPOCH_SCHEDULE | {"form": "standard"},
            **{"base_lr": 0.01, "batch_size": 256, "epochs": 40, "weight_decay": 1e-4},
            **{"schedule": "step", "milestones": (15 / 40, 30 / 40), "step_factor": 0.1},
        ),
    ),
    "swav": Protocol(
        "SwAV: raw features, learning rate 0.3, cosine schedule",
        cited_settings(
            SWAV,
            **PER_EPOCH_SCHEDULE | {"schedule": "cosine"},
            **{"base_lr": 0.3, "batch_size": 256, "epochs": 100, "weight_decay": 1e-6},
        ),
    ),
    "transfer": Protocol(
        "ssl-small for small data sets: L2-normalised features, crops of 60% to 100% of an image",
        cited_settings(
            TRANSFER,
            **PER_EPOCH_SCHEDULE | {"crop_min": 0.6, "form": "unit"},
            **{"base_lr": 1.5, "batch_size": 256, "epochs": 60, "weight_decay": 0.0},
            **{"schedule": "step", "milestones": (40 / 60,), "step_factor": 0.1},
        ),
    ),
    "finetune": Protocol("ssl-small finetuning: trains all weights, batch norm in train mode", FINETUNING),
    **{
        f"semi:{percent}%{kind}": Protocol(f"{percent}% of the labels: {about}", settings, share=percent / 100)
        for percent in (1, 10)
        for kind, about, settings in (
            ("", "DisCo, classifier only", SEMI_LINEAR),
            ("-finetune", "all weights, as ssl-small finetuning", FINETUNING),
        )
    },
}


def protocol_named(name: str) -> Protocol:
    """The protocol of that name; raises `UsageError` with the nearest names."""
    if name not in PROTOCOLS:
        raise unknown_name_error("protocol", name, PROTOCOLS, "`lwcl list protocols` shows them all.")
    return PROTOCOLS[name]
