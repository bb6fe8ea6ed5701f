"""`lwcl diagnose-clustering`: whether encoders over-cluster or collapse, why, and what to try; labels are optional."""

import dataclasses
import sys
from pathlib import Path

import torch

from lwcl.config.eval_options import DiagnoseOptions
from lwcl.diagnosis.findings import DiagnosisScope
from lwcl.diagnosis.plots.pictures import (
    EncoderPictures,
    PictureData,
    diagnosis_pictures,
    points_per_map,
    queries_per_sheet,
)
from lwcl.diagnosis.report import diagnosis_report, unhealthy_findings, verdict_lines
from lwcl.diagnosis.study import Study, open_study
from lwcl.diagnosis.subjects import Subject, load_subjects
from lwcl.diagnosis.tables import EncoderFinding, EncoderMetrics, overview_table
from lwcl.diagnosis.verdict import Evidence
from lwcl.diagnosis.verdict import clustering_verdict as verdict_on
from lwcl.errors import TrainingDivergedError
from lwcl.formatting import escape
from lwcl.reporting.console import Screen, print_json, print_table, write_line
from lwcl.reporting.report import Report
from lwcl.settings import recorded_value
from lwcl.system.cpu import usable_cpus
from lwcl.system.device import current_command
from lwcl.system.environment import describe_environment


def run_diagnosis(encoders: list[str], options: DiagnoseOptions, *, as_json: bool = False, quiet: bool = False) -> int:
    """Examines the encoders, prints a table and verdicts or JSON, writes a report; gives the exit code.

    Raises `TrainingDivergedError` under `--strict` if one of them is sick, when all is said and written.
    """
    screen = Screen(quiet=quiet)
    torch.set_num_threads(options.threads or usable_cpus())
    subjects = load_subjects(encoders, options)
    if len({one.augmentation for one in subjects}) > 1:
        screen.warn("The encoders are seen in different views, each in its run's: --views ssl-small compares them.")
    study = open_study(options, screen)
    scope = DiagnosisScope(options.seed, options.k, points_per_map(len(subjects)), queries_per_sheet(len(subjects)))
    told = [study.examine(one, scope) for one in subjects]
    findings = build_findings(subjects, [numbers for numbers, _ in told])
    report = build_diagnosis_report(study, subjects, findings, [sketch for _, sketch in told])
    print_diagnosis(report, findings, study, as_json=as_json)
    if place := diagnosis_report_folder(options.out, encoders):
        report.write(place)
        screen.say(f"Report: {escape(place / 'report.html')}")
    if options.strict and (ill := unhealthy_findings(findings)):
        names = ", ".join(f"{one.name} is {one.verdict.word}" for one in ill if one.verdict)
        raise TrainingDivergedError(
            f"{names}.", "The reasons are above and in the report.", "Leave --strict out to end with 0."
        )
    return 0


def build_findings(subjects: list[Subject], numbers: list[EncoderMetrics]) -> list[EncoderFinding]:
    """The verdict on each, beside the untrained encoder of its kind and the teacher."""
    untrained: dict[object, Evidence] = {}
    teacher = None
    for subject, found in zip(subjects, numbers, strict=True):
        if subject.role == "untrained":
            untrained.setdefault(subject.kind, found.evidence)
        teacher = found.evidence if subject.role == "teacher" else teacher
    findings = []
    for subject, found in zip(subjects, numbers, strict=True):
        beside = {"random": untrained.get(subject.kind), "teacher": teacher if subject.role == "encoder" else None}
        verdict = None if subject.role == "untrained" else verdict_on(found.evidence, **beside)
        arch = subject.loaded.encoder.arch
        findings.append(EncoderFinding(subject.loaded.name, arch, subject.role, subject.views, found, verdict))
    return findings


def build_diagnosis_report(
    study: Study, subjects: list[Subject], findings: list[EncoderFinding], sketches: list[PictureData]
) -> Report:
    """The report of what was found."""
    shown = [
        EncoderPictures(one.name, sketch, one.numbers.clusters) for one, sketch in zip(findings, sketches, strict=True)
    ]
    with study.screen.counting("Pictures") as counting:
        drawn = []
        for picture in diagnosis_pictures(shown, study.album(subjects[0]), study.options.seed):
            drawn.append(picture)
            counting.advance()
    settings = dataclasses.asdict(study.options)
    return diagnosis_report(
        findings,
        drawn,
        facts={
            "images": len(study.images),
            "held-out images": len(study.held) if study.held else 0,
            "classes": len(study.images.classes) if study.labels is not None else 0,
            "broken images": len(study.broken),
            "data": study.images.fingerprint,
        },
        settled={name: recorded_value(value) for name, value in settings.items()},
        environment=describe_environment(),
        command=current_command(),
    )


def print_diagnosis(report: Report, findings: list[EncoderFinding], study: Study, *, as_json: bool) -> None:
    """Prints what was found on stdout."""
    if study.broken:
        study.screen.warn(f"Broken images, replaced by the next good ones: {len(study.broken)}.")
    if as_json:
        print_json(report.document())
        return
    shown = overview_table(findings)
    print_table(shown.title, shown.columns, shown.rows)
    for line in verdict_lines(findings):
        write_line(escape(line), sys.stdout)


def diagnosis_report_folder(out: str | None, encoders: list[str]) -> Path | None:
    """Where the report goes: `--out`, else `diagnosis/` in the first run folder that is examined, else nowhere."""
    runs = [Path(name) for name in encoders if (Path(name) / "config.yaml").exists()]
    return Path(out) if out else runs[0] / "diagnosis" if runs else None
