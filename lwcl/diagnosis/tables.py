"""The tables of a diagnosis: the metrics of several encoders side by side."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from lwcl.diagnosis.columns import (
    CLUSTER_COLUMNS,
    CLUSTER_NOTE,
    EVIDENCE_NOTE,
    HELD_OUT_COLUMNS,
    METRIC_TABLES,
    OVERLAP_NOTE,
    OVERVIEW_COLUMNS,
    OVERVIEW_NOTE,
    OWN_VIEW_COLUMN,
    RANK_COLUMN,
    SAME_CLASS_COLUMN,
    Column,
    Columns,
    T,
    of_at_least,
)
from lwcl.diagnosis.results import EncoderFinding, EncoderMetrics
from lwcl.diagnosis.verdict import Evidence
from lwcl.reporting.report import Table


def overview_table(findings: Sequence[EncoderFinding]) -> Table:
    """A row for each encoder; also shown on the terminal."""
    columns = ("Encoder", "Verdict", *titles(OVERVIEW_COLUMNS), "NMI", "Clusters/class", SAME_CLASS_COLUMN.title)
    rows = [
        (
            one.name,
            one.verdict.diagnosis if one.verdict else one.role,
            *cells(OVERVIEW_COLUMNS, one.metrics),
            *metrics_at_class_count(one),
            *cells([SAME_CLASS_COLUMN], one.metrics),
        )
        for one in findings
    ]
    return without_empty_columns("Clusters", columns, rows, OVERVIEW_NOTE)


def diagnosis_tables(findings: Sequence[EncoderFinding]) -> Iterator[Table]:
    """All tables of the report, some perhaps without rows."""
    yield overview_table(findings)
    for title, columns, note in METRIC_TABLES:
        shown = [one for one in findings if columns is not HELD_OUT_COLUMNS or one.metrics.held_out]
        yield metric_table(title, columns, shown, note)
    for one in findings:
        rows = [cells(CLUSTER_COLUMNS, row) for row in one.metrics.clusters]
        note = CLUSTER_NOTE if one is findings[0] else ""
        yield without_empty_columns(f"Clusters of {one.name}", titles(CLUSTER_COLUMNS), rows, note)
    yield overlap_table(findings)
    yield evidence_table(findings)


def key_numbers(findings: Sequence[EncoderFinding]) -> Table:
    """The three numbers that say the most: neighbours of the same class (or distinct groups), own views, directions."""
    known = any(one.metrics.neighbourhood.same_class is not None for one in findings)
    silhouette: Column[EncoderMetrics] = Column(
        "Silhouette of a few clusters", lambda m: m.evidence.silhouette, False, "higher", of_at_least("silhouette")
    )
    columns = (SAME_CLASS_COLUMN if known else silhouette, OWN_VIEW_COLUMN, RANK_COLUMN)
    return metric_table("Key numbers", columns, findings, "")


def metric_table(title: str, columns: Columns, findings: Sequence[EncoderFinding], note: str) -> Table:
    """A row for each measure that has a value: of each encoder, which direction is better, and what is usual."""
    values = zip(columns, zip(*(cells(columns, one.metrics) for one in findings), strict=True), strict=False)
    rows = [
        (column.title, *own, column.better or None, column.usual or None)
        for column, own in values
        if any(value is not None for value in own)
    ]
    return Table(title, ("Measure", *(one.name for one in findings), "Better", "Usual"), tuple(rows), note)


def evidence_table(findings: Sequence[EncoderFinding]) -> Table:
    """What the verdicts are based on, a row for each metric."""
    evidence = [one.metrics.evidence._asdict() for one in findings]
    known = [name for name in Evidence._fields if any(values[name] is not None for values in evidence)]
    rows = tuple((name.replace("_", " "), *(round_value(values[name]) for values in evidence)) for name in known)
    return Table("Evidence of the verdicts", ("Metric", *(one.name for one in findings)), rows, EVIDENCE_NOTE)


def overlap_table(findings: Sequence[EncoderFinding]) -> Table:
    """Alignment of two views, by the overlap of their crops."""
    rows = [
        (one.name, row.band, row.pairs, round_value(row.alignment)) for one in findings for row in one.metrics.overlap
    ]
    columns = ("Encoder", "Overlap", "Images", "Alignment")
    return Table("Alignment of views by the overlap of their crops", columns, tuple(rows), OVERLAP_NOTE)


def verdict_tables(findings: Sequence[EncoderFinding]) -> Iterator[Table]:
    """The reasons of the verdicts, and what to try."""
    verdicts = [(one.name, one.verdict) for one in findings if one.verdict]
    reasons = [
        (name, verdict.diagnosis, verdict.confidence, reason)
        for name, verdict in verdicts
        for reason in verdict.reasons
    ]
    yield Table("Reasons", ("Encoder", "Verdict", "Confidence", "Reason"), tuple(reasons))
    advice = [
        (name, one.setting, one.command, one.why, one.source) for name, verdict in verdicts for one in verdict.advice
    ]
    yield Table("What to try", ("Encoder", "Setting", "Command", "Why", "Source"), tuple(advice))


def without_empty_columns(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], note: str) -> Table:
    """A table without its empty columns: those that need labels, where there are none."""
    kept = [column for column in range(len(columns)) if any(row[column] is not None for row in rows)]
    header, *body = [tuple(row[column] for column in kept) for row in (columns, *rows)]
    return Table(title, header, tuple(body), note)


def titles(columns: Sequence[Column[T]]) -> tuple[str, ...]:
    """The titles of columns."""
    return tuple(column.title for column in columns)


def cells(columns: Sequence[Column[T]], row: T) -> tuple[Any, ...]:
    """The values of columns in a row."""
    return tuple(round_value(column.value(row), column.is_share) for column in columns)


def round_value(value: Any, is_share: bool = False) -> Any:
    """A number with three decimals, or a share in percent with one; None for what is not known."""
    if isinstance(value, int) or value is None or not math.isfinite(value):
        return value if isinstance(value, int) else None
    return round(100 * value, 1) if is_share else round(value, 3)


def metrics_at_class_count(one: EncoderFinding) -> tuple[Any, Any]:
    """NMI and clusters per class with as many clusters as classes; None without labels."""
    rows = [row for row in one.metrics.clusters if row.k == one.metrics.classes]
    return (round_value(rows[0].nmi), round_value(rows[0].clusters_per_class)) if rows else (None, None)
