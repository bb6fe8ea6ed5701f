"""What a finished run leaves: the encoder, its export to plain timm, a kNN score where there are labels, the report."""

import dataclasses
from collections.abc import Iterable, Mapping

from lwcl.checkpoints.encoder_file import save_encoder
from lwcl.checkpoints.export_folder import export_encoder, usage_text
from lwcl.errors import DataError
from lwcl.evaluation.evaluator import Evaluator
from lwcl.formatting import escape
from lwcl.reporting.console import Screen, print_json, print_table
from lwcl.reporting.distillation import gap_facts, gap_pictures, gap_table, gap_verdict
from lwcl.reporting.knn import accuracy_verdict, knn_table
from lwcl.reporting.model_card import render_model_card
from lwcl.reporting.report import Picture, Report
from lwcl.reporting.training import NOTHING_MEASURED, run_headline
from lwcl.runs.folder import RunFolder
from lwcl.system.atomic_files import sha256_file, write_atomically
from lwcl.training.final_scores import FinalScores, final_scores, no_scores
from lwcl.training.post_training import bits_table, bits_verdict, compare_bits, needs_training
from lwcl.training.run_report import run_report
from lwcl.training.state import TrainingState

Timing = Mapping[str, float | None]
VERIFIED_FILES = (
    "encoder.safetensors",
    "export/model.safetensors",
    "export/config.json",
    "export/encoder.safetensors",
)  # what `lwcl verify` looks at


def finalize_run(
    training: TrainingState,
    folder: RunFolder,
    screen: Screen,
    timing: Timing,
    *,
    as_json: bool,
    pictures: Iterable[Picture] = (),
) -> int:
    """Writes encoder, export and report, evaluates if there are labels, prints the paths; returns the exit code.

    An error of evaluating is raised after the report is written, unless the images are to blame: then it is printed.
    """
    student = training.net.student
    trained = training.loaded(str(folder.path))
    save_encoder(folder.encoder, student, training.input_spec, trained.metadata)
    export_encoder(folder.export, student, training.input_spec, trained.metadata)
    failure: Exception | None = None
    try:
        final = final_scores(training, folder, screen)
    except Exception as error:  # whatever it is, hours of training are behind us: the report comes first
        failure, final = error, no_scores(error)
    rows, report = final.rows, finished_report(training, folder, timing, final, pictures)
    report = add_bits(report, training, final.evaluator)
    card = render_model_card(folder.path.resolve().name, student.arch, trained.metadata, rows, training.config.values)
    write_atomically(folder.export / "README.md", card)
    report.write(folder.path)
    if as_json:
        print_json(report.document())
    else:
        for table in report.tables[: bool(rows) + bool(final.gap_rows) + (training.net.student.bits is not None)]:
            print_table(table.title, table.columns, table.rows)
    screen.say(
        f"{report.verdict}\nReport: {escape(folder.report_html)}\nEncoder: {escape(folder.encoder)}\n"
        f"{usage_text(folder.export, student)}"
    )
    if failure and not isinstance(failure, DataError):
        raise failure
    return 0


def finished_report(
    training: TrainingState, folder: RunFolder, timing: Timing, final: FinalScores, pictures: Iterable[Picture]
) -> Report:
    """The report of a run that is done, whose encoder and export are in its folder."""
    student, facts = training.net.student, training.loaded(str(folder.path)).metadata
    facts |= {
        "architecture": student.arch,
        "parameters of the backbone": sum(p.numel() for p in student.backbone.parameters()),
        "width of the features": student.width,
        "precision": "bfloat16 autocast" if training.compute.autocast else "float32",
        "device": str(training.compute.device),
        "SHA-256": {name: sha256_file(folder.path / name) for name in VERIFIED_FILES if (folder.path / name).exists()},
        "knn": [row._asdict() for row in final.rows],
        "judged images": final.judged_images,
    }
    report = run_report(training, folder, timing, facts)
    report = dataclasses.replace(report, pictures=(*pictures, *report.pictures))
    return add_scores(report, final)


def add_bits(report: Report, training: TrainingState, evaluator: Evaluator | None) -> Report:
    """The report of a student of few bits, preceded by what quantisation without training gives."""
    bits = training.net.student.bits
    if bits is None:
        return report
    rows = compare_bits(training, bits, evaluator)
    text = report.verdict if needs_training(training) else report.verdict.replace(NOTHING_MEASURED, "").strip()
    return dataclasses.replace(
        report,
        verdict=f"{bits_verdict(rows)}\n{text}".strip(),
        tables=(bits_table(rows), *report.tables),
        facts={**report.facts, "few_bits": [row._asdict() for row in rows]},
    )


def add_scores(report: Report, final: FinalScores) -> Report:
    """The report, preceded by the kNN accuracy of the encoders and the comparison of a student with its teacher."""
    if final.missing:
        return dataclasses.replace(report, verdict=f"{report.verdict}\n{escape(final.missing)}")
    if not final.rows:
        return report
    gained = "\n".join(map(escape, (accuracy_verdict(final.rows[:1], final.images), *final.notes)))
    if gain := final.rows[0].gain:
        gained = f"{escape(run_headline(gain, report.verdict))}\n{gained}"
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
