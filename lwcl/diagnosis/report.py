"""The report of a diagnosis: a verdict for each encoder with reasons and advice, then all metrics side by side."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lwcl.diagnosis.results import EncoderFinding
from lwcl.diagnosis.tables import diagnosis_tables, key_numbers, verdict_tables
from lwcl.diagnosis.verdict import VERDICT_MEANINGS, Verdict
from lwcl.reporting.report import Picture, Report
from lwcl.settings import SettingValue

UNHEALTHY = frozenset({"collapsed", "partly-collapsed", "over-clustered"})


def diagnosis_report(
    findings: Sequence[EncoderFinding],
    pictures: Sequence[Picture],
    *,
    facts: Mapping[str, Any],
    settings: Mapping[str, SettingValue],
) -> Report:
    """The report of `lwcl diagnose-clustering` on encoders, in the order given."""
    names = [one.name for one in findings if one.role == "encoder"] or [findings[0].name]
    summaries = [
        " ".join([verdict_headline(one.name, one.verdict), *one.verdict.reasons[:1]]) for one in findings if one.verdict
    ]
    return Report(
        kind="diagnose-clustering",
        title="Clusters of " + ", ".join(names),
        verdict=" ".join(summaries) or "Untrained encoders have no verdict.",
        tables=tuple(table for table in (key_numbers(findings), *verdict_tables(findings)) if table.rows),
        details=tuple(table for table in diagnosis_tables(findings) if table.rows),
        lead=2,
        pictures=tuple(pictures),
        facts={**facts, "encoders": [to_json_values(one) for one in findings]},
        settings=settings,
    )


def to_json_values(value: Any) -> Any:
    """A value for JSON: named tuples as mappings, recursively."""
    if hasattr(value, "_asdict"):
        return {name: to_json_values(item) for name, item in value._asdict().items()}
    return [to_json_values(item) for item in value] if isinstance(value, list | tuple) else value


def verdict_headline(name: str, verdict: Verdict) -> str:
    """A verdict, its confidence, and what it means: `run1: healthy (confidence: high). Images of ...`."""
    return f"{name}: {verdict.diagnosis} (confidence: {verdict.confidence}). {VERDICT_MEANINGS[verdict.diagnosis]}"


def verdict_lines(findings: Sequence[EncoderFinding]) -> Iterator[str]:
    """What the terminal shows below the table: each verdict with its reasons and advice."""
    for name, verdict in ((one.name, one.verdict) for one in findings if one.verdict):
        yield verdict_headline(name, verdict)
        yield from (f"  {reason}" for reason in verdict.reasons)
        for advice in verdict.advice:
            yield f"  Try {advice.setting}: {advice.why} ({advice.source})."
            if advice.command:
                yield f"    {advice.command}"


def unhealthy_diagnoses(findings: Sequence[EncoderFinding]) -> list[str]:
    """The encoders named by the user that are unhealthy, each with its diagnosis: `run1 is collapsed`."""
    verdicts = [(one.name, one.verdict) for one in findings if one.role == "encoder" and one.verdict]
    return [f"{name} is {verdict.diagnosis}" for name, verdict in verdicts if verdict.diagnosis in UNHEALTHY]
