"""A model card (Mitchell et al., arXiv 1810.03993) for an export: its training, its evaluation, its limitations."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lwcl.formatting import escape, percent
from lwcl.models.archs import is_video_arch
from lwcl.reporting.knn import EncoderResult, format_gain, format_interval
from lwcl.settings import SettingValue

LIMITATIONS = """\
* The features describe images like those it was trained on; they may be poor for others. Evaluate them on your own
  images with `lwcl knn` and `lwcl probe`.
* A score on images like the training images says nothing about other domains, nor about fairness between groups.
* A student inherits the biases and the licence terms of its teacher.
"""
FRONT_MATTER = "---\nlibrary_name: timm\ntags: [image-feature-extraction, lwcl]\n{}---\n"
LICENCE_NAME = re.compile(r"[A-Za-z0-9][\w.+-]*")  # of the Hub's, such as apache-2.0

FEATURE_MAPS = """\
## Feature maps

For detectors and segmenters, if timm supports feature maps of the architecture:

```python
import timm

model = timm.create_model("local-dir:FOLDER", pretrained=True, features_only=True, out_indices=(-3, -2, -1))
channels, strides = model.feature_info.channels(), model.feature_info.reduction()
```
"""


def render_model_card(
    name: str, arch: str, facts: Mapping[str, Any], rows: Sequence[EncoderResult], settings: Mapping[str, SettingValue]
) -> str:
    """The card as Markdown: `facts` are those of the encoder file, `rows` its kNN scores beside others."""
    sections = [
        f"{front_matter(facts)}# {escape_markdown(name)}\n",
        f"A {escape_markdown(arch)} backbone{'' if is_video_arch(arch) else ' for timm'}, trained with lwcl.\n",
        "## Training\n",
        *(
            f"* {escape_markdown(key)}: {escape_markdown(value)}"
            for key, value in sorted(facts.items())
            if not isinstance(value, dict | list | tuple)
        ),
        *licence_section(facts),
    ]
    if rows:
        cells = [
            (escape_markdown(r.name), percent(r.top1), format_interval(r.top1_interval), format_gain(r.gain) or "")
            for r in rows
        ]
        columns = ("Encoder", "Top-1", "95% interval", "Gain over untrained (points)")
        sections += ["\n## Evaluation\n\nkNN on held-out images:\n", *markdown_table(columns, cells)]
    sections += ["", *([] if is_video_arch(arch) else [FEATURE_MAPS.rstrip()]), "\n## Limitations\n", LIMITATIONS]
    if settings:
        values = [(key, escape_markdown(s.value), escape_markdown(str(s.origin))) for key, s in settings.items()]
        sections += ["## Settings\n", *markdown_table(("Setting", "Value", "Origin"), values)]
    return "\n".join(sections).rstrip() + "\n"


def front_matter(facts: Mapping[str, Any]) -> str:
    """The card's YAML header, with the licence where one is known by a name of the Hub's."""
    licence = str(facts.get("licence", ""))
    return FRONT_MATTER.format(f"license: {licence.lower()}\n" if LICENCE_NAME.fullmatch(licence) else "")


def licence_section(facts: Mapping[str, Any]) -> list[str]:
    """What is known of the licences of weights, teacher and training images, and what is not."""
    names = {"licence": "these weights", "teacher licence": "the teacher", "data licence": "the training images"}
    wanted = [name for name in names if name != "teacher licence" or "teacher" in facts]
    return ["\n## Licences\n", *(f"* {names[n]}: {escape_markdown(facts.get(n, 'not stated'))}" for n in wanted)]


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table of cells that are already escaped, a line each row."""
    return [f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *rows)]


def escape_markdown(value: Any) -> str:
    """Untrusted text, or a list of it, as literal Markdown: no markup, HTML, table cells, or links."""
    text = escape(", ".join(map(str, value)) if isinstance(value, list | tuple) else value)
    text = "".join(f"\\{letter}" if letter in "\\`*_{}[]<>()#+!|~&" else letter for letter in text)
    return text.replace("://", ":\\//").replace("www.", "www\\.")
