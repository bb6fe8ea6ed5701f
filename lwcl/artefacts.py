"""`lwcl export` and `lwcl verify`: an encoder as plain timm loads it; whether what a run left is whole."""

import sys
from collections.abc import Iterator
from pathlib import Path

import timm
import torch

from lwcl import checkpoint
from lwcl.errors import LwclError, StorageError, UsageError
from lwcl.model_card import card
from lwcl.progress import Screen, print_json, print_table, put
from lwcl.runfolder import RunFolder
from lwcl.storage import write_atomically
from lwcl.weights import export_timm, load_encoder, snippet

CHECKED = 2  # images whose features must be equal


def export(encoder: str, out: str | None, arch: str | None, *, quiet: bool) -> int:
    """Writes an encoder's backbone for `timm.create_model("local-dir:...")`; gives the exit code."""
    loaded = load_encoder(encoder, arch=arch)
    folder = Path(out) if out else RunFolder(Path(encoder)).export
    if not out and not RunFolder(Path(encoder)).config.exists():
        raise UsageError(f"{encoder} is no run folder: there is no place for its export.", remedy="Give --out FOLDER.")
    if out and folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{out} holds files already.", remedy="Give another --out.")
    export_timm(folder, loaded.encoder, loaded.images)
    write_atomically(folder / "README.md", card(folder.name, loaded.encoder.arch, loaded.facts, (), {}))
    Screen(quiet=quiet).say(f"Export: {folder}")
    put(snippet(folder, loaded.encoder.width), sys.stdout)
    return 0


def verify(run: str, *, as_json: bool) -> int:
    """Prints whether each thing that a run left is whole; raises `StorageError` where one is not."""
    folder = RunFolder(Path(run))
    if not folder.config.exists():
        raise UsageError(f"{run} is no run of lwcl.", "It has no config.yaml.", "Give a run folder.")
    found = [*checkpoints(folder), *encoders(folder)]
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


def checkpoints(folder: RunFolder) -> Iterator[tuple[str, str]]:
    """The checkpoints of a run and their state."""
    for path in sorted(folder.checkpoints.glob("step-*")):
        try:
            checkpoint.read(path)
        except (*checkpoint.DAMAGE, LwclError) as error:
            yield f"checkpoints/{path.name}", f"damaged: {error}"
        else:
            yield f"checkpoints/{path.name}", "whole"


def encoders(folder: RunFolder) -> Iterator[tuple[str, str]]:
    """The encoder of a run and its export, which must give the same features, and their state."""
    if not folder.encoder.exists():
        return
    try:
        loaded = load_encoder(str(folder.encoder))
    except LwclError as error:
        yield "encoder.safetensors", f"damaged: {error}"
        return
    yield "encoder.safetensors", "whole"
    images = torch.rand(CHECKED, 3, loaded.images.size, loaded.images.size, generator=torch.Generator().manual_seed(0))
    try:
        with torch.inference_mode():
            exported = timm.create_model(f"local-dir:{folder.export}", pretrained=True).eval()(images)
            same = torch.equal(exported, loaded.encoder.eval().features(images))
    except Exception as error:  # timm and safetensors raise many kinds for a damaged file
        yield "export", f"damaged: {type(error).__name__}: {str(error).splitlines()[0]}"
    else:
        yield "export", "whole" if same else "damaged: its features are not the encoder's"
