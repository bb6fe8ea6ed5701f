"""What a finished run leaves: the encoder, its export to plain timm, a kNN score where there are labels, the report."""

import dataclasses
from collections.abc import Mapping

from lwcl.checkpoints.encoder_file import export_timm, save_encoder, snippet
from lwcl.formatting import harmless
from lwcl.reporting.console import Screen, print_json, print_table
from lwcl.reporting.distillation import gap_facts, gap_pictures, gap_table, gap_verdict
from lwcl.reporting.knn import scores, verdict
from lwcl.reporting.model_card import card
from lwcl.reporting.report import Report
from lwcl.reporting.training import training_report
from lwcl.runs.folder import RunFolder
from lwcl.system.atomic_files import sha256_file, write_atomically
from lwcl.system.device import command_line
from lwcl.system.environment import environment
from lwcl.training.dry_run import sample_views
from lwcl.training.final_scores import Final, final_scores
from lwcl.training.state import Training

Timing = Mapping[str, float | None]
KEPT = ("encoder.safetensors", "export/model.safetensors", "export/config.json")  # what `lwcl verify` looks at


def finish(training: Training, folder: RunFolder, screen: Screen, timing: Timing, *, as_json: bool) -> int:
    """Writes encoder, export and report, judges where labels allow, says where things are; gives the exit code."""
    student = training.net.student
    trained = training.loaded(str(folder.path))
    save_encoder(folder.encoder, student, training.takes, trained.facts)
    export_timm(folder.export, student, training.takes)
    final = final_scores(training, folder, screen)
    rows = final.rows
    facts = trained.facts | {
        "architecture": student.arch,
        "parameters of the backbone": sum(p.numel() for p in student.backbone.parameters()),
        "width of the features": student.width,
        "precision": "bfloat16 autocast" if training.compute.autocast else "float32",
        "device": str(training.compute.device),
        "SHA-256": {name: sha256_file(folder.path / name) for name in KEPT},
    }
    report = training_report(
        training.plan.verb,
        f"{facts['method']} on {student.arch}",
        folder.metrics(),
        settled=training.plan.settled,
        facts=facts | {"knn": [row._asdict() for row in rows]},
        environment=environment(),
        command=command_line(),
        timing=timing,
        samples=sample_views(training.loader),
    )
    report = with_scores(report, final)
    made = card(folder.path.resolve().name, student.arch, trained.facts, rows, training.plan.settled)
    write_atomically(folder.export / "README.md", made)
    report.write(folder.path)
    if as_json:
        print_json(report.document())
    else:
        for table in report.tables[: bool(rows) + bool(final.standings)]:
            print_table(table.title, table.columns, table.rows)
    screen.say(
        f"{harmless(report.verdict)}\nReport: {harmless(folder.report_html)}\nEncoder: {harmless(folder.encoder)}\n"
        f"Use it in plain timm:\n{snippet(folder.export, student.width)}"
    )
    return 0


def with_scores(report: Report, final: Final) -> Report:
    """The report with the scores of the encoders first, and a student's place beside its teacher."""
    if not final.rows:
        return report
    told = verdict(final.rows[:1], final.images)
    report = dataclasses.replace(
        report, verdict=f"{told} {report.verdict}", tables=(scores(final.rows), *report.tables)
    )
    if not final.standings:
        return report
    return dataclasses.replace(
        report,
        verdict=f"{gap_verdict(final.standings, final.share)} {report.verdict}",
        tables=(report.tables[0], gap_table(final.standings), *report.tables[1:]),
        pictures=(*gap_pictures(final.standings), *report.pictures),
        facts={**report.facts, **gap_facts(final.standings, final.share)},
    )
