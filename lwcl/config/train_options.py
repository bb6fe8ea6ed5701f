"""What each command that trains can be told, besides method, recipe and views: data, machine, teacher, run folder."""

from typing import TYPE_CHECKING

from lwcl.settings import Settings, setting

if TYPE_CHECKING:
    from lwcl.methods.method import Verb

DEVICES = ("auto", "cpu", "cuda", "mps")


class DataOptions(Settings):
    """Where images come from and how they are kept."""

    data: tuple[str, ...] = setting(
        (), "folder, .txt list, .zip, .tar (several may be given), tv/NAME:ROOT, digits or textures", group="Data"
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


class TrainOptions(DataOptions, MachineOptions):
    """What to train, on what, from where, and where to put it."""

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
    init: str | None = setting(None, "encoder whose backbone to start from [random weights]", group="What")
    init_head: bool = setting(False, "take its head over too, where the shapes are equal", group="What")
    seed: int = setting(0, "all randomness follows from it", at_least=0, group="What")
    cache: str = setting(
        "auto",
        "where decoded images are kept: ram, disk, on disk as jpeg (shrunk, decoded each time), or off (nowhere)",
        choices=("auto", "ram", "disk", "jpeg", "off"),
        group="Data",
    )
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
    compile: bool = setting(False, "torch.compile the backbone: a slow start, then faster steps", group="Machine")
    views_by: str | None = setting(
        None,
        "what makes views: tensor, or opencv (faster on a CPU, rounds otherwise) [opencv if installed, on a CPU]",
        choices=("tensor", "opencv"),
        group="Machine",
    )
    teacher: str | None = setting(
        None,
        "encoder to learn from: run folder, .safetensors, foreign checkpoint, timm/NAME or random/NAME",
        group="Teacher",
    )
    teacher_arch: str | None = setting(None, "its architecture [what its file says]", group="Teacher")
    teacher_size: int | None = setting(
        None, "pixels of the views that it sees [those it was trained on]", at_least=16, group="Teacher"
    )
    teacher_precision: str | None = setting(
        None,
        "what it computes and answers in, and what is stored of it: bf16, or fp32 [bf16 where it is fast]",
        choices=("bf16", "fp32"),
        group="Teacher",
    )
    teacher_cache: str = setting(
        "off",
        "off: ask it in every step; center: ask once, for the central square of each image (CompRess's way); views:K: "
        "ask once, for K crops of each image, which then are all the crops there are",
        group="Teacher",
    )


class PretrainOptions(TrainOptions):
    """`lwcl pretrain`."""

    init_by: str | None = setting(
        None,
        "METHOD:EPOCHS of a first stage that learns from --teacher, as seed:2 (ssl-small's start) [none]",
        group="Teacher",
    )


class DistillOptions(TrainOptions):
    """`lwcl distill`."""

    recipe: str = setting("disco", "disco or seed: settings with their sources", group="What")


class CompressOptions(TrainOptions):
    """`lwcl compress`."""

    recipe: str = setting(
        "compress-2q",
        "compress-2q, compress-1q, regression or cluster-classify: settings with their sources",
        group="What",
    )


#: The options of each command that trains.
TRAIN_OPTIONS: "dict[Verb, type[TrainOptions]]" = {
    "pretrain": PretrainOptions,
    "distill": DistillOptions,
    "compress": CompressOptions,
}

#: Settings that rules settle by the machine: an interrupted run goes on with those it began with.
MACHINE_SETTINGS = ("threads", "precision", "views_by", "teacher_precision")

#: Settings that change where or how fast a run computes, but not what: a resumed run may differ in them.
CHANGEABLE_ON_RESUME = frozenset(
    {"out", "resume", "overwrite", "workers", "save_every", "download", "max_bad", "strict"}
)
