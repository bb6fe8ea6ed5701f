"""The published recipes of methods that learn from a teacher, with the source of each number.

Sources: "SEED" is arXiv 2101.04731 and its code, "DisCo" is arXiv 2104.09124 and its code, "CompRess" is arXiv
2010.14713 and its code. Queue, anchors, clusters, key momentum, epochs and weight decay are automatic: at ImageNet's
size the rules give the published values, except for the epochs: SEED and DisCo used the rules' 200, CompRess 130, and
100 for its clusters.
"""

from lwcl.config.citation import CitedValue, PublishedRecipe

SEED_CODE = "SEED, code default"
SEED_RAMP = "SEED, code: 5 epochs from 0.03 to 0.03 x batch / 256: constant at batch 256, left out at others"
DISCO_COMMAND = "DisCo, published command"
COMPRESS_CODE = "CompRess, code default"
BASELINE_CODE = "CompRess, code default of 2q and 1q; those of its regression are not published"
S2_BNN = "S2-BNN (arXiv 2102.08946)"
CLUSTERS_CODE = "CompRess, train_kmeans.py and run_cc.sh, deleted later"

#: How CompRess optimises: 130 epochs, x 0.2 after 90 and after 120.
COMPRESS_OPTIMISATION: dict[str, float | str | tuple[float, ...]] = {
    "augmentation": "crop-flip",
    "optimizer": "sgd",
    "base_lr": 0.01,
    "schedule": "step",
    "milestones": (90 / 130, 120 / 130),
    "step_factor": 0.2,
    "warmup": 0.0,
}


def compress_settings(source: str, **own: CitedValue) -> dict[str, CitedValue]:
    """CompRess's optimization under this source, and a method's own settings."""
    return {name: CitedValue(value, source) for name, value in COMPRESS_OPTIMISATION.items()} | own


DISTILL_RECIPES: dict[str, PublishedRecipe] = {
    "seed": PublishedRecipe(
        "the teacher's embeddings as queue and target (SEED); --hidden 2048 gained 2.3 points in an independent "
        "re-implementation with a ResNet-18",
        "seed",
        {
            "augmentation": CitedValue("moco-v2", "SEED, code: for teachers trained by MoCo v2"),
            "temperature": CitedValue(0.2, SEED_CODE),
            "teacher_temperature": CitedValue(
                0.01, "lwcl: the code's 1e-4 gives a one-hot target: InfoNCE with the teacher's keys"
            ),
            "hidden": CitedValue("1x", SEED_CODE + ": --student_mlp"),
            "optimizer": CitedValue("sgd", SEED_CODE),
            "base_lr": CitedValue(0.03, SEED_CODE + ": 0.03 at batch 256"),
            "schedule": CitedValue("cosine", SEED_CODE),
            "warmup": CitedValue(0.0, SEED_RAMP),
        },
    ),
    "disco": PublishedRecipe(
        "MoCo v2 and the squared distance to the teacher's embeddings of both views, wide head (DisCo); "
        "--teacher-bn train is the published code's behaviour, not stated in the paper",
        "disco",
        {
            "augmentation": CitedValue("moco-v2", DISCO_COMMAND + ": --aug-plus"),
            "temperature": CitedValue(0.2, DISCO_COMMAND + ": --moco-t 0.2"),
            "hidden": CitedValue("2048", "DisCo, code: the student's head"),
            "symmetric": CitedValue(False, "DisCo, code: keys of view 2 only"),
            "distance_weight": CitedValue(32.0, "DisCo, code: a sum over the 32 images of each of 8 devices"),
            "contrast_weight": CitedValue(1.0, "DisCo, code: both terms weigh 1"),
            "optimizer": CitedValue("sgd", DISCO_COMMAND),
            "base_lr": CitedValue(0.03, DISCO_COMMAND + ": 0.03 at batch 256"),
            "schedule": CitedValue("cosine", DISCO_COMMAND + ": --cos"),
            "warmup": CitedValue(0.0, DISCO_COMMAND + ": none"),
        },
    ),
    "compress-2q": PublishedRecipe(
        "teacher and student each with their own anchors, no head (CompRess, Ours-2q); published with --epochs 130",
        "2q",
        compress_settings(COMPRESS_CODE, temperature=CitedValue(0.04, COMPRESS_CODE)),
    ),
    "compress-1q": PublishedRecipe(
        "teacher and student with the teacher's anchors, a linear head (CompRess, Ours-1q): "
        "better than 2q in linear evaluation; published with --epochs 130",
        "1q",
        compress_settings(COMPRESS_CODE, temperature=CitedValue(0.04, COMPRESS_CODE)),
    ),
    "regression": PublishedRecipe(
        "the teacher's features through a linear head (Reg-BN, a baseline of CompRess)",
        "regression",
        compress_settings(
            BASELINE_CODE,
            batch_norm=CitedValue(
                True, "CompRess, results: Reg-BN is above Reg for three students on all three measures"
            ),
        ),
    ),
    "cluster-classify": PublishedRecipe(
        "classification of k-means clusters of the teacher's features (CC, a baseline of CompRess); "
        "published with --epochs 100",
        "cluster-classify",
        {
            "augmentation": CitedValue("crop-flip", CLUSTERS_CODE),
            "optimizer": CitedValue("sgd", CLUSTERS_CODE + "; it has Nesterov's momentum and no decay of batch norm"),
            "base_lr": CitedValue(0.1, CLUSTERS_CODE + ": 0.1 at batch 256"),
            "schedule": CitedValue("cosine", CLUSTERS_CODE + ": --cos"),
            "warmup": CitedValue(0.0, CLUSTERS_CODE + ": none"),
        },
    ),
    "s2-bnn": PublishedRecipe(
        "a softmax over the dimensions of the teacher's embedding (S2-BNN), made for students of few bits: --bits 1",
        "s2-bnn",
        {
            "augmentation": CitedValue("moco-v2", S2_BNN + ": its baseline is MoCo v2"),
            "temperature": CitedValue(0.2, S2_BNN),
            "optimizer": CitedValue("adamw", S2_BNN + ": Adam, which is AdamW without weight decay"),
            "base_lr": CitedValue(0.0003, S2_BNN + ": 3e-4 at batch 256"),
            "weight_decay": CitedValue(0.0, S2_BNN + ": none"),
        },
    ),
}
