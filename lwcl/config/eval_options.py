"""What each command that judges encoders can be told: `knn`, `probe`, `diagnose-clustering`."""

from lwcl.config.knn_presets import KNN_PRESETS, describe_presets
from lwcl.config.train_options import DataOptions, MachineOptions
from lwcl.settings import setting


class KnnOptions(DataOptions, MachineOptions):
    """`lwcl knn`: which encoders to judge, on what, and how."""

    val: tuple[str, ...] = setting(
        (), "images to classify [the val or test folder of --data, or a held-out fifth]", group="Data"
    )
    arch: str | None = setting(None, "architecture of a checkpoint that does not say", group="What")
    image_size: int | None = setting(
        None, "pixels of an image [what the encoder was trained on]", at_least=16, group="What"
    )
    preset: str = setting(
        "weighted",
        describe_presets(),
        choices=tuple(KNN_PRESETS),
        group="What",
    )
    k: int | None = setting(None, "neighbours that vote [the preset's]", at_least=1, group="What")
    temperature: float | None = setting(
        None, "a neighbour's weight is exp(cosine / temperature) [the preset's]", above=0, group="What"
    )
    random_init: bool = setting(True, "judge an untrained encoder of each architecture beside", group="What")
    seed: int = setting(
        0, "seed of the untrained encoder, the bootstrap and a held-out split", at_least=0, group="What"
    )
    batch_size: int = setting(256, "images in one forward pass", at_least=1, group="Machine")
    out: str | None = setting(
        None, "folder for report.json and report.html [the first run's folder, if it is one]", group="Run"
    )


class DiagnoseOptions(DataOptions, MachineOptions):
    """`lwcl diagnose-clustering`: which encoders to examine, on what, and beside what."""

    val: tuple[str, ...] = setting(
        (), "images that were held out, to check clusters on [the val or test folder of --data]", group="Data"
    )
    images: int = setting(5000, "images to examine at most, chosen by the seed", at_least=1, group="Data")
    views: str = setting(
        "run",
        "random views: those of the run that made the encoder (run), ssl-small's static set (ssl-small, which are MoCo "
        "v2's views), or a named augmentation",
        group="Data",
    )
    arch: str | None = setting(None, "architecture of a checkpoint that does not say", group="What")
    image_size: int | None = setting(
        None, "pixels of an image [what the encoder was trained on]", at_least=16, group="What"
    )
    teacher: str | None = setting(None, "encoder to compare with: as ENCODER", group="What")
    teacher_arch: str | None = setting(None, "its architecture [what its file says]", group="What")
    random_init: bool = setting(True, "examine an untrained encoder of each architecture beside", group="What")
    k: tuple[int, ...] = setting(
        (), "a number of clusters to try too [a third of the classes to 16 times as many]", at_least=2, group="What"
    )
    seed: int = setting(0, "seed of the views, the choice of images, k-means and t-SNE", at_least=0, group="What")
    batch_size: int = setting(256, "images in one forward pass", at_least=1, group="Machine")
    strict: bool = setting(False, "end with exit code 3 if an encoder collapsed or is over-clustered", group="Run")
    out: str | None = setting(
        None, "folder for report.json and report.html [the first run's folder, if it is one]", group="Run"
    )


class ProbeOptions(DataOptions, MachineOptions):
    """`lwcl probe`: which encoders to judge by a linear classifier of their features, on what, and how."""

    val: tuple[str, ...] = setting(
        (), "images to judge by [the val or test folder of --data, or a held-out fifth]", group="Data"
    )
    fractions: str = setting(
        "", "shares of the labels in percent to probe with too, for a curve, as 1,5,10,100 [none]", group="Data"
    )
    protocol: str = setting(
        "fast",
        "fast, logistic, moco, disco, simsiam, compress, swav, transfer, finetune, semi:1% or semi:10% (and "
        "semi:1%-finetune, semi:10%-finetune): how the classifier is trained",
        group="What",
    )
    arch: str | None = setting(None, "architecture of a checkpoint that does not say", group="What")
    teacher: str | None = setting(None, "encoder to compare with: as ENCODER", group="What")
    image_size: int | None = setting(
        None, "pixels of an image [what the encoder was trained on]", at_least=16, group="What"
    )
    random_init: bool = setting(True, "probe an untrained encoder of each architecture beside", group="What")
    seed: int = setting(0, "all randomness follows from it", at_least=0, group="What")
    epochs: int | None = setting(None, "passes over the images [the protocol's]", at_least=1, group="Optimisation")
    batch_size: int | None = setting(
        None, "images a step [the protocol's, less for few images]", at_least=2, group="Optimisation"
    )
    lr: float | None = setting(
        None, "learning rate [the protocol's, scaled by the batch]", above=0, group="Optimisation"
    )
    out: str | None = setting(
        None, "folder for report.json and report.html [the first run's folder, if it is one]", group="Run"
    )
