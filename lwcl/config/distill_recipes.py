"""The published recipes of methods that learn from a teacher, with the source of each number.

Sources: "SEED" is arXiv 2101.04731 and its code, "DisCo" is arXiv 2104.09124 and its code, "CompRess" is arXiv
2010.14713 and its code. Queue, anchors, clusters, key momentum, epochs and weight decay are left to the rules, which
give the published values at ImageNet's size but for the epochs: SEED and DisCo took the rules' 200, CompRess 130, and
100 for its clusters.
"""

from lwcl.config.citation import Cited, Published

SEED = "SEED, code default"
SEED_RAMP = "SEED, code: 5 epochs from 0.03 to 0.03 x batch / 256: flat at batch 256, and left out at others"
DISCO = "DisCo, published command"
COMPRESS = "CompRess, code default"
BASELINE = "CompRess, code default of 2q and 1q; those of its regression are not published"
CLUSTERS = "CompRess, train_kmeans.py and run_cc.sh, deleted later"

#: How CompRess optimises: 130 epochs, x 0.2 after 90 and after 120.
STEPS: dict[str, float | str | tuple[float, ...]] = {
    "augmentation": "crop-flip",
    "optimizer": "sgd",
    "base_lr": 0.01,
    "schedule": "step",
    "milestones": (90 / 130, 120 / 130),
    "step_factor": 0.2,
    "warmup": 0.0,
}


def compress(source: str, **own: Cited) -> dict[str, Cited]:
    """CompRess's optimisation under this source, and a method's own settings."""
    return {name: Cited(value, source) for name, value in STEPS.items()} | own


TEACHING: dict[str, Published] = {
    "seed": Published(
        "the teacher's embeddings as queue and target (SEED); --hidden 2048 was worth 2.3 points in an independent "
        "re-implementation on a ResNet-18",
        "seed",
        {
            "augmentation": Cited("moco-v2", "SEED, code: for teachers trained by MoCo v2"),
            "temperature": Cited(0.2, SEED),
            "teacher_temperature": Cited(
                0.01, "lwcl: the code's 1e-4 makes a one-hot target, so SEED would be InfoNCE with the teacher's keys"
            ),
            "hidden": Cited("1x", SEED + ": --student_mlp"),
            "optimizer": Cited("sgd", SEED),
            "base_lr": Cited(0.03, SEED + ": 0.03 at batch 256"),
            "schedule": Cited("cosine", SEED),
            "warmup": Cited(0.0, SEED_RAMP),
        },
    ),
    "disco": Published(
        "MoCo v2 whose student embeds both views where the teacher does, with a wide head (DisCo); "
        "--teacher-bn train is the published code's, not a choice of its paper",
        "disco",
        {
            "augmentation": Cited("moco-v2", DISCO + ": --aug-plus"),
            "temperature": Cited(0.2, DISCO + ": --moco-t 0.2"),
            "hidden": Cited("2048", "DisCo, code: the student's head"),
            "symmetric": Cited(False, "DisCo, code: keys of view 2 only"),
            "agreement": Cited(32.0, "DisCo, code: a sum over the 32 images of each of 8 devices"),
            "contrast_weight": Cited(1.0, "DisCo, code: both terms weigh 1"),
            "optimizer": Cited("sgd", DISCO),
            "base_lr": Cited(0.03, DISCO + ": 0.03 at batch 256"),
            "schedule": Cited("cosine", DISCO + ": --cos"),
            "warmup": Cited(0.0, DISCO + ": none"),
        },
    ),
    "compress-2q": Published(
        "teacher and student each against their own anchors, no head (CompRess, Ours-2q); published with --epochs 130",
        "2q",
        compress(COMPRESS, temperature=Cited(0.04, COMPRESS)),
    ),
    "compress-1q": Published(
        "teacher and student against the teacher's anchors, a linear head (CompRess, Ours-1q): "
        "better than 2q in linear evaluation; published with --epochs 130",
        "1q",
        compress(COMPRESS, temperature=Cited(0.04, COMPRESS)),
    ),
    "regression": Published(
        "the teacher's features through a linear head (Reg-BN, a baseline of CompRess)",
        "regression",
        compress(
            BASELINE,
            batch_norm=Cited(True, "CompRess, results: Reg-BN is above Reg for three students on all three measures"),
        ),
    ),
    "cluster-classify": Published(
        "k-means of the teacher's features, then their classification (CC, a baseline of CompRess); "
        "published with --epochs 100",
        "cluster-classify",
        {
            "augmentation": Cited("crop-flip", CLUSTERS),
            "optimizer": Cited("sgd", CLUSTERS + "; it has Nesterov's momentum and no decay of batch norm"),
            "base_lr": Cited(0.1, CLUSTERS + ": 0.1 at batch 256"),
            "schedule": Cited("cosine", CLUSTERS + ": --cos"),
            "warmup": Cited(0.0, CLUSTERS + ": none"),
        },
    ),
}
