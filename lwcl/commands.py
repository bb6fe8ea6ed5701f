"""What each command can be told, besides its method, recipe and augmentation: the data, the machine, the run folder."""

from lwcl.settings import Settings, setting

DEVICES = ("auto", "cpu", "cuda", "mps")


class DataOptions(Settings):
    """Where images come from and how they are kept."""

    data: tuple[str, ...] = setting(
        (), "folder, .txt list, .zip, .tar (several may be given), tv/NAME:ROOT, digits or shapes", group="Data"
    )
    download: bool = setting(False, "let torchvision download a tv/ data set", group="Data")
    workers: int | None = setting(
        None, "threads or processes that decode images [settled from the CPUs]", at_least=0, group="Data"
    )


class MachineOptions(Settings):
    """What to compute on."""

    device: str = setting("auto", "auto, cpu, cuda or mps", choices=DEVICES, group="Machine")
    precision: str = setting(
        "auto",
        "auto, fp32 or bf16 (autocast; losses stay in float32)",
        choices=("auto", "fp32", "bf16"),
        group="Machine",
    )
    threads: int | None = setting(
        None, "CPU threads [settled: the CPUs this process may use]", at_least=1, group="Machine"
    )


class PretrainOptions(DataOptions, MachineOptions):
    """`lwcl pretrain`: what to train, on what, and where to put it."""

    arch: str = setting("mobilenetv3_large_100", "any timm model; `lwcl list archs` shows them", group="What")
    recipe: str = setting("light", "light, ssl-small or moco-v2: settings with their sources", group="What")
    method: str | None = setting(None, "training method [the recipe's]", group="What")
    augmentation: str | None = setting(None, "named augmentation of the views [the recipe's]", group="What")
    image_size: int | None = setting(None, "pixels of a view [settled from the images]", at_least=16, group="What")
    output_stride: int | None = setting(
        None, "total stride of a convolutional backbone: 8, 16 or 32 [the architecture's]", group="What"
    )
    zero_residuals: bool = setting(
        False, "start the residual branches of MobileNet-like blocks at zero, as ResNets do", group="What"
    )
    seed: int = setting(0, "all randomness follows from it", at_least=0, group="What")
    cache: str = setting("auto", "where decoded images are kept", choices=("auto", "ram", "disk", "off"), group="Data")
    cache_size: str = setting(
        "auto", "auto shrinks stored images to what views need; full keeps them", choices=("auto", "full"), group="Data"
    )
    max_bad: float = setting(0.05, "share of broken images that ends the run", at_least=0, at_most=1, group="Data")
    out: str | None = setting(None, "run folder [runs/pretrain-METHOD-ARCH-N]", group="Run")
    resume: str = setting(
        "auto",
        "auto goes on with an interrupted run of the same settings",
        choices=("auto", "must", "never"),
        group="Run",
    )
    overwrite: bool = setting(False, "replace the run that is in the folder", group="Run")
    save_every: str = setting("10m", "checkpoint every N steps, or minutes as 10m; also at epoch ends", group="Run")
    log_every: int = setting(10, "steps between two lines of metrics.jsonl", at_least=1, group="Run")
    monitor: tuple[str, ...] = setting((), "labelled images for a kNN score during training", group="Run")
    monitor_every: int = setting(1, "epochs between two monitor scores", at_least=1, group="Run")
    strict: bool = setting(False, "end with exit code 3 if the embedding collapses", group="Run")


#: Settings that change where or how fast a run computes, but not what: a resumed run may differ in them.
FREE = frozenset({"out", "resume", "overwrite", "workers", "save_every", "download", "max_bad", "strict"})


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
        "weighted (k=20, T=0.07), 1nn, monitor (k=200, T=0.1) or best",
        choices=("weighted", "1nn", "monitor", "best"),
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
