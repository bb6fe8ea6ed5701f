"""Options of the commands that train, besides method, recipe and augmentation: data, machine, teacher, run folder."""

from typing import TYPE_CHECKING, Any

from lwcl.config.clips import ClipOptions
from lwcl.settings import AUTO, Auto, Settings, setting

if TYPE_CHECKING:
    from lwcl.methods.method import TrainCommand

DEVICES = ("auto", "cpu", "cuda", "mps")
MAX_THREADS = 1024  # OpenMP ends the process if it cannot start the number of threads it is given
MAX_IMAGE_SIZE = 16_384

#: Settings of how images are found, and of how their pixels are read.
FINDING, PIXELS = ("download", "labels", "follow_links"), ("channels", "bit_depth", "value_range", "pages", "bands")


class DataOptions(ClipOptions):
    """Where images come from."""

    data: tuple[str, ...] = setting(
        (),
        "folder, .txt or .csv list, .zip, .tar, 'shards-{000..099}.tar' (repeat the flag for several), tv/NAME:ROOT, "
        "digits or textures",
        group="Data",
        path=True,
    )
    download: bool = setting(False, "let torchvision download a tv/ data set", group="Data")
    follow_links: bool = setting(False, "follow links in image folders to outside of them", group="Data")
    labels: str = setting(
        "top",
        "level of the class folders: top, leaf, its number from the top, or none; or a table of path,label",
        group="Data",
        path=True,
    )
    channels: str = setting(
        AUTO, "channels of an image, or the numbers of the bands to take, as 4,3,2; auto: from the images", group="Data"
    )
    bit_depth: int | None = setting(
        None, "bits of a value, such as 12 in files of 16; 8 scales deeper images down [from the images]", at_least=8,
        at_most=16, group="Data",
    )  # fmt: skip
    value_range: str = setting(
        "",
        "LOW,HIGH: values that are black and white, in images of more than 8 bits [from the images]",
        group="Data",
    )
    pages: str = setting(
        "refuse",
        "files with several pages: refuse, first takes the first page, channels takes each as a channel",
        choices=("refuse", "first", "channels"),
        group="Data",
    )
    bands: str = setting(
        "",
        "files that hold a band each, as '*_B{02,03,04,08}.tif': braces list the bands, * is what names an image [a "
        "file is an image]",
        group="Data",
    )
    workers: Auto[int] = setting(
        None,
        "threads or processes that decode images [auto: one per CPU]",
        at_least=0,
        at_most=MAX_THREADS,
        group="Data",
    )

    @property
    def reading(self) -> dict[str, Any]:
        """How the images are found and read, as `open_images` takes it."""
        return {name: getattr(self, name) for name in (*FINDING, *PIXELS, "clip")}

    @property
    def pixels(self) -> dict[str, Any]:
        """How the images' pixels are read, where the user chose that."""
        return {name: getattr(self, name) for name in PIXELS if getattr(self, name) != getattr(DataOptions, name)}

    @property
    def finding(self) -> dict[str, Any]:
        """How the images are found, and read as they are."""
        return {name: getattr(self, name) for name in FINDING}


class MachineOptions(Settings):
    """What to compute on."""

    device: str = setting("auto", "auto, cpu, cuda or mps", choices=DEVICES, group="Machine")
    precision: str = setting(
        AUTO,
        "auto, fp32 or bf16 (autocast; losses stay in float32)",
        choices=(AUTO, "fp32", "bf16"),
        group="Machine",
    )
    threads: Auto[int] = setting(
        None, "CPU threads [auto: the CPUs available to this process]", at_least=1, at_most=MAX_THREADS, group="Machine"
    )


