"""A model card (Mitchell et al., arXiv 1810.03993) for an export: what it is, how it was made, what it is worth."""

from collections.abc import Mapping, Sequence
from typing import Any

from lwcl.formatting import escape, percent
from lwcl.reporting.knn import EncoderResult, format_gain, format_interval
from lwcl.settings import SettingValue

CARD_LIMITS = """\
* It knows what images show that are like those it was trained on, and may know little of others. Judge it on your own
  with `lwcl knn` and `lwcl probe`.
* A score on images of the training set's kind says nothing about other kinds, nor about fairness between groups.
* A teacher's faults and licence terms pass on to its student.
"""


def render_model_card(
    name: str, arch: str, facts: Mapping[str, Any], rows: Sequence[EncoderResult], settled: Mapping[str, SettingValue]
) -> str:
    """The card as Markdown: `facts` are those of the encoder file, `rows` its kNN scores beside others."""
    lines = [
        "---",
        "library_name: timm",
        "tags: [image-feature-extraction, lwcl]",
        "---",
        f"# {escape_markdown(name)}",
        "",
    ]
    lines += [f"A {escape_markdown(arch)} backbone for timm, written by lwcl.", "", "## Training", ""]
    told = {key: value for key, value in sorted(facts.items()) if not isinstance(value, dict | list | tuple)}
    lines += [f"* {escape_markdown(key)}: {escape_markdown(value)}" for key, value in told.items()]
    if rows:
        lines += ["", "## kNN on held-out images", ""]
        lines += ["| encoder | top-1 | 95% interval | above untrained |", "|---|---|---|---|"]
        for row in rows:
            gain = format_gain(row.gain) if row.gain else ""
            lines.append(
                f"| {escape_markdown(row.name)} | {percent(row.top1)} | {format_interval(row.top1_interval)} | {gain} |"
            )
    lines += ["", "## Limits", "", CARD_LIMITS]
    if settled:
        lines += ["## Settings", "", "| setting | value | from |", "|---|---|---|"]
        lines += [
            f"| {key} | {escape_markdown(one.value)} | {escape_markdown(str(one.origin))} |"
            for key, one in settled.items()
        ]
    return "\n".join(lines).rstrip() + "\n"


def escape_markdown(value: Any) -> str:
    """Text of users, or a list of such, as Markdown that means nothing: no markup, HTML, table cells or links."""
    text = escape(", ".join(map(str, value)) if isinstance(value, list | tuple) else value)
    text = "".join(f"\\{letter}" if letter in "\\`*_{}[]<>()#+!|~&" else letter for letter in text)
    return text.replace("://", ":\\//").replace("www.", "www\\.")
