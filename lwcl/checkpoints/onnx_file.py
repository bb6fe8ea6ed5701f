"""Writing an encoder's backbone as one ONNX file, and comparing the file with the network (parity)."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lwcl import __version__
from lwcl.checkpoints.onnx_encoder import INPUT_NAME, METADATA_KEY, ONNX_FORMAT, OUTPUT_NAME
from lwcl.errors import LwclError, UsageError
from lwcl.models.encoder import Encoder
from lwcl.models.loaded import InputSpec, LoadedEncoder
from lwcl.models.low_bits import bake
from lwcl.system.packages import require_package, silence

EXAMPLE_BATCH, OTHER_BATCH = 2, 5  # parity is tested at a batch size that the exporter did not see, too
MAX_RELATIVE_DIFFERENCE = 1e-4  # of the largest feature; correct files measured 2e-7 to 2e-6
MIN_PARITY_COSINE = 0.9999


class ParityError(LwclError):
    """An exported file computes other features than the network."""

    exit_code = 3


class Parity(NamedTuple):
    """How far an ONNX file is from the network: the largest difference, absolute and relative, and the least cosine."""

    difference: float
    relative: float  # to the largest feature
    cosine: float
    images: int

    @property
    def passed(self) -> bool:
        """Whether the file is within the limits."""
        return self.relative <= MAX_RELATIVE_DIFFERENCE and self.cosine >= MIN_PARITY_COSINE


class PreprocessedBackbone(nn.Module):
    """A backbone with the normalisation inside: pixels (B, H, W, C), or (B, T, H, W, C) -> features (B, width)."""

    scale: Tensor
    shift: Tensor

    def __init__(self, backbone: nn.Module, input_spec: InputSpec) -> None:
        super().__init__()
        self.backbone = backbone
        mean, std = (torch.tensor(values)[:, None, None] for values in (input_spec.mean, input_spec.std))
        self.register_buffer("scale", 1 / (input_spec.pixel_format.white * std))
        self.register_buffer("shift", -mean / std)

    def forward(self, images: Tensor) -> Tensor:
        """Features of images as decoders give them."""
        pixels = images.movedim(-1, -3).to(torch.float32)
        features: Tensor = self.backbone(pixels * self.scale + self.shift)
        return features


def write_onnx(path: Path, loaded: LoadedEncoder, *, opset: int, with_preprocess: bool = False) -> None:
    """Write the backbone as one file with a dynamic batch size. Raises `UsageError` if torch cannot export it."""
    onnx = require_package("onnx", "export")
    require_package("onnxscript", "export")
    require_package("onnxruntime", "export")
    backbone, images = example_input(loaded, EXAMPLE_BATCH, with_preprocess=with_preprocess)
    model = export_program(loaded.encoder.arch, backbone, images, opset)
    check_opset(model, opset)
    remove_traces(model)
    describe(model, onnx_description(loaded, with_preprocess=with_preprocess))
    onnx.save_model(model, str(path))


def example_input(loaded: LoadedEncoder, count: int, *, with_preprocess: bool) -> tuple[nn.Module, Tensor]:
    """A copy of the backbone that is ready for a converter, and a batch of its input."""
    backbone, size = bake(loaded.encoder.backbone).cpu().float().eval().requires_grad_(False), loaded.input_spec.size
    shape = loaded.encoder.input_shape(size)
    if with_preprocess:
        dtype: torch.dtype = getattr(torch, loaded.input_spec.pixel_format.dtype)
        whole = PreprocessedBackbone(backbone, loaded.input_spec).eval()
        return whole, torch.zeros(count, *shape, dtype=dtype).movedim(-3, -1).contiguous()
    return backbone, torch.zeros(count, *shape)


def export_program(arch: str, backbone: nn.Module, images: Tensor, opset: int) -> Any:
    """torch's ONNX model of a backbone. Raises `UsageError`."""
    shapes = ({0: torch.export.Dim("batch", min=1)},)
    try:
        with silence():
            program = torch.onnx.export(
                backbone,
                (images,),
                dynamo=True,
                opset_version=opset,
                dynamic_shapes=shapes,
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                verbose=False,
            )
            assert program is not None, "dynamo=True returns the program"
            return program.model_proto
    except Exception as error:  # the exporter raises many kinds
        why = " ".join(str(error).split())[:300]
        raise UsageError(
            f"torch cannot export {arch} to ONNX (opset {opset}).",
            f"{type(error).__name__}: {why}",
            "Try another --opset, or another architecture; the timm folder does not need ONNX.",
        ) from error