class TrainOptions(DataOptions, MachineOptions):
    """What to train, on what, from where, and where to put it."""

    arch: str = setting("mobilenetv3_large_100", "any timm model; `lwcl list archs` shows them", group="What")
    recipe: str = setting(
        AUTO,
        "named settings with their sources; auto chooses by the number of images (`lwcl list recipes`)",
        group="What",
    )
    method: str | None = setting(None, "training method [the recipe's]", group="What")
    augmentation: str | None = setting(None, "named augmentation of the views [the recipe's]", group="What")
    image_size: Auto[int] = setting(
        None, "side of a view in pixels [auto: from the images]", at_least=16, at_most=MAX_IMAGE_SIZE, group="What"
    )
    output_stride: int | None = setting(
        None, "total stride of a convolutional backbone: 8, 16 or 32 [the architecture's]", group="What"
    )
    zero_residuals: bool = setting(
        False, "zero-initialise the last batch norm of MobileNet-like residual branches, as in ResNets", group="What"
    )
    init: str | None = setting(None, "encoder whose backbone to start from [random weights]", group="What", path=True)
    init_head: bool = setting(False, "load the projection head of --init too; shapes must match", group="What")
    seed: int = setting(0, "seed of all randomness", at_least=0, group="What")
    minutes: float | None = setting(
        None,
        "train as many steps as end within so many minutes, by a trial of a few steps; a resumed run keeps them",
        above=0,
        group="Optimization",
    )
    cache: str = setting(
        AUTO,
        "where decoded images are cached: ram, disk, jpeg (as shrunk JPEGs on disk), device (memory of the GPU), off, "
        "or auto (by their size)",
        choices=(AUTO, "ram", "disk", "jpeg", "device", "off"),
        group="Data",
    )
    cache_size: str = setting(
        AUTO,
        "size of cached images: auto shrinks them to what views need, full keeps them",
        choices=(AUTO, "full"),
        group="Data",
    )
    shuffle_block: int = setting(
        0,
        "mix blocks of this many consecutive images, 64 at a time, which keeps reads close on the disk; 1: shuffle "
        "all images at once; 0: that, or blocks of 4096 above 10 million images",
        at_least=0,
        group="Data",
    )
    max_bad: float = setting(
        0.05, "stop if more than this fraction of the images is unreadable", at_least=0, at_most=1, group="Data"
    )
    out: str | None = setting(None, "run folder [runs/COMMAND-METHOD-ARCH-N]", group="Run", path=True)
    resume: str = setting(
        AUTO,
        "auto: resume an interrupted run with the same settings; must: fail if there is none; never: fail "
        "if there is one",
        choices=(AUTO, "must", "never"),
        group="Run",
    )
    requeue: bool = setting(
        False, "in a SLURM job: after its warning (sbatch --signal=USR1@120) save, and queue the job again", group="Run"
    )
    overwrite: bool = setting(False, "replace the run in the folder", group="Run")
    save_every: str = setting(
        "10m", "checkpoint interval: steps (500) or minutes (10m); also saved at epoch ends", group="Run"
    )
    log_every: int = setting(10, "write metrics.jsonl every N steps", at_least=1, group="Run")
    log: tuple[str, ...] = setting(
        (),
        "experiment tracker beside the files of the run folder (repeat the flag for several); wandb stays offline "
        "unless WANDB_MODE is set",
        choices=("tensorboard", "wandb", "mlflow"),
        group="Run",
    )
    monitor: tuple[str, ...] = setting((), "labelled images for a kNN score during training", group="Run", path=True)
    monitor_every: int = setting(1, "epochs between two kNN scores of --monitor", at_least=1, group="Run")
    html: bool = setting(False, "rewrite report.html at epoch ends and every minute, to follow the run", group="Run")
    strict: bool = setting(False, "exit with code 3 if the embedding collapses", group="Run")
    devices: Auto[int] = setting(
        None,
        "processes on this machine, one a GPU or a share of the CPUs [auto: those that torchrun or srun started, or 1]",
        at_least=1,
        at_most=MAX_THREADS,
        group="Machine",
    )
    wait_limit: float = setting(
        600.0, "seconds that processes wait for each other before the run ends", above=0, group="Machine"
    )
    compile: bool = setting(False, "torch.compile the backbone: slow start, then faster steps", group="Machine")
    view_backend: Auto[str] = setting(
        None,
        "what computes augmentations: tensor, or opencv (faster on a CPU, rounds differently) "
        "[auto: opencv on a CPU if installed]",
        choices=("tensor", "opencv"),
        group="Machine",
    )
    teacher: str | None = setting(
        None,
        "encoder to learn from: run folder, .safetensors, third-party checkpoint, timm/NAME or random/NAME",
        group="Teacher",
        path=True,
    )
    teacher_channels: str = setting(
        AUTO,
        "channels of the images that the teacher sees, as 3,2,1; auto: all, or the one repeated",
        group="Teacher",
    )
    student_data: tuple[str, ...] = setting(
        (),
        "images that the student sees in the place of --data's: another modality of the same scenes, paired by name; "
        "the flags of channels and values are of these",
        group="Teacher",
        path=True,
    )
    pairs: str | None = setting(
        None, "two columns of names, in --data and in --student-data [names equal up to the ending]", group="Teacher",
        path=True,
    )  # fmt: skip
    student_view: str = setting(
        "",
        "what the student sees of an image: gray, edges, jpeg:QUALITY, size:PIXELS, or several joined by + [all of it]",
        group="Teacher",
    )
    teacher_arch: str | None = setting(None, "architecture of the teacher [from its file]", group="Teacher")
    teacher_size: int | None = setting(
        None,
        "input size of the teacher in pixels [the one it was trained with]",
        at_least=16,
        at_most=MAX_IMAGE_SIZE,
        group="Teacher",
    )
    teacher_precision: str = setting(
        AUTO,
        "precision of the teacher and of its cached outputs: auto (bf16 unless the CPU emulates it), bf16 or fp32",
        choices=(AUTO, "bf16", "fp32"),
        group="Teacher",
    )
    teacher_cache: str = setting(
        "off",
        "off: run the teacher every step; center: cache one center-crop output per image (as CompRess); "
        "views:K: cache outputs of K fixed crops per image, and train on these",
        group="Teacher",
    )


