"""Options of the commands that evaluate encoders: `knn`, `probe`, `diagnose-clustering`."""

from lwcl.config.knn_presets import KNN_PRESETS, describe_presets
from lwcl.config.train_options import MAX_IMAGE_SIZE, DataOptions, MachineOptions
from lwcl.settings import setting

INPUT_SIZE_HELP = "input size in pixels [the one the encoder was trained with]"
REPORT_FOLDER_HELP = "folder for report.json and report.html [the folder of the first run given, if any]"


class KnnOptions(DataOptions, MachineOptions):
    """`lwcl knn`: which encoders, on what, and how."""

    val: tuple[str, ...] = setting(
        (), "test images [the val or test folder of --data, or a held-out 20%]", group="Data", path=True
    )
    known_classes: bool = setting(
        False, "leave out test images of classes that the training images lack, which else count as wrong", group="Data"
    )
    arch: str | None = setting(None, "architecture, if the checkpoint does not state it", group="What")
    image_size: int | None = setting(None, INPUT_SIZE_HELP, at_least=16, at_most=MAX_IMAGE_SIZE, group="What")
    preset: str = setting(
        "weighted",
        "voting preset: " + describe_presets(),
        choices=tuple(KNN_PRESETS),
        group="What",
    )
    k: int | None = setting(None, "number of neighbours [the preset's]", at_least=1, group="What")
    temperature: float | None = setting(
        None, "a neighbour's vote counts exp(cosine / temperature) [the preset's]", above=0, group="What"
    )
    random_init: bool = setting(True, "evaluate an untrained encoder of each architecture too", group="What")
    seed: int = setting(
        0, "seed of the untrained encoder, the bootstrap and the held-out split", at_least=0, group="What"
    )
    batch_size: int = setting(256, "images per forward pass", at_least=1, group="Machine")
    out: str | None = setting(None, REPORT_FOLDER_HELP, group="Run", path=True)


class DiagnoseOptions(DataOptions, MachineOptions):
    """`lwcl diagnose-clustering`: which encoders, on what, and compared with what."""

    val: tuple[str, ...] = setting(
        (), "held-out images to check the clusters on [the val or test folder of --data]", group="Data", path=True
    )
    images: int = setting(5000, "maximum number of images, sampled by the seed", at_least=1, group="Data")
    views: str = setting(
        "run",
        "augmentation of the random views: run (that of the encoder's own run), static (MoCo v2's views, as "
        "ssl-small's), or a named one",
        group="Data",
    )
    arch: str | None = setting(None, "architecture, if the checkpoint does not state it", group="What")
    image_size: int | None = setting(None, INPUT_SIZE_HELP, at_least=16, at_most=MAX_IMAGE_SIZE, group="What")
    teacher: str | None = setting(None, "encoder to compare with, given as ENCODER", group="What", path=True)
    teacher_arch: str | None = setting(None, "architecture of the teacher [from its file]", group="What")
    random_init: bool = setting(True, "diagnose an untrained encoder of each architecture too", group="What")
    k: tuple[int, ...] = setting(
        (), "an additional number of clusters to try [1/3 to 16 times the number of classes]", at_least=2, group="What"
    )
    seed: int = setting(0, "seed of the views, the image sample, k-means and t-SNE", at_least=0, group="What")
    batch_size: int = setting(256, "images per forward pass", at_least=1, group="Machine")
    strict: bool = setting(False, "exit with code 3 if an encoder has collapsed or is over-clustered", group="Run")
    out: str | None = setting(None, REPORT_FOLDER_HELP, group="Run", path=True)


class ProbeOptions(DataOptions, MachineOptions):
    """`lwcl probe`: which encoders, on what, and how the classifier is trained."""

    val: tuple[str, ...] = setting(
        (), "test images [the val or test folder of --data, or a held-out 20%]", group="Data", path=True
    )
    known_classes: bool = setting(
        False, "leave out test images of classes that the training images lack, which else count as wrong", group="Data"
    )
    fractions: str = setting(
        "", "percentages of the labels to probe with too, for a curve: 1,5,10,100 [none]", group="Data"
    )
    protocol: str = setting(
        "fast",
        "how the classifier is trained",
        group="What",
    )
    arch: str | None = setting(None, "architecture, if the checkpoint does not state it", group="What")
    teacher: str | None = setting(None, "encoder to compare with, given as ENCODER", group="What", path=True)
    image_size: int | None = setting(None, INPUT_SIZE_HELP, at_least=16, at_most=MAX_IMAGE_SIZE, group="What")
    random_init: bool = setting(True, "probe an untrained encoder of each architecture too", group="What")
    seed: int = setting(0, "seed of all randomness", at_least=0, group="What")
    epochs: int | None = setting(None, "passes over the images [the protocol's]", at_least=1, group="Optimization")
    batch_size: int | None = setting(
        None, "images per step [the protocol's, smaller for few images]", at_least=2, group="Optimization"
    )
    lr: float | None = setting(
        None, "learning rate [the protocol's, scaled by the batch]", above=0, group="Optimization"
    )
    out: str | None = setting(None, REPORT_FOLDER_HELP, group="Run", path=True)
