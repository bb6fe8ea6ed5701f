"""The section on ONNX files of a model card, and its table on the screen."""

from collections.abc import Mapping
from typing import Any

from lwcl.formatting import percent

ONNX_COLUMNS = ("File", "MB", "ms", "Cosine", "1st percentile", "kNN top-1")


def onnx_rows(document: Mapping[str, Any]) -> list[tuple[object, ...]]:
    """A row for each ONNX file: size, latency at batch 1, cosine to float32, kNN; None where not measured."""
    check: Mapping[str, Any] = document["int8"] or {}
    knn: Mapping[str, Any] = check.get("knn") or {}
    float32, int8 = check.get("float32_latency"), check.get("latency")
    rows: list[tuple[object, ...]] = []
    for name, facts in document["files"].items():
        kind = {"model.onnx": "float32", "model-int8.onnx": "int8"}.get(name, "")
        latency = {"float32": float32, "int8": int8}.get(kind)
        as_run = check["as_run"] if kind == "int8" else {}
        top1 = knn.get(kind)
        rows.append(
            (
                name,
                round(facts["bytes"] / 1e6, 2),
                round(latency["median"], 2) if latency else None,
                as_run.get("mean"),
                as_run.get("percentile_1"),
                None if top1 is None else percent(top1),
            )
        )
    return rows


def onnx_notes(document: Mapping[str, Any]) -> list[str]:
    """Sentences on parity and on the accuracy of int8."""
    parity, check = document["parity"], document["int8"]
    notes = [
        f"Parity with PyTorch on {parity['images']} images: largest difference {parity['relative']:.1e} of the largest "
        f"feature, smallest cosine {parity['cosine']:.6f}."
    ]
    for kind, other in document["runtimes"].items():
        notes.append(
            f"Parity of the {kind} file, run by its runtime: largest difference {other['relative']:.1e} of the largest "
            f"feature, smallest cosine {other['cosine']:.6f}."
        )
    if check:
        notes.append(
            f"int8 on {check['images']} images: mean cosine to float32 {check['as_run']['mean']:.3f} "
            f"(unfused {check['unfused']['mean']:.3f}); latency at batch 1, {check['latency']['threads']} thread(s)."
        )
    if check and check["knn"]:
        low, high = check["knn"]["interval"]
        notes.append(
            f"kNN top-1 of int8 minus float32 on {check['knn']['images']} images: {100 * check['knn']['change']:+.1f} "
            f"points ({100 * low:+.1f} to {100 * high:+.1f})."
        )
    return notes


def onnx_section(document: Mapping[str, Any]) -> str:
    """The section of the model card, as Markdown."""
    lines = ["", "## ONNX files", "", f"| {' | '.join(ONNX_COLUMNS)} |", "|---" * len(ONNX_COLUMNS) + "|"]
    for row in onnx_rows(document):
        cells = ("" if cell is None else f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"* {note}" for note in onnx_notes(document)), ""])
