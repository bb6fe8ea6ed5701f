"""`lwcl verify`: are the checkpoints, the encoder and the export of a run intact?"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
import torch

from lwcl.checkpoints import training_state
from lwcl.checkpoints.export_folder import exports_to_timm
from lwcl.checkpoints.load import load_encoder
from lwcl.errors import LwclError, StorageError, UsageError
from lwcl.formatting import SCHEMA_VERSION, escape
from lwcl.models.loaded import LoadedEncoder
from lwcl.reporting.console import print_json, print_table
from lwcl.runs.finished import FinishedRun
from lwcl.runs.folder import RunFolder
from lwcl.runs.guard import require_current_format
from lwcl.system.atomic_files import sha256_file

COMPARED_IMAGES = 2  # images whose features must be equal
INTACT = "intact"


def verify(run: str, *, as_json: bool) -> int:
    """Prints whether each file of a run is intact; raises `StorageError` where one is not."""
    folder = RunFolder(Path(run))
    if not folder.config.exists():
        raise UsageError(f"{run} is not a run of lwcl.", "It has no config.yaml.", "Give a run folder.")
    require_current_format(folder.path, "Verify it with the version that wrote it.")
    states = [*verify_checkpoints(folder), *verify_files(folder), *verify_encoder(folder)]
    if as_json:
        print_json({"schema_version": SCHEMA_VERSION, "kind": "verify", "states": dict(states)})
    else:
        print_table("", ("File", "State"), states)
    damaged = [what for what, state in states if state != INTACT]
    if damaged:
        raise StorageError(
            f"{len(damaged)} of {len(states)} are damaged: {', '.join(damaged)}.",
            "Files are missing or changed; the disk may be failing.",
            "A run resumes from an older checkpoint by itself; `lwcl export` writes the export again.",
        )
    return 0


def verify_checkpoints(folder: RunFolder) -> Iterator[tuple[str, str]]:
    """The checkpoints of a run and their state; one that a running run removes meanwhile is skipped."""
    for path in sorted(folder.checkpoints.glob("step-*")):
        try:
            training_state.read_checkpoint(path)
        except (*training_state.DAMAGE_ERRORS, LwclError) as error:
            if path.exists():
                yield f"checkpoints/{path.name}", f"damaged: {error}"
        else:
            yield f"checkpoints/{path.name}", INTACT


def verify_files(folder: RunFolder) -> Iterator[tuple[str, str]]:
    """The report of a finished run, and the files whose checksums it lists, with their state."""
    if not folder.is_finished():
        return
    try:
        checksums = FinishedRun(str(folder.path)).checksums
    except LwclError as error:
        yield folder.report_json.name, f"damaged: {error}"
        return
    yield folder.report_json.name, INTACT
    for name, digest in checksums.items():
        try:
            same = sha256_file(folder.path / name) == digest
        except OSError as error:
            yield name, f"damaged: {error.strerror}"
        else:
            yield name, INTACT if same else "damaged: checksum differs"


def verify_encoder(folder: RunFolder) -> Iterator[tuple[str, str]]:
    """Whether the encoder of a run can be read, and timm reads its export as the same."""
    if not folder.encoder.exists():
        return
    try:
        loaded = load_encoder(str(folder.encoder))
    except LwclError as error:
        yield "the encoder as read", f"damaged: {error}"
        return
    yield "the encoder as read", INTACT
    if not exports_to_timm(loaded.encoder):  # the export is the encoder once more
        return
    try:
        same = timm_export_matches(folder.export, loaded)
    except Exception as error:  # timm and safetensors raise many kinds for a damaged file
        yield "the export as timm reads it", f"damaged: {type(error).__name__}: {escape(error)[:200]}"
    else:
        yield "the export as timm reads it", INTACT if same else "damaged: it differs from the encoder"


def timm_export_matches(export: Path, loaded: LoadedEncoder) -> bool:
    """Whether timm's model takes the same images as the encoder, and gives bitwise equal features."""
    model, size = timm.create_model(f"local-dir:{export}", pretrained=True).eval(), loaded.input_spec.size
    takes = (
        (loaded.encoder.channels, size, size),
        loaded.input_spec.mean,
        loaded.input_spec.std,
        loaded.input_spec.crop_pct,
    )
    config: Any = model.pretrained_cfg
    told = [config[name] for name in ("input_size", "mean", "std", "crop_pct")]
    shape = loaded.encoder.input_shape(size)
    images = torch.rand(COMPARED_IMAGES, *shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        features = model(images.flatten(0, -4)).unflatten(0, images.shape[:-3])
        features = features.mean(1) if loaded.encoder.frames else features
        same = torch.equal(features, loaded.encoder.eval().features(images))
    return same and [tuple(one) if isinstance(one, list) else one for one in told] == list(takes)
