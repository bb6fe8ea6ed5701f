"""What a finished run leaves: the encoder, its export to plain timm, a kNN score where there are labels, the report."""

import dataclasses
from collections.abc import Mapping

from lwcl.checkpoints.encoder_file import export_timm, save_encoder, timm_snippet
from lwcl.formatting import escape
from lwcl.reporting.console import Screen, print_json, print_table
from lwcl.reporting.distillation import gap_facts, gap_pictures, gap_table, gap_verdict
from lwcl.reporting.knn import accuracy_verdict, knn_table
from lwcl.reporting.model_card import render_model_card
from lwcl.reporting.report import Report
from lwcl.reporting.training import training_report
from lwcl.runs.folder import RunFolder
from lwcl.system.atomic_files import sha256_file, write_atomically
from lwcl.system.device import current_command
from lwcl.system.environment import describe_environment
from lwcl.training.dry_run import sample_views
from lwcl.training.final_scores import FinalScores, final_scores
from lwcl.training.state import TrainingState

Timing = Mapping[str, float | None]
VERIFIED_FILES = (
    "encoder.safetensors",
    "export/model.safetensors",
    "export/config.json",
)  # what `lwcl verify` looks at


def finalize_run(training: TrainingState, folder: RunFolder, screen: Screen, timing: Timing, *, as_json: bool) -> int:
    """Writes encoder, export and report, evaluates if there are labels, prints the paths; returns the exit code."""
    student = training.net.student
    trained = training.loaded(str(folder.path))
    save_encoder(folder.encoder, student, training.input_spec, trained.metadata)
    export_timm(folder.export, student, training.input_spec, trained.metadata)
    final = final_scores(training, folder, screen)
    rows = final.rows
    facts = trained.metadata | {
        "architecture": student.arch,
        "parameters of the backbone": sum(p.numel() for p in student.backbone.parameters()),
        "width of the features": student.width,
        "precision": "bfloat16 autocast" if training.compute.autocast else "float32",
        "device": str(training.compute.device),
        "SHA-256": {name: sha256_file(folder.path / name) for name in VERIFIED_FILES},
    }
    report = training_report(
        training.config.verb,
        f"{facts['method']} on {student.arch}",
        folder.metrics(),
        settings=training.config.values,
        facts=facts | {"knn": [row._asdict() for row in rows]},
        environment=describe_environment(),
        command=current_command(),
        timing=timing,
        samples=sample_views(training.loader),
    )
    report = add_scores(report, final)
    card = render_model_card(folder.path.resolve().name, student.arch, trained.metadata, rows, training.config.values)
    write_atomically(folder.export / "README.md", card)
    report.write(folder.path)
    if as_json:
        print_json(report.document())
    else:
        for table in report.tables[: bool(rows) + bool(final.gap_rows)]:
            print_table(table.title, table.columns, table.rows)
    screen.say(
        f"{report.verdict}\nReport: {escape(folder.report_html)}\nEncoder: {escape(folder.encoder)}\n"
        f"Use it in plain timm:\n{timm_snippet(folder.export, student.width)}"
    )
    return 0


def add_scores(report: Report, final: FinalScores) -> Report:
    """The report, preceded by the kNN accuracy of the encoders and the comparison of a student with its teacher."""
    if not final.rows:
        return report
    gained = escape(accuracy_verdict(final.rows[:1], final.images))
    report = dataclasses.replace(
        report, verdict=f"{gained}\n{report.verdict}", tables=(knn_table(final.rows), *report.tables)
    )
    if not final.gap_rows:
        return report
    return dataclasses.replace(
        report,
        verdict=f"{escape(gap_verdict(final.gap_rows, final.share))}\n{report.verdict}",
        tables=(report.tables[0], gap_table(final.gap_rows), *report.tables[1:]),
        pictures=(*gap_pictures(final.gap_rows), *report.pictures),
        facts={**report.facts, **gap_facts(final.gap_rows, final.share)},
    )
