"""Names, numbers, times and curves as text for people; escaping of text that comes from users."""

import json
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

SPARK_BARS = "▁▂▃▄▅▆▇█"
#: An escape in JSON text: a surrogate pair (one character), a lone surrogate (invalid UTF-8), or any other.
JSON_ESCAPE = re.compile(r"\\(?:ud[89ab]..\\ud[c-f]..|(ud[89a-f]..)|.)")


def escape(text: object) -> str:
    """`text` on one line with unprintable characters as escapes: control codes, newlines, bidi overrides, bad UTF-8.

    Names of files and classes are untrusted; this keeps them from controlling a terminal or disguising themselves.
    Backslashes stay, so escaping is idempotent. Markup stays too: whoever prints must not interpret any.
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def escape_lines(text: str) -> str:
    """`text` with its line breaks kept and each line escaped."""
    return "\n".join(escape(line) for line in text.split("\n"))


def json_text(value: Any, **layout: Any) -> str:
    """`value` as JSON that any program reads: NaN and infinities become null. `layout` as for `json.dumps`."""
    return json.dumps(json_safe(value), allow_nan=False, default=str, **layout)


def json_safe(value: Any) -> Any:
    """`value` with every float that JSON cannot hold replaced by None."""
    if isinstance(value, dict):
        return {str(key): json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


#: Of every JSON document that lwcl prints or writes; it grows when a name or a meaning changes.
SCHEMA_VERSION = 2


def json_document(value: Any) -> str:
    """`value` as indented ASCII JSON that strict parsers take: NaN becomes null, invalid UTF-8 a visible escape."""
    return JSON_ESCAPE.sub(lambda match: "\\" + match[0] if match[1] else match[0], json_text(value, indent=2))


def format_cell(value: object) -> str:
    """A table's cell as text: numbers short, nothing as `-`, lists joined by commas, text escaped."""
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 10_000 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return ", ".join(format_cell(item) for item in value) or "-"
    return escape(value)


def percent(share: float) -> str:
    """A share of 1 in percent with one decimal: `45.2%`."""
    return f"{100 * share:.1f}%" if math.isfinite(share) else "-"


def plural(count: float, noun: str, nouns: str = "") -> str:
    """A count with its noun: `1 image`, `2,000 images`, `0.25 epochs`, `3 classes` where `nouns` says `classes`."""
    number = f"{count:,}" if isinstance(count, int) else f"{count:.4g}"
    return f"{number} {noun if count == 1 else nouns or noun + 's'}"


def first_names(names: Iterable[str], limit: int) -> str:
    """The first `limit` names, then `...` if there are more."""
    listed = list(names)
    return ", ".join(listed[:limit] + ["..."] * (len(listed) > limit))


def clock(seconds: float) -> str:
    """Seconds as minutes or hours: `0:42`, `2:42`, `1:02:03`, from 100 hours on `4.2 d`; `-` where unknown."""
    if not math.isfinite(seconds):
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 100:
        return f"{seconds / 86_400:.1f} d"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def duration(seconds: float) -> str:
    """Seconds as people read them: `0.4 s`, `42 s`, from a minute on as `clock`; `-` where unknown."""
    if 0 <= seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return clock(seconds)


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """A curve in `width` or fewer bars, each the mean of its share of the values; `!` where none of them is finite."""
    count = min(width, len(values))
    parts = [values[len(values) * i // count : len(values) * (i + 1) // count] for i in range(count)]
    finite = [[v for v in part if math.isfinite(v)] for part in parts]
    means = [sum(part) / len(part) if part else math.nan for part in finite]
    known = [mean for mean in means if math.isfinite(mean)]
    low, high = min(known, default=0.0), max(known, default=0.0)
    scale = (len(SPARK_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(SPARK_BARS[round((mean - low) * scale)] if math.isfinite(mean) else "!" for mean in means)
