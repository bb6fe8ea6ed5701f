"""The report of a diagnosis: a verdict for each encoder with reasons and advice, then all numbers, side by side."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lwcl.diagnosis.tables import Finding, tables
from lwcl.diagnosis.verdict import WORDS
from lwcl.reporting.report import Picture, Report
from lwcl.settings import Settled

SICK = frozenset({"collapsed", "partly-collapsed", "over-clustered"})


def diagnosis_report(
    findings: Sequence[Finding],
    pictures: Sequence[Picture],
    *,
    facts: Mapping[str, Any],
    settled: Mapping[str, Settled],
    environment: Mapping[str, Any],
    command: str,
) -> Report:
    """The report of `lwcl diagnose-clustering` on encoders, in the order given."""
    return Report(
        kind="diagnose-clustering",
        title="Clusters of " + ", ".join([one.name for one in findings if one.role == "encoder"] or [findings[0].name]),
        verdict=" ".join(sentence(one) for one in findings if one.verdict) or "Untrained encoders have no verdict.",
        tables=tuple(table for table in tables(findings) if table.rows),
        pictures=tuple(pictures),
        facts={**facts, "encoders": [plain(one) for one in findings]},
        settings=settled,
        environment=environment,
        command=command,
    )


def plain(value: Any) -> Any:
    """A value for JSON: named tuples as mappings, and so what they hold."""
    if hasattr(value, "_asdict"):
        return {name: plain(item) for name, item in value._asdict().items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def sentence(one: Finding) -> str:
    """An encoder's verdict in a few sentences: the word, what it means, and the first reason."""
    assert one.verdict
    first = f" {one.verdict.reasons[0]}" if one.verdict.reasons else ""
    return f"{headline(one)}{first}"


def headline(one: Finding) -> str:
    """The word of a verdict, how sure it is, and what it means."""
    assert one.verdict
    return f"{one.name}: {one.verdict.word} (sureness: {one.verdict.sureness}). {WORDS[one.verdict.word]}"


def lines(findings: Sequence[Finding]) -> Iterator[str]:
    """What the screen says below the table: each verdict with its reasons and what to try."""
    for one in (one for one in findings if one.verdict):
        assert one.verdict
        yield headline(one)
        yield from (f"  {reason}" for reason in one.verdict.reasons)
        yield from (f"  Try {advice.setting}: {advice.why} ({advice.source})." for advice in one.verdict.advice)


def sick(findings: Sequence[Finding]) -> list[Finding]:
    """The encoders that were asked about and are sick."""
    return [one for one in findings if one.role == "encoder" and one.verdict and one.verdict.word in SICK]
