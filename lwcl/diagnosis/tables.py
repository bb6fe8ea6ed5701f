"""The tables of a diagnosis: every measure of several encoders side by side, with what it means."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from lwcl.diagnosis.columns import CLUSTERS, HELD_OUT, NEIGHBOURS_RIGHT, NOTES, OVERVIEW, SIDE_BY_SIDE, Column
from lwcl.diagnosis.verdict import Evidence, Verdict
from lwcl.reporting.report import Table


class Numbers(NamedTuple):
    """All that was measured on an encoder, as JSON values except the evidence."""

    classes: int | None  # None: no labels
    evidence: Evidence
    pairs: Mapping[str, Any]  # ssl-small's table: `measures.pairs.PairMetrics`
    clusters: Sequence[Mapping[str, Any]]  # a row for each k: `measures.clusters.ClusterRow`
    spectrum: Mapping[str, float]  # `measures.spectrum.Spectrum` without its values
    neighbourhood: Mapping[str, Any]  # `measures.neighbourhood.Neighbourhood`
    overlap: Sequence[Mapping[str, Any]]  # how near two views are, by how much their crops overlap
    held_out: Mapping[str, Any]  # empty without held-out images


class Finding(NamedTuple):
    """What was found out about an encoder; an untrained one is a measure for others and has no verdict."""

    name: str
    arch: str
    role: str  # encoder, teacher or untrained
    views: str  # what its random views were
    numbers: Numbers
    verdict: Verdict | None


def overview(findings: Sequence[Finding]) -> Table:
    """What the screen shows: a row for each encoder."""
    rows = tuple(
        (one.name, word(one), *cells(one, OVERVIEW), *at_classes(one), cell(one, NEIGHBOURS_RIGHT)) for one in findings
    )
    columns = ("Encoder", "Verdict", *titles(OVERVIEW), "NMI", "Clusters/class", NEIGHBOURS_RIGHT.title)
    return with_something("Clusters", columns, rows, NOTES["overview"])


def tables(findings: Sequence[Finding]) -> Iterator[Table]:
    """All tables of the report, some perhaps without rows."""
    yield overview(findings)
    yield from verdicts(findings)
    for title, columns in SIDE_BY_SIDE.items():
        shown = [one for one in findings if columns is not HELD_OUT or one.numbers.held_out]
        yield side_by_side(title, columns, shown, NOTES[title])
    yield from (sweep_of(one, NOTES["clusters"] if one is findings[0] else "") for one in findings)
    yield overlaps(findings)
    yield evidence(findings)


def sweep_of(one: Finding, note: str) -> Table:
    """An encoder's clusters for each k."""
    columns = tuple(title for title, _ in CLUSTERS.values())
    rows = [[scaled(row[name], share) for name, (_, share) in CLUSTERS.items()] for row in one.numbers.clusters]
    return with_something(f"Clusters of {one.name}", columns, rows, note)


def evidence(findings: Sequence[Finding]) -> Table:
    """What the verdicts look at, a row for each measure."""
    told = [one.numbers.evidence._asdict() for one in findings]
    known = [name for name in Evidence._fields if any(values[name] is not None for values in told)]
    rows = tuple((name.replace("_", " "), *(scaled(values[name]) for values in told)) for name in known)
    return Table("What the verdicts look at", ("Measure", *(one.name for one in findings)), rows, NOTES["evidence"])


def overlaps(findings: Sequence[Finding]) -> Table:
    """How near two views are, by how much of the image both show."""
    told = [(one.name, row) for one in findings for row in one.numbers.overlap]
    rows = tuple((name, row["band"], row["pairs"], scaled(row["alignment"])) for name, row in told)
    columns = ("Encoder", "Overlap", "Images", "Alignment")
    return Table("Views by the overlap of their crops", columns, rows, NOTES["overlap"])


def verdicts(findings: Sequence[Finding]) -> Iterator[Table]:
    """What the verdicts rest on, and what to try."""
    told = [(one.name, one.verdict) for one in findings if one.verdict]
    reasons = [(name, verdict, reason) for name, verdict in told for reason in verdict.reasons]
    rows = tuple((name, verdict.word, verdict.sureness, reason) for name, verdict, reason in reasons)
    yield Table("Why", ("Encoder", "Verdict", "Sureness", "Reason"), rows)
    advice = tuple((name, one.setting, one.why, one.source) for name, verdict in told for one in verdict.advice)
    yield Table("What to try", ("Encoder", "Setting", "Why", "Source"), advice)


def side_by_side(title: str, columns: Sequence[Column], findings: Sequence[Finding], note: str) -> Table:
    """A table of one row an encoder."""
    rows = [(one.name, *cells(one, columns)) for one in findings]
    return with_something(title, ("Encoder", *titles(columns)), rows, note)


def with_something(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], note: str) -> Table:
    """A table without the columns that hold nothing: those that need labels, where there are none."""
    kept = [place for place in range(len(columns)) if any(row[place] is not None for row in rows)]
    shown, *rest = [tuple(row[place] for place in kept) for row in (columns, *rows)]
    return Table(title, shown, tuple(rest), note)


def titles(columns: Sequence[Column]) -> tuple[str, ...]:
    """The titles of columns."""
    return tuple(column.title for column in columns)


def cells(one: Finding, columns: Sequence[Column]) -> tuple[Any, ...]:
    """An encoder's numbers in these columns."""
    return tuple(cell(one, column) for column in columns)


def cell(one: Finding, column: Column) -> Any:
    """An encoder's number in a column."""
    value = getattr(one.numbers, column.part).get(column.name)
    if column.place is not None and value is not None:
        value = value[column.place]
    return scaled(value, column.share)


def scaled(value: Any, share: bool = False) -> Any:
    """A number with three decimals, or a share in percent with one; None for what is not known."""
    if isinstance(value, int) or value is None or not math.isfinite(value):
        return value if isinstance(value, int) else None
    return round(100 * value, 1) if share else round(value, 3)


def word(one: Finding) -> str:
    """An encoder's verdict in a word, or what it is there for."""
    return one.verdict.word if one.verdict else one.role


def at_classes(one: Finding) -> tuple[Any, Any]:
    """NMI and clusters a class for as many clusters as classes; None without classes."""
    rows = [row for row in one.numbers.clusters if row["k"] == one.numbers.classes]
    return (scaled(rows[0]["nmi"]), scaled(rows[0]["clusters_per_class"])) if rows else (None, None)
