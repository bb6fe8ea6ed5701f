"""Files for OpenVINO and LiteRT: converted, then run by their runtime and compared with the network.

OpenVINO reads the ONNX file; LiteRT converts torch's program, for batches of one image. Core ML converts it too
(coremltools 9.0), but its files run on Apple's systems only, so nothing could be compared here.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lwcl.checkpoints.onnx_encoder import onnx_input
from lwcl.checkpoints.onnx_file import Parity, check_parity, example_input, made_batches, measure_parity
from lwcl.errors import UsageError
from lwcl.models.loaded import LoadedEncoder
from lwcl.system.packages import require_package, silence

RUNTIME_FILES = {"openvino": "model.xml", "litert": "model.tflite"}  # OpenVINO's weights are beside it, in model.bin
Features = Callable[[Any], Any]  # an array of images, as a file takes them -> an array of features


def write_runtime_file(kind: str, onnx: Path, loaded: LoadedEncoder, *, with_preprocess: bool) -> Parity:
    """Write the file of a runtime beside an ONNX file. Raises `UsageError`, or `ParityError` if it fails the check."""
    path = onnx.with_name(RUNTIME_FILES[kind])
    try:
        with silence():
            run = write_openvino(path, onnx) if kind == "openvino" else write_litert(path, loaded, with_preprocess)
    except UsageError:
        raise
    except Exception as error:  # of the converters, of many classes
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise UsageError(f"{kind} cannot convert {loaded.encoder.arch}.", why, "Give --format onnx.") from error

    def features(images: Tensor) -> Tensor:
        return torch.as_tensor(run(onnx_input(images, loaded.input_spec, with_preprocess)))

    parity = measure_parity(loaded, features, made_batches(loaded.input_spec))
    check_parity(parity)
    return parity


def write_openvino(path: Path, onnx: Path) -> Features:
    """OpenVINO's model in float32, and a function that runs the file."""
    package = require_package("openvino", "openvino")
    package.save_model(package.Core().read_model(str(onnx)), str(path), compress_to_fp16=False)
    compiled = package.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda images: compiled(images)[0]


def write_litert(path: Path, loaded: LoadedEncoder, with_preprocess: bool) -> Features:
    """LiteRT's model for one image, and a function that runs the file image by image."""
    package = require_package("litert_torch", "litert")
    runtime = require_package("ai_edge_litert.interpreter", "litert")
    backbone, images = example_input(loaded, 1, with_preprocess=with_preprocess)
    package.convert(backbone, (images,)).export(str(path))
    interpreter = runtime.Interpreter(str(path))
    interpreter.allocate_tensors()
    first, last = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def run(batch: Any) -> Tensor:
        rows = []
        for number in range(len(batch)):
            interpreter.set_tensor(first, batch[number : number + 1])
            interpreter.invoke()
            rows.append(torch.from_numpy(interpreter.get_tensor(last)))
        return torch.cat(rows)

    return run
