"""The report of a diagnosis: a verdict for each encoder with reasons and advice, then all numbers, side by side."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lwcl.diagnosis.tables import EncoderFinding, diagnosis_tables
from lwcl.diagnosis.verdict import VERDICT_MEANINGS
from lwcl.reporting.report import Picture, Report
from lwcl.settings import SettingValue

UNHEALTHY = frozenset({"collapsed", "partly-collapsed", "over-clustered"})


def diagnosis_report(
    findings: Sequence[EncoderFinding],
    pictures: Sequence[Picture],
    *,
    facts: Mapping[str, Any],
    settled: Mapping[str, SettingValue],
    environment: Mapping[str, Any],
    command: str,
) -> Report:
    """The report of `lwcl diagnose-clustering` on encoders, in the order given."""
    return Report(
        kind="diagnose-clustering",
        title="Clusters of " + ", ".join([one.name for one in findings if one.role == "encoder"] or [findings[0].name]),
        verdict=" ".join(verdict_sentence(one) for one in findings if one.verdict)
        or "Untrained encoders have no verdict.",
        tables=tuple(table for table in diagnosis_tables(findings) if table.rows),
        pictures=tuple(pictures),
        facts={**facts, "encoders": [to_json_values(one) for one in findings]},
        settings=settled,
        environment=environment,
        command=command,
    )


def to_json_values(value: Any) -> Any:
    """A value for JSON: named tuples as mappings, and so what they hold."""
    if hasattr(value, "_asdict"):
        return {name: to_json_values(item) for name, item in value._asdict().items()}
    return [to_json_values(item) for item in value] if isinstance(value, list | tuple) else value


def verdict_sentence(one: EncoderFinding) -> str:
    """An encoder's verdict in a few sentences: the word, what it means, and the first reason."""
    assert one.verdict
    first = f" {one.verdict.reasons[0]}" if one.verdict.reasons else ""
    return f"{verdict_headline(one)}{first}"


def verdict_headline(one: EncoderFinding) -> str:
    """The word of a verdict, how sure it is, and what it means."""
    assert one.verdict
    return f"{one.name}: {one.verdict.word} (sureness: {one.verdict.sureness}). {VERDICT_MEANINGS[one.verdict.word]}"


def verdict_lines(findings: Sequence[EncoderFinding]) -> Iterator[str]:
    """What the screen says below the table: each verdict with its reasons and what to try."""
    for one in (one for one in findings if one.verdict):
        assert one.verdict
        yield verdict_headline(one)
        yield from (f"  {reason}" for reason in one.verdict.reasons)
        yield from (f"  Try {advice.setting}: {advice.why} ({advice.source})." for advice in one.verdict.advice)


def unhealthy_findings(findings: Sequence[EncoderFinding]) -> list[EncoderFinding]:
    """The encoders that were asked about and are sick."""
    return [one for one in findings if one.role == "encoder" and one.verdict and one.verdict.word in UNHEALTHY]
