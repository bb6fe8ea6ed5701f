"""`lwcl export`: an encoder's backbone as a folder for plain timm."""

import dataclasses
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from lwcl.checkpoints.export_folder import export_encoder, usage_text
from lwcl.checkpoints.hub import check_repository, push_folder
from lwcl.checkpoints.load import load_encoder
from lwcl.checkpoints.onnx_encoder import reject_onnx
from lwcl.commands.export_onnx import write_onnx_files
from lwcl.config.device_options import ExportOptions
from lwcl.errors import UsageError
from lwcl.formatting import SCHEMA_VERSION, escape_lines, json_document
from lwcl.models.encoder import check_forward
from lwcl.models.loaded import LoadedEncoder
from lwcl.reporting.console import Screen, print_json, print_table, write_line
from lwcl.reporting.knn import EncoderResult
from lwcl.reporting.model_card import render_model_card
from lwcl.reporting.onnx_card import ONNX_COLUMNS, onnx_notes, onnx_rows, onnx_section
from lwcl.runs.finished import FinishedRun
from lwcl.runs.folder import RunFolder
from lwcl.settings import SettingValue, recorded_value
from lwcl.system.atomic_files import explain_disk_errors, write_atomically


def run_export(encoder: str, options: ExportOptions, *, as_json: bool = False, quiet: bool = False) -> int:
    """Writes an encoder for `timm.create_model("local-dir:...")`, and as ONNX if asked for; gives the exit code."""
    run, screen = RunFolder(Path(encoder)), Screen(quiet=quiet)
    folder = export_folder(encoder, run, options.out)
    if options.push:
        check_repository(options.push)
    loaded = load_encoder(encoder, arch=options.arch, image_size=options.image_size)
    reject_onnx(loaded)
    loaded = dataclasses.replace(loaded, metadata={**loaded.metadata, **given_licences(options)})
    check_forward(loaded.encoder, loaded.input_spec.size)
    name = (folder if options.out else run.path).resolve().name
    card = render_model_card(name, loaded.encoder.arch, loaded.metadata, *report_scores(run))
    document: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "kind": "export", "folder": str(folder)}
    with explain_disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".tmp-{os.getpid()}-onnx-") as scratch:
            if options.int8 or options.format != "timm":
                document |= write_onnx_files(Path(scratch), encoder, loaded, options, screen).as_json()
                card += onnx_section(document)
                write_atomically(Path(scratch) / "onnx.json", json_document(document) + "\n")
            export_encoder(folder, loaded.encoder, loaded.input_spec, loaded.metadata)
            for file in sorted(Path(scratch).iterdir()):
                write_atomically(folder / file.name, file.read_bytes())
    write_atomically(folder / "README.md", card)
    screen.say(f"Export: {folder}")
    if options.push:
        document["pushed"] = push_folder(folder, options.push)
        screen.say(f"Sent to {document['pushed']}")
    print_export(document, folder, loaded, as_json=as_json)
    return 0


def given_licences(options: ExportOptions) -> dict[str, str]:
    """The licences that the user states."""
    stated = {"licence": options.licence, "data licence": options.data_licence}
    return {name: licence for name, licence in stated.items() if licence}


def export_folder(encoder: str, run: RunFolder, out: str | None) -> Path:
    """Where an export goes: `--out`, which must be new or empty, else the run's export. Raises `UsageError`."""
    if not out and not run.config.exists():
        raise UsageError(f"--out is required: {encoder} is not a run folder.", remedy="Give --out FOLDER.")
    folder = Path(out) if out else run.export
    if out and os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise UsageError(f"{out} exists and is not an empty folder.", remedy="Give another --out.")
    return folder


def print_export(document: dict[str, Any], folder: Path, loaded: LoadedEncoder, *, as_json: bool) -> None:
    """Prints what was written: the document, or how to load it in timm and the table of ONNX files."""
    if as_json:
        print_json(document)
        return
    if "files" in document:
        print_table("", ONNX_COLUMNS, onnx_rows(document))
        for line in onnx_notes(document):
            write_line(line, sys.stdout)
    write_line(escape_lines(usage_text(folder, loaded.encoder).partition("\n")[2]), sys.stdout)


def report_scores(run: RunFolder) -> tuple[list[EncoderResult], dict[str, SettingValue]]:
    """The kNN scores and the settings in a finished run's report; none where there is no such run."""
    if not run.is_finished():
        return [], {}
    left = FinishedRun(str(run.path))
    return left.rows, {name: recorded_value(**entry) for name, entry in left.report["settings"].items()}
