"""ONNX files written by `lwcl export` as encoders, run by onnxruntime on the CPU: the deployed file is evaluated."""

import json
from pathlib import Path
from typing import Any, NoReturn

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lwcl.errors import UsageError
from lwcl.models.encoder import Encoder
from lwcl.models.loaded import InputSpec, LoadedEncoder
from lwcl.system.atomic_files import sha256_file
from lwcl.system.packages import require_package

ONNX_FORMAT = 1
METADATA_KEY = "lwcl"  # of the JSON description in the file's metadata
INPUT_NAME, OUTPUT_NAME = "images", "features"
DESCRIPTION_KEYS = {"arch", "arguments", "width", "input", "with_preprocess", "int8", "metadata"}


class OnnxBackbone(nn.Module):
    """An ONNX file as a backbone: normalised images (B, C, H, W) -> features (B, width).

    A file exported with preprocessing gets pixels (B, H, W, C) instead, by undoing the normalisation; that is exact for
    decoded images. `fused=False` runs the graph as written, without onnxruntime's optimisations.
    """

    sha256: Tensor

    def __init__(self, path: Path, input_spec: InputSpec, *, with_preprocess: bool, fused: bool = True) -> None:
        super().__init__()
        self.path, self.input_spec, self.with_preprocess, self.fused = path, input_spec, with_preprocess, fused
        self.session: Any = None
        self.threads = 0
        # The only entry of the state_dict, so that a hash of the weights identifies the file.
        self.register_buffer("sha256", torch.tensor(list(bytes.fromhex(sha256_file(path)))))

    def forward(self, images: Tensor) -> Tensor:
        """Features, float32, on the device of the images."""
        if self.session is None or self.threads != torch.get_num_threads():
            self.threads = torch.get_num_threads()
            self.session = open_session(self.path, self.threads, fused=self.fused)
        batch = onnx_input(images.detach().cpu().float(), self.input_spec, self.with_preprocess)
        features: NDArray[numpy.float32] = self.session.run([OUTPUT_NAME], {INPUT_NAME: batch})[0]
        return torch.from_numpy(features).to(images.device)

    def __deepcopy__(self, memo: object) -> NoReturn:
        raise onnx_only_error(self.path)


class OnnxEncoder(Encoder):
    """An encoder whose backbone is an ONNX file; it has no projection head."""

    def __init__(self, arch: str, arguments: dict[str, Any], width: int, backbone: OnnxBackbone) -> None:
        nn.Module.__init__(self)
        self.arch, self.arguments, self.width = arch, arguments, width
        self.backbone, self.head = backbone, nn.Sequential()
        self.head_layers, self.head_norm, self.head_widths = (), False, ()


def onnx_only_error(path: Path | str) -> UsageError:
    """The error for an ONNX file where weights are needed."""
    return UsageError(
        f"{path}: an ONNX file can be evaluated, but not trained, converted or exported.",
        "Its weights are constants of the graph.",
        "Give the run or the timm folder that it was exported from.",
    )


def reject_onnx(loaded: LoadedEncoder) -> None:
    """Raises `UsageError` if the encoder is an ONNX file."""
    if isinstance(loaded.encoder, OnnxEncoder):
        raise onnx_only_error(loaded.name)


def onnx_input(images: Tensor, input_spec: InputSpec, with_preprocess: bool) -> NDArray[Any]:
    """The input of a file for normalised images (B, C, H, W) on the CPU."""
    if not with_preprocess:
        return images.contiguous().numpy()
    mean, std = (torch.tensor(values)[:, None, None] for values in (input_spec.mean, input_spec.std))
    pixels = (images * std + mean).mul(input_spec.pixel_format.white).round()
    limit = numpy.iinfo(input_spec.pixel_format.dtype).max
    return pixels.clamp(0, limit).movedim(-3, -1).contiguous().numpy().astype(input_spec.pixel_format.dtype)


def is_onnx_name(path: Path) -> bool:
    """Whether a path has the suffix of an ONNX file."""
    return path.suffix.lower() == ".onnx"


def open_session(path: Path, threads: int, *, fused: bool = True) -> Any:
    """An onnxruntime session on the CPU. Raises `UsageError` if onnxruntime is missing or refuses the file."""
    runtime = require_package("onnxruntime", "export")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4  # fatal only: errors are raised
    if not fused:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base but Exception
        why = " ".join(str(error).split())[:300]
        raise UsageError(
            f"{path}: onnxruntime cannot read it.", why, "Write it again by `lwcl export --format onnx`."
        ) from error


def read_onnx_description(path: Path) -> dict[str, Any]:
    """The description in an ONNX file. Raises `UsageError` if lwcl did not write the file."""
    text = open_session(path, 1).get_modelmeta().custom_metadata_map.get(METADATA_KEY, "{}")
    try:
        description = dict(json.loads(text))
    except (ValueError, TypeError, RecursionError):
        description = {}
    if description.get("format") != ONNX_FORMAT or not description.keys() >= DESCRIPTION_KEYS:
        raise UsageError(
            f"{path}: this ONNX file was not written by this version of lwcl.",
            "It does not describe its input: size, mean and std.",
            "Give a file written by `lwcl export --format onnx`.",
        )
    return description


def load_onnx_encoder(path: Path, arch: str | None = None, image_size: int | None = None) -> LoadedEncoder:
    """Load an ONNX file written by lwcl. Raises `UsageError` if it is not one, or has another `image_size`."""
    description = read_onnx_description(path)
    if arch not in (None, description["arch"]):
        raise UsageError(f"{path}: holds {description['arch']}, not {arch}.", remedy="Leave --arch out.")
    input_spec = InputSpec.from_json(description["input"])
    if image_size not in (None, input_spec.size):
        raise UsageError(
            f"{path}: takes images of {input_spec.size} px only.",
            "The image size is a constant of the graph.",
            "Leave --image-size out.",
        )
    backbone = OnnxBackbone(path, input_spec, with_preprocess=bool(description["with_preprocess"]))
    encoder = OnnxEncoder(description["arch"], dict(description["arguments"]), int(description["width"]), backbone)
    metadata = {**description["metadata"], "origin": "onnx", "file": path.name, "int8": bool(description["int8"])}
    return LoadedEncoder(str(path), encoder.eval(), input_spec, metadata)
