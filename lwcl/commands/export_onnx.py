"""The ONNX files of `lwcl export`: written, run by onnxruntime, compared with the network, and only then kept."""

from pathlib import Path
from typing import Any, NamedTuple

from lwcl.checkpoints.load import load_encoder
from lwcl.checkpoints.onnx_encoder import OnnxBackbone, onnx_input
from lwcl.checkpoints.onnx_file import Parity, check_parity, made_batches, measure_parity, write_onnx
from lwcl.checkpoints.quantize import CALIBRATION_BATCH, quantize_onnx
from lwcl.checkpoints.runtime_files import RUNTIME_FILES, write_runtime_file
from lwcl.config.device_options import ExportOptions
from lwcl.data.dataset import ImageSet, open_images
from lwcl.data.labelled import open_labelled_pair
from lwcl.errors import DataError, UsageError
from lwcl.evaluation.embed_images import CroppedImages
from lwcl.evaluation.eval_data import RunImages, images_of_run
from lwcl.evaluation.int8_check import MAX_BANK, MAX_QUERIES, MIN_INT8_COSINE, Int8Check, check_int8
from lwcl.formatting import SCHEMA_VERSION
from lwcl.models.loaded import LoadedEncoder
from lwcl.reporting.console import Screen
from lwcl.rng import epoch_permutation
from lwcl.system.atomic_files import sha256_file

ONNX_FILE, INT8_FILE = "model.onnx", "model-int8.onnx"
MAX_CHECK_IMAGES, MIN_CHECK_IMAGES = 256, 16  # images that int8 is compared with float32 on
REMEDY = (
    "Give more and more typical images to --calibrate, or --int8-target portable; else deploy model.onnx in float32."
)


class OnnxExport(NamedTuple):
    """What was written: file names with sizes and hashes, parity, and the check of int8 if there is such a file."""

    files: dict[str, dict[str, Any]]
    parity: Parity
    int8: Int8Check | None
    runtimes: dict[str, Parity]  # of the files for other runtimes

    def as_json(self) -> dict[str, Any]:
        """The content of onnx.json."""
        return {
            "schema_version": SCHEMA_VERSION,
            "kind": "onnx export",
            "files": self.files,
            "parity": self.parity._asdict(),
            "int8": self.int8.as_json() if self.int8 else None,
            "runtimes": {kind: parity._asdict() for kind, parity in self.runtimes.items()},
        }


def calibration_images(encoder: str, options: ExportOptions) -> RunImages:
    """The images to calibrate with: `--calibrate`, or the student's of the run. Raises `UsageError`."""
    run = images_of_run(Path(encoder))
    if options.calibrate:
        return RunImages(options.calibrate, run.settings if run else ())
    if run is None:
        raise UsageError(
            "--int8 needs images to calibrate with.",
            f"{encoder} is not a run folder, whose training images would be used.",
            "Give --calibrate FOLDER with a few hundred typical images.",
        )
    return run


def write_onnx_files(
    folder: Path, encoder: str, loaded: LoadedEncoder, options: ExportOptions, screen: Screen
) -> OnnxExport:
    """Writes the ONNX files that the options ask for into a folder. Raises `ParityError` or `UsageError`."""
    if loaded.encoder.frames and options.int8:
        raise UsageError("--int8 is for networks for images.", remedy="Leave --int8 out: float32 works for clips.")
    own = calibration_images(encoder, options) if options.int8 else None
    images = open_images(own.data, "train", **own.reading) if own else None
    path = folder / ONNX_FILE
    screen.say("Writing the ONNX file (10 to 30 s) ...")
    write_onnx(path, loaded, opset=options.opset, with_preprocess=options.with_preprocess)
    exported = load_encoder(str(path))
    backbone = exported.encoder.backbone
    assert isinstance(backbone, OnnxBackbone)
    parity = measure_parity(loaded, backbone, made_batches(loaded.input_spec))
    check_parity(parity)
    check = None
    if own is not None and images is not None:
        pair = labelled_pair(own, options.seed)
        check = write_int8(folder / INT8_FILE, exported, images, pair, options, screen)
    runtimes = {}
    if (kind := options.format) in RUNTIME_FILES:
        runtimes[kind] = write_runtime_file(kind, path, loaded, with_preprocess=options.with_preprocess)
    written = sorted(folder.iterdir(), key=lambda file: (file.name != ONNX_FILE, file.name != INT8_FILE, file.name))
    files = {file.name: {"bytes": file.stat().st_size, "sha256": sha256_file(file)} for file in written}
    return OnnxExport(files, parity, check, runtimes)


def write_int8(
    path: Path,
    exported: LoadedEncoder,
    images: ImageSet,
    pair: tuple[ImageSet, ImageSet] | None,
    options: ExportOptions,
    screen: Screen,
) -> Int8Check:
    """Writes the int8 file and compares it with the float32 one; `pair`: a labelled bank and queries, if known."""
    backbone = exported.encoder.backbone
    assert isinstance(backbone, OnnxBackbone)
    calibration, checked = split_calibration(images, options)
    screen.say(f"Calibrating int8 on {len(calibration):,} images, comparing on {len(checked):,} ...")
    crops = CroppedImages(calibration, exported.input_spec, batch_size=CALIBRATION_BATCH)
    batches = (onnx_input(batch, exported.input_spec, backbone.with_preprocess) for batch in crops.normalised())
    quantize_onnx(backbone.path, path, batches, target=options.int8_target)
    check = check_int8(
        exported,
        load_encoder(str(path)),
        checked,
        pair,
        threads=options.threads,
        seed=options.seed,
    )
    warn_of_int8(check, screen)
    return check


def split_calibration(images: ImageSet, options: ExportOptions) -> tuple[ImageSet, ImageSet]:
    """Images to calibrate with and others to check on, chosen by the seed; the same ones if there are too few."""
    order = epoch_permutation(len(images), options.seed, 0)
    first, rest = order[: options.calibrate_images], order[options.calibrate_images :][:MAX_CHECK_IMAGES]
    return images.subset(first), images.subset(rest if len(rest) >= MIN_CHECK_IMAGES else first[:MAX_CHECK_IMAGES])


def labelled_pair(own: RunImages, seed: int) -> tuple[ImageSet, ImageSet] | None:
    """A labelled bank and queries for kNN, at most `MAX_BANK` and `MAX_QUERIES`; None where there are no labels."""
    try:
        pair = open_labelled_pair(own.data, (), seed=seed, **own.reading)
    except DataError:
        return None
    return tuple(  # type: ignore[return-value]  # two
        images.subset(epoch_permutation(len(images), seed, 0)[:most].sort().values)
        for images, most in ((pair.bank, MAX_BANK), (pair.queries, MAX_QUERIES))
    )


def warn_of_int8(check: Int8Check, screen: Screen) -> None:
    """Warns of an int8 file whose features differ much from float32's, and of saturating kernels."""
    if check.saturates:
        screen.warn(
            f"This processor's int8 kernels saturate: mean cosine {check.as_run.mean:.3f}, but "
            f"{check.unfused.mean:.3f} for the same file without them. --int8-target portable avoids that."
        )
    if check.as_run.mean < MIN_INT8_COSINE:
        screen.warn(
            f"int8 features differ from float32: mean cosine {check.as_run.mean:.3f}, below {MIN_INT8_COSINE}. {REMEDY}"
        )
