"""`lwcl diagnose-clustering`: whether encoders over-cluster or collapse, why, and what to try; labels are optional."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from lwcl.config.eval_options import DiagnoseOptions
from lwcl.diagnosis.advice import advice_for_run
from lwcl.diagnosis.diagnosis_data import DiagnosisData, open_diagnosis_data
from lwcl.diagnosis.encoder_metrics import DiagnosisScope
from lwcl.diagnosis.plots.pictures import (
    EncoderPictures,
    PictureData,
    diagnosis_pictures,
    points_per_map,
    queries_per_sheet,
)
from lwcl.diagnosis.report import diagnosis_report, unhealthy_diagnoses, verdict_lines
from lwcl.diagnosis.results import EncoderFinding, EncoderMetrics
from lwcl.diagnosis.subjects import DiagnosisSubject, load_subjects
from lwcl.diagnosis.tables import overview_table
from lwcl.diagnosis.verdict import clustering_verdict
from lwcl.errors import TrainingDivergedError
from lwcl.evaluation.eval_data import with_own_data
from lwcl.evaluation.publish import publish
from lwcl.evaluation.subjects import baselines
from lwcl.reporting.console import Screen
from lwcl.reporting.report import Report
from lwcl.runs.folder import report_folder
from lwcl.settings import recorded_settings
from lwcl.system.limits import usable_cpus


def run_diagnosis(encoders: list[str], options: DiagnoseOptions, *, as_json: bool = False, quiet: bool = False) -> int:
    """Examines the encoders, prints a table and verdicts or JSON, writes a report; returns the exit code.

    Raises `TrainingDivergedError` under `--strict` if one of them is unhealthy, after the report is written.
    """
    screen = Screen(quiet=quiet)
    torch.set_num_threads(options.threads or usable_cpus())
    subjects = load_subjects(encoders, options)
    if len({subject.augmentation for subject in subjects}) > 1:
        screen.warn(
            "Each encoder is examined in the views of its own run, so metrics are not comparable: "
            "use --views ssl-small."
        )
    options = with_own_data(options, encoders, screen)
    data = open_diagnosis_data(options, screen)
    scope = DiagnosisScope(options.seed, options.k, points_per_map(len(subjects)), queries_per_sheet(len(subjects)))
    metrics, picture_data = zip(*(data.examine(subject, scope) for subject in subjects), strict=True)
    findings = list(build_findings(subjects, metrics))
    report = build_report(data, subjects, findings, picture_data)
    publish(
        report,
        screen,
        report_folder(options.out, encoders, "diagnosis", report.facts),
        asked=bool(options.out),
        tables=[overview_table(findings)],
        lines=verdict_lines(findings),
        as_json=as_json,
        broken=data.broken,
    )
    if options.strict and (unhealthy := unhealthy_diagnoses(findings)):
        raise TrainingDivergedError(
            f"{', '.join(unhealthy)}.",
            "The reasons are above and in the report.",
            "Without --strict the exit code is 0.",
        )
    return 0


def build_findings(subjects: Sequence[DiagnosisSubject], metrics: Sequence[EncoderMetrics]) -> Iterator[EncoderFinding]:
    """The verdict on each encoder, compared with its untrained baseline and the teacher."""
    evidence = [one.evidence for one in metrics]
    teacher = next((known for subject, known in zip(subjects, evidence, strict=True) if subject.is_teacher), None)
    for subject, one, untrained in zip(subjects, metrics, baselines(subjects, evidence), strict=True):
        compared = teacher if subject.role == "encoder" else None
        verdict = clustering_verdict(one.evidence, untrained=untrained, teacher=compared)
        advice = advice_for_run(verdict.advice, Path(subject.loaded.name))
        yield EncoderFinding(
            subject.loaded.name,
            subject.loaded.encoder.arch,
            subject.role,
            subject.views,
            one,
            None if subject.role == "untrained" else verdict._replace(advice=advice),
        )


def build_report(
    data: DiagnosisData,
    subjects: Sequence[DiagnosisSubject],
    findings: Sequence[EncoderFinding],
    picture_data: Sequence[PictureData],
) -> Report:
    """The report of a diagnosis."""
    shown = [
        EncoderPictures(one.name, data, one.metrics.clusters) for one, data in zip(findings, picture_data, strict=True)
    ]
    pictures = []
    with data.screen.counting("Plots") as counting:
        for picture in diagnosis_pictures(shown, data.album(subjects[0]), data.options.seed):
            pictures.append(picture)
            counting.advance()
    facts = {
        "images": len(data.images),
        "held-out images": len(data.held_out) if data.held_out else 0,
        "classes": len(data.images.classes) if data.labels is not None else 0,
        "copies": len(data.images) - (len(data.images) if data.distinct is None else len(data.distinct)),
        "broken images": len(data.broken),
        "data": data.images.fingerprint,
        "test data": data.held_out.fingerprint if data.held_out else None,
        "evaluated on": list(data.options.data),
        "pixels": sorted({subject.loaded.input_spec.size for subject in subjects}),
    }
    return diagnosis_report(findings, pictures, facts=facts, settings=recorded_settings(data.options))
