"""The tables of a diagnosis: every measure of several encoders side by side, with what it means."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from lwcl.diagnosis.columns import (
    CLUSTER_COLUMNS,
    COMPARISON_TABLES,
    HELD_OUT_COLUMNS,
    OVERVIEW_COLUMNS,
    SAME_CLASS_COLUMN,
    TABLE_NOTES,
    Column,
)
from lwcl.diagnosis.verdict import Evidence, Verdict
from lwcl.reporting.report import Table


class EncoderMetrics(NamedTuple):
    """All that was measured on an encoder, as JSON values except the evidence."""

    classes: int | None  # None: no labels
    evidence: Evidence
    pairs: Mapping[str, Any]  # ssl-small's table: `measures.pairs.PairMetrics`
    clusters: Sequence[Mapping[str, Any]]  # a row for each k: `measures.clusters.ClusterRow`
    spectrum: Mapping[str, float]  # `measures.spectrum.Spectrum` without its values
    neighbourhood: Mapping[str, Any]  # `measures.neighbourhood.Neighbourhood`
    overlap: Sequence[Mapping[str, Any]]  # how near two views are, by how much their crops overlap
    held_out: Mapping[str, Any]  # empty without held-out images


class EncoderFinding(NamedTuple):
    """What was found out about an encoder; an untrained one is a measure for others and has no verdict."""

    name: str
    arch: str
    role: str  # encoder, teacher or untrained
    views: str  # what its random views were
    numbers: EncoderMetrics
    verdict: Verdict | None


def overview_table(findings: Sequence[EncoderFinding]) -> Table:
    """What the screen shows: a row for each encoder."""
    rows = tuple(
        (
            one.name,
            verdict_word(one),
            *row_values(one, OVERVIEW_COLUMNS),
            *metrics_at_class_count(one),
            cell_value(one, SAME_CLASS_COLUMN),
        )
        for one in findings
    )
    columns = ("Encoder", "Verdict", *column_titles(OVERVIEW_COLUMNS), "NMI", "Clusters/class", SAME_CLASS_COLUMN.title)
    return without_empty_columns("Clusters", columns, rows, TABLE_NOTES["overview"])


def diagnosis_tables(findings: Sequence[EncoderFinding]) -> Iterator[Table]:
    """All tables of the report, some perhaps without rows."""
    yield overview_table(findings)
    yield from verdict_tables(findings)
    for title, columns in COMPARISON_TABLES.items():
        shown = [one for one in findings if columns is not HELD_OUT_COLUMNS or one.numbers.held_out]
        yield comparison_table(title, columns, shown, TABLE_NOTES[title])
    yield from (cluster_table(one, TABLE_NOTES["clusters"] if one is findings[0] else "") for one in findings)
    yield overlap_table(findings)
    yield evidence_table(findings)


def cluster_table(one: EncoderFinding, note: str) -> Table:
    """An encoder's clusters for each k."""
    columns = tuple(title for title, _ in CLUSTER_COLUMNS.values())
    rows = [
        [round_value(row[name], share) for name, (_, share) in CLUSTER_COLUMNS.items()] for row in one.numbers.clusters
    ]
    return without_empty_columns(f"Clusters of {one.name}", columns, rows, note)


def evidence_table(findings: Sequence[EncoderFinding]) -> Table:
    """What the verdicts look at, a row for each measure."""
    told = [one.numbers.evidence._asdict() for one in findings]
    known = [name for name in Evidence._fields if any(values[name] is not None for values in told)]
    rows = tuple((name.replace("_", " "), *(round_value(values[name]) for values in told)) for name in known)
    return Table(
        "What the verdicts look at", ("Measure", *(one.name for one in findings)), rows, TABLE_NOTES["evidence"]
    )


def overlap_table(findings: Sequence[EncoderFinding]) -> Table:
    """How near two views are, by how much of the image both show."""
    told = [(one.name, row) for one in findings for row in one.numbers.overlap]
    rows = tuple((name, row["band"], row["pairs"], round_value(row["alignment"])) for name, row in told)
    columns = ("Encoder", "Overlap", "Images", "Alignment")
    return Table("Views by the overlap of their crops", columns, rows, TABLE_NOTES["overlap"])


def verdict_tables(findings: Sequence[EncoderFinding]) -> Iterator[Table]:
    """What the verdicts rest on, and what to try."""
    told = [(one.name, one.verdict) for one in findings if one.verdict]
    reasons = [(name, verdict, reason) for name, verdict in told for reason in verdict.reasons]
    rows = tuple((name, verdict.word, verdict.sureness, reason) for name, verdict, reason in reasons)
    yield Table("Why", ("Encoder", "Verdict", "Sureness", "Reason"), rows)
    advice = tuple((name, one.setting, one.why, one.source) for name, verdict in told for one in verdict.advice)
    yield Table("What to try", ("Encoder", "Setting", "Why", "Source"), advice)


def comparison_table(title: str, columns: Sequence[Column], findings: Sequence[EncoderFinding], note: str) -> Table:
    """A table of one row an encoder."""
    rows = [(one.name, *row_values(one, columns)) for one in findings]
    return without_empty_columns(title, ("Encoder", *column_titles(columns)), rows, note)


def without_empty_columns(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], note: str) -> Table:
    """A table without the columns that hold nothing: those that need labels, where there are none."""
    kept = [place for place in range(len(columns)) if any(row[place] is not None for row in rows)]
    shown, *rest = [tuple(row[place] for place in kept) for row in (columns, *rows)]
    return Table(title, shown, tuple(rest), note)


def column_titles(columns: Sequence[Column]) -> tuple[str, ...]:
    """The titles of columns."""
    return tuple(column.title for column in columns)


def row_values(one: EncoderFinding, columns: Sequence[Column]) -> tuple[Any, ...]:
    """An encoder's numbers in these columns."""
    return tuple(cell_value(one, column) for column in columns)


def cell_value(one: EncoderFinding, column: Column) -> Any:
    """An encoder's number in a column."""
    value = getattr(one.numbers, column.part).get(column.name)
    if column.place is not None and value is not None:
        value = value[column.place]
    return round_value(value, column.share)


def round_value(value: Any, share: bool = False) -> Any:
    """A number with three decimals, or a share in percent with one; None for what is not known."""
    if isinstance(value, int) or value is None or not math.isfinite(value):
        return value if isinstance(value, int) else None
    return round(100 * value, 1) if share else round(value, 3)


def verdict_word(one: EncoderFinding) -> str:
    """An encoder's verdict in a word, or what it is there for."""
    return one.verdict.word if one.verdict else one.role


def metrics_at_class_count(one: EncoderFinding) -> tuple[Any, Any]:
    """NMI and clusters a class for as many clusters as classes; None without classes."""
    rows = [row for row in one.numbers.clusters if row["k"] == one.numbers.classes]
    return (round_value(rows[0]["nmi"]), round_value(rows[0]["clusters_per_class"])) if rows else (None, None)
