"""Options of the commands that take an encoder to a device: `export`, `embed`, `search`, `bench`."""

from lwcl.config.train_options import DataOptions, MachineOptions
from lwcl.settings import Settings, setting


class ExportOptions(Settings):
    """`lwcl export`: which files to write, and how."""

    format: str = setting(
        "timm",
        "timm; onnx: model.onnx beside the timm folder; openvino: model.xml too; litert: model.tflite too",
        choices=("timm", "onnx", "openvino", "litert"),
        group="What",
    )
    arch: str | None = setting(None, "architecture of a checkpoint that does not say", group="What")
    image_size: int | None = setting(
        None, "pixels of an image; a constant of an ONNX file [what the encoder was trained on]", at_least=16,
        group="What",
    )  # fmt: skip
    opset: int = setting(18, "ONNX opset to write", at_least=1, group="What")
    with_preprocess: bool = setting(
        False, "put the normalisation into the ONNX file, which then takes raw pixels (B, H, W, C)", group="What"
    )
    int8: bool = setting(False, "write model-int8.onnx too (implies --format onnx)", group="What")
    int8_target: str = setting(
        "portable",
        "portable: first convolution in float32 and 7-bit weights, for any processor; vnni: 8 bits throughout, for "
        "processors with VNNI or Arm's dot products",
        choices=("portable", "vnni"),
        group="What",
    )
    calibrate: tuple[str, ...] = setting(
        (),
        "images to calibrate int8 with, as --data of other commands [the run's training images]",
        group="Data",
        path=True,
    )
    calibrate_images: int = setting(128, "images to calibrate with, chosen by the seed", at_least=1, group="Data")
    seed: int = setting(0, "seed of the choice of images", at_least=0, group="Data")
    threads: int = setting(1, "CPU threads for timing", at_least=1, group="Machine")
    out: str | None = setting(None, "folder to write [the run's export]", group="Run", path=True)
    licence: str | None = setting(
        None, "licence of the weights, for model card and ONNX file, such as apache-2.0 [none]", group="Run"
    )
    data_licence: str | None = setting(
        None, "licence of the training images, for model card and ONNX file [none]", group="Run"
    )
    push: str | None = setting(
        None, "repository USER/NAME on the Hugging Face Hub to send the folder to, private if new", group="Run"
    )


class EmbedOptions(DataOptions, MachineOptions):
    """`lwcl embed`: which images, and where the embeddings go."""

    out: str | None = setting(None, "file to write: .npy, .npz, .csv or .parquet", group="Run", path=True)
    overwrite: bool = setting(False, "replace the file", group="Run")
    head: bool = setting(
        False, "embeddings after the projection head, instead of the backbone's features", group="What"
    )
    arch: str | None = setting(None, "architecture of a checkpoint that does not say", group="What")
    image_size: int | None = setting(
        None, "pixels of an image [what the encoder was trained on]", at_least=16, group="What"
    )
    batch_size: int = setting(256, "images in one forward pass", at_least=1, group="Machine")


class SearchOptions(Settings):
    """`lwcl search`: what to look for in a file of embeddings."""

    embeddings: str | None = setting(
        None, "file written by lwcl embed: .npy or .npz", flag="--in", group="Data", path=True
    )
    data: tuple[str, ...] = setting(
        (), "its images, for thumbnails [those that lwcl embed was given]", group="Data", path=True
    )
    encoder: str | None = setting(None, "encoder of the query image [that of the embeddings]", group="What")
    duplicates: bool = setting(False, "list pairs of near-duplicates instead", group="What")
    outliers: bool = setting(False, "list the images least like their neighbours instead", group="What")
    threshold: float = setting(0.95, "cosine from which two images are near-duplicates", at_least=-1, at_most=1,
                               group="What")  # fmt: skip
    count: int = setting(10, "results to show", at_least=1, group="What")
    out: str | None = setting(None, "folder for a page with thumbnails [none]", group="Run", path=True)


class BenchOptions(DataOptions, MachineOptions):
    """`lwcl bench`: which encoders to compare, and on what."""

    data: tuple[str, ...] = setting((), "labelled images for kNN accuracy [none: no accuracy]", group="Data", path=True)
    val: tuple[str, ...] = setting(
        (), "test images [the val or test folder of --data, or a held-out 20%]", group="Data", path=True
    )
    arch: str | None = setting(None, "architecture of a checkpoint that does not say", group="What")
    image_size: int | None = setting(
        None, "pixels of an image [what the encoder was trained on]", at_least=16, group="What"
    )
    batch_size: int = setting(32, "images of the second latency", at_least=2, group="Machine")
    threads: int = setting(1, "CPU threads of the latencies", at_least=1, group="Machine")
    seconds: float = setting(1.0, "measuring time of a latency", above=0, group="Machine")
    seed: int = setting(0, "seed of the bootstrap and a held-out split", at_least=0, group="What")
    out: str | None = setting(None, "folder for report.json and report.html [none]", group="Run", path=True)
