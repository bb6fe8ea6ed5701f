"""`lwcl export`: an encoder's backbone as a folder for plain timm."""

import os
import sys
from pathlib import Path

from lwcl.checkpoints.encoder_file import export_timm, timm_snippet
from lwcl.checkpoints.load import load_encoder
from lwcl.errors import UsageError
from lwcl.formatting import escape_lines
from lwcl.reporting.console import Screen, write_line
from lwcl.reporting.knn import EncoderResult
from lwcl.reporting.model_card import render_model_card
from lwcl.runs.finished import FinishedRun
from lwcl.runs.folder import RunFolder
from lwcl.settings import SettingValue, recorded_value
from lwcl.system.atomic_files import explain_disk_errors, write_atomically


def export(encoder: str, out: str | None, arch: str | None, *, quiet: bool) -> int:
    """Writes an encoder's backbone for `timm.create_model("local-dir:...")`; returns the exit code."""
    run = RunFolder(Path(encoder))
    if not out and not run.config.exists():
        raise UsageError(f"--out is required: {encoder} is not a run folder.", remedy="Give --out FOLDER.")
    folder = Path(out) if out else run.export
    if out and os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise UsageError(f"{out} exists and is not an empty folder.", remedy="Give another --out.")
    loaded = load_encoder(encoder, arch=arch)
    card = render_model_card(
        (folder if out else run.path).resolve().name, loaded.encoder.arch, loaded.metadata, *report_scores(run)
    )
    with explain_disk_errors(folder):
        export_timm(folder, loaded.encoder, loaded.input_spec, loaded.metadata)
    write_atomically(folder / "README.md", card)
    Screen(quiet=quiet).say(f"Export: {folder}")
    write_line(escape_lines(timm_snippet(folder, loaded.encoder.width)), sys.stdout)
    return 0


def report_scores(run: RunFolder) -> tuple[list[EncoderResult], dict[str, SettingValue]]:
    """The kNN scores and the settings in a finished run's report; none where there is no such run."""
    if not run.is_finished():
        return [], {}
    left = FinishedRun(str(run.path))
    return left.rows, {name: recorded_value(**entry) for name, entry in left.report["settings"].items()}