def check_opset(model: Any, opset: int) -> None:
    """Raises `UsageError` if the exporter wrote another opset: below 18 it silently writes 18."""
    written = {entry.domain: entry.version for entry in model.opset_import}.get("")
    if written != opset:
        raise UsageError(
            f"--opset {opset}: torch wrote opset {written}.",
            "The exporter does not convert this model to that version.",
            f"Give --opset {written}.",
        )


def remove_traces(model: Any) -> None:
    """Removes the exporter's metadata: stack traces with the local paths of this machine, on every node."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]


def describe(model: Any, description: Mapping[str, Any]) -> None:
    """Sets the description of a model, and its producer."""
    model.producer_name, model.producer_version = "lwcl", __version__
    del model.metadata_props[:]
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, json.dumps(description, sort_keys=True)


def onnx_description(loaded: LoadedEncoder, *, with_preprocess: bool) -> dict[str, Any]:
    """What an ONNX file says of itself: architecture, input, and the metadata of its encoder."""
    encoder: Encoder = loaded.encoder
    return {
        "format": ONNX_FORMAT,
        "arch": encoder.arch,
        "arguments": encoder.arguments,
        "width": encoder.width,
        "input": loaded.input_spec.as_json(),
        "with_preprocess": with_preprocess,
        "int8": False,
        "metadata": loaded.metadata,
    }


def measure_parity(loaded: LoadedEncoder, file: Callable[[Tensor], Tensor], batches: Iterable[Tensor]) -> Parity:
    """The file against the network on batches of normalised images (B, C, H, W)."""
    backbone = bake(loaded.encoder.backbone).cpu().float().eval()
    with torch.inference_mode():
        pairs = [(backbone(images), file(images)) for images in batches]
    wanted, found = (torch.cat(features).double() for features in zip(*pairs, strict=True))
    difference = float((wanted - found).abs().max())
    cosine = float(torch.cosine_similarity(wanted, found).min())
    return Parity(difference, difference / max(float(wanted.abs().max()), 1e-30), cosine, len(wanted))


def made_batches(input_spec: InputSpec) -> list[Tensor]:
    """Seeded noise of whole pixel values, normalised, in two batch sizes."""
    generator, size = torch.Generator().manual_seed(0), input_spec.size
    mean, std = (torch.tensor(values)[:, None, None] for values in (input_spec.mean, input_spec.std))
    frames = (input_spec.pixel_format.frames,) if input_spec.pixel_format.frames else ()
    shapes: Sequence[tuple[int, ...]] = [
        (count, *frames, len(input_spec.mean), size, size) for count in (EXAMPLE_BATCH, OTHER_BATCH)
    ]
    white = int(input_spec.pixel_format.white)
    return [(torch.randint(white + 1, shape, generator=generator) / white - mean) / std for shape in shapes]


def check_parity(parity: Parity) -> None:
    """Raises `ParityError` beyond the limits."""
    if not parity.passed:
        raise ParityError(
            f"The exported file's features differ from PyTorch's: difference {parity.relative:.1e} of the largest, "
            f"cosine {parity.cosine:.6f}.",
            f"The limits are {MAX_RELATIVE_DIFFERENCE:g} and {MIN_PARITY_COSINE:g}. Nothing was kept.",
            "Try another --opset, or report this architecture.",
        )