class PretrainOptions(TrainOptions):
    """`lwcl pretrain`."""

    init_by: str | None = setting(
        None,
        "METHOD:EPOCHS of a distillation stage before this run, such as seed:2 (ssl-small's); needs --teacher [none]",
        group="Teacher",
    )


class DistillOptions(TrainOptions):
    """`lwcl distill`."""


class CompressOptions(TrainOptions):
    """`lwcl compress`: a smaller student, or one of fewer bits."""

    bits: int | None = setting(
        None,
        "bits of the weights, 1 to 8 (simulated): the student starts as its float32 twin, --init or else --teacher; "
        "--teacher self is that twin [float32]",
        at_least=1,
        at_most=8,
        group="What",
    )
    activation_bits: int = setting(8, "bits of the activations with --bits", at_least=1, at_most=8, group="What")
    bits_by: str = setting(
        "training",
        "how --bits is reached: training; or without it by ranges, or by ranges and new statistics of batch-norm, from "
        "512 images",
        choices=("training", "batch-norm", "ranges"),
        group="What",
    )


#: The options of each command that trains.
TRAIN_OPTIONS: "dict[TrainCommand, type[TrainOptions]]" = {
    "pretrain": PretrainOptions,
    "distill": DistillOptions,
    "compress": CompressOptions,
}

#: Automatic settings that depend on the machine: a resumed run keeps those it started with.
MACHINE_SETTINGS = ("threads", "precision", "view_backend", "teacher_precision")

#: Settings that change where or how fast a run computes, but not what: a resumed run may change them.
CHANGEABLE_ON_RESUME = frozenset(
    {"out", "resume", "overwrite", "requeue", "workers", "save_every"}
    | {"download", "max_bad", "strict", "html", "wait_limit", "log"}
)
#: Settings that a resumed run may also change, with a warning: they affect logging, or floating-point rounding. The
#: images are compared by names and sizes, however `data` spells them.
CHANGEABLE_WITH_WARNING = frozenset(
    {"data", "labels", "follow_links", "log_every", "cache", "threads", "devices", "monitor", "monitor_every"}
)
