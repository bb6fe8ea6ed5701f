"""Post-training quantisation of an ONNX file to int8: static, QDQ, per channel (onnxruntime).

Ranges are means of the extremes of batches of 16 images (`CalibMovingAverage`): those of all images grow with their
number, and so do the quantisation steps. Mean cosine to float32 of MobileNetV3 after one or two epochs on Imagenette,
128 images: small 0.983 instead of 0.975, large 0.984 instead of 0.978; small with 512: 0.982 instead of 0.952.

Without VNNI, x86 adds pairs of U8 x S8 products in 16 bits, which saturate (onnxruntime #6004, #5849): most of all in
the first convolution, whose input has the largest values. The portable setting avoids that with weights of 7 bits
(`reduce_range`) and a first convolution in float32.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from lwcl.checkpoints.onnx_encoder import INPUT_NAME, read_onnx_description
from lwcl.checkpoints.onnx_file import describe
from lwcl.system.packages import require_package, silence

CALIBRATION_BATCH = 16  # images whose extremes are taken together
TRANSFORMER_OPERATORS = ("Conv", "MatMul", "Gemm")  # softmax, GELU and layer norm stay in float32
MIN_CNN_CONVOLUTIONS = 4  # a graph with fewer is a transformer with a patch embedding


class CalibrationReader:
    """Batches of a file's input for onnxruntime's calibration."""

    def __init__(self, batches: Iterable[NDArray[Any]]) -> None:
        self.batches: Iterator[NDArray[Any]] = iter(batches)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """The next batch, None after the last."""
        batch = next(self.batches, None)
        return None if batch is None else {INPUT_NAME: batch}


def quantize_onnx(source: Path, path: Path, batches: Iterable[NDArray[Any]], *, target: str = "portable") -> None:
    """Write an int8 version of `source`, calibrated on batches of its input.

    `target`: `portable` for any processor, or `vnni` for ones whose int8 dot products do not saturate (VNNI, Arm).
    """
    onnx = require_package("onnx", "export")
    quantization = require_package("onnxruntime.quantization", "export")
    prepared = path.with_suffix(".prepared.onnx")
    with silence():
        require_package("onnxruntime.quantization.shape_inference", "export").quant_pre_process(
            str(source), str(prepared), skip_symbolic_shape=True
        )
        model = onnx.load_model(str(prepared))
        quantization.quantize_static(
            str(prepared),
            str(path),
            CalibrationReader(batches),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            per_channel=True,
            extra_options={"CalibMovingAverage": True},
            **node_choice(model.graph, target),
        )
    prepared.unlink()
    model = onnx.load_model(str(path))
    describe(model, {**read_onnx_description(source), "int8": True, "int8_target": target})
    onnx.save_model(model, str(path))


def node_choice(graph: Any, target: str) -> dict[str, Any]:
    """What `quantize_static` quantises of a graph, and whether weights have 7 bits."""
    names = [node.op_type for node in graph.node]
    portable = target == "portable"
    if names.count("Conv") < MIN_CNN_CONVOLUTIONS:
        return {"op_types_to_quantize": list(TRANSFORMER_OPERATORS), "reduce_range": portable}
    first = names.index("Conv")
    kept = graph.node[: first + 1] if portable else graph.node[:first]  # what is before it normalises the input
    return {"nodes_to_exclude": [node.name for node in kept], "reduce_range": portable}
