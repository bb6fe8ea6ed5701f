"""`lwcl export` and `lwcl verify`: an encoder as plain timm loads it; whether what a run left is whole."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
import torch

from lwcl.checkpoints import training_state
from lwcl.checkpoints.encoder_file import export_timm, timm_snippet
from lwcl.checkpoints.load import load_encoder
from lwcl.errors import LwclError, StorageError, UsageError
from lwcl.formatting import escape, escape_lines
from lwcl.models.loaded import LoadedEncoder
from lwcl.reporting.console import Screen, print_json, print_table, write_line
from lwcl.reporting.knn import EncoderResult
from lwcl.reporting.model_card import render_model_card
from lwcl.runs.finished import FinishedRun
from lwcl.runs.folder import RunFolder
from lwcl.settings import SettingValue, recorded_value
from lwcl.system.atomic_files import explain_disk_errors, sha256_file, write_atomically

COMPARED_IMAGES = 2  # images whose features must be equal


def export(encoder: str, out: str | None, arch: str | None, *, quiet: bool) -> int:
    """Writes an encoder's backbone for `timm.create_model("local-dir:...")`; gives the exit code."""
    run = RunFolder(Path(encoder))
    if not out and not run.config.exists():
        raise UsageError(f"{encoder} is no run folder: there is no place for its export.", remedy="Give --out FOLDER.")
    folder = Path(out) if out else run.export
    if out and os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise UsageError(f"{out} is there already, and no empty folder.", remedy="Give another --out.")
    loaded = load_encoder(encoder, arch=arch)
    told = render_model_card(
        (folder if out else run.path).resolve().name, loaded.encoder.arch, loaded.metadata, *report_scores(run)
    )
    with explain_disk_errors(folder):
        export_timm(folder, loaded.encoder, loaded.input_spec)
    write_atomically(folder / "README.md", told)
    Screen(quiet=quiet).say(f"Export: {folder}")
    write_line(escape_lines(timm_snippet(folder, loaded.encoder.width)), sys.stdout)
    return 0


def report_scores(run: RunFolder) -> tuple[list[EncoderResult], dict[str, SettingValue]]:
    """The kNN scores and the settings in a finished run's report; none where there is no such run."""
    if not run.is_finished():
        return [], {}
    left = FinishedRun(str(run.path))
    return left.rows, {name: recorded_value(**entry) for name, entry in left.report["settings"].items()}


def verify(run: str, *, as_json: bool) -> int:
    """Prints whether each thing that a run left is whole; raises `StorageError` where one is not."""
    folder = RunFolder(Path(run))
    if not folder.config.exists():
        raise UsageError(f"{run} is no run of lwcl.", "It has no config.yaml.", "Give a run folder.")
    found = [*verify_checkpoints(folder), *verify_files(folder), *verify_encoder(folder)]
    if as_json:
        print_json({"schema_version": 1, "kind": "verify", "found": dict(found)})
    else:
        print_table("", ("What", "State"), found)
    damaged = [what for what, state in found if state != "whole"]
    if damaged:
        raise StorageError(
            f"{len(damaged)} of {len(found)} are not whole: {', '.join(damaged)}.",
            "Files are missing or changed: the disk may be failing.",
            "A run goes on from an older checkpoint by itself; an export is made again by `lwcl export`.",
        )
    return 0


def verify_checkpoints(folder: RunFolder) -> Iterator[tuple[str, str]]:
    """The checkpoints of a run and their state; one that a running run removes meanwhile is left out."""
    for path in sorted(folder.checkpoints.glob("step-*")):
        try:
            training_state.read_checkpoint(path)
        except (*training_state.DAMAGE_ERRORS, LwclError) as error:
            if path.exists():
                yield f"checkpoints/{path.name}", f"damaged: {error}"
        else:
            yield f"checkpoints/{path.name}", "whole"


def verify_files(folder: RunFolder) -> Iterator[tuple[str, str]]:
    """The report of a finished run, and the files whose checksums it tells, with their state."""
    if not folder.is_finished():
        return
    try:
        listed = FinishedRun(str(folder.path)).checksums
    except LwclError as error:
        yield folder.report_json.name, f"damaged: {error}"
        return
    yield folder.report_json.name, "whole"
    for name, digest in listed.items():
        try:
            same = sha256_file(folder.path / name) == digest
        except OSError as error:
            yield name, f"damaged: {error.strerror}"
        else:
            yield name, "whole" if same else "damaged: checksum differs"


def verify_encoder(folder: RunFolder) -> Iterator[tuple[str, str]]:
    """Whether the encoder of a run can be read, and timm reads its export as the same."""
    if not folder.encoder.exists():
        return
    try:
        loaded = load_encoder(str(folder.encoder))
    except LwclError as error:
        yield "the encoder as read", f"damaged: {error}"
        return
    yield "the encoder as read", "whole"
    try:
        same = timm_export_matches(folder.export, loaded)
    except Exception as error:  # timm and safetensors raise many kinds for a damaged file
        yield "the export as timm reads it", f"damaged: {type(error).__name__}: {escape(error)[:200]}"
    else:
        yield "the export as timm reads it", "whole" if same else "damaged: it is not the encoder"


def timm_export_matches(export: Path, loaded: LoadedEncoder) -> bool:
    """Whether timm's model takes the same images as the encoder, and gives the same features to the last bit."""
    model, size = timm.create_model(f"local-dir:{export}", pretrained=True).eval(), loaded.input_spec.size
    takes = (3, size, size), loaded.input_spec.mean, loaded.input_spec.std, loaded.input_spec.crop_pct
    config: Any = model.pretrained_cfg
    told = [config[name] for name in ("input_size", "mean", "std", "crop_pct")]
    images = torch.rand(COMPARED_IMAGES, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        same = torch.equal(model(images), loaded.encoder.eval().features(images))
    return same and [tuple(one) if isinstance(one, list) else one for one in told] == list(takes)
