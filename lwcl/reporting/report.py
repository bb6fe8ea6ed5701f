"""A report: the verdict of a command, its tables and plots, and its configuration; as JSON and as an HTML page."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lwcl.formatting import SCHEMA_VERSION, escape, format_cell, json_document
from lwcl.reporting.plots import png_data_uri
from lwcl.settings import SettingValue
from lwcl.system.atomic_files import crash_point, write_atomically

if TYPE_CHECKING:
    from markupsafe import Markup

TEMPLATES = Path(__file__).parent / "templates"
MAX_CELL = 60  # characters that fit a column beside others
SVG_IDENTIFIER = re.compile(r"(\bid=\"|href=\"#|url\(#)")


class Table(NamedTuple):
    """A table of numbers, texts, or None where there is nothing."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    note: str = ""

    @property
    def wordy(self) -> bool:
        """Whether it holds sentences, which are shown as cards instead of columns."""
        return any(isinstance(value, str) and len(value) > MAX_CELL for row in self.rows for value in row)

    def numeric(self, column: int) -> bool:
        """Whether a column holds only numbers, and so is right-aligned."""
        known = [row[column] for row in self.rows if row[column] is not None]
        return bool(known) and all(isinstance(value, int | float) for value in known)


class Picture(NamedTuple):
    """A plot or an image sheet: SVG text of our own, or a PNG. The caption says in words what it shows."""

    title: str
    caption: str
    svg: str = ""
    png: bytes = b""

    def file(self, number: int) -> str:
        """Its path in the run folder if it is the `number`-th picture of its report."""
        words = re.sub(r"[^a-z0-9]+", "-", self.title.lower())[:50].strip("-")
        return f"plots/{number:02}-{words}.{'png' if self.png else 'svg'}"

    def embedded(self, number: int) -> "Markup":
        """The picture as part of a page if it is the `number`-th: SVG identifiers must differ between pictures."""
        from markupsafe import Markup

        if self.png:
            return Markup('<img src="{}" alt="{}">').format(png_data_uri(self.png), escape(self.caption or self.title))
        return Markup(SVG_IDENTIFIER.sub(rf"\g<1>p{number}-", self.svg))  # noqa: S704


@dataclass(frozen=True, kw_only=True)
class Report:
    """The results of a command. All text may be untrusted, except a picture's SVG, which must be our own."""

    kind: str  # the command
    title: str
    verdict: str  # a sentence a line, the result first
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()
    details: tuple[Table, ...] = ()  # shown after the plots, folded
    lead: int = 0  # pictures shown right after the first table, the others are folded; 0: no picture is folded
    facts: Mapping[str, Any] = field(default_factory=dict)  # JSON
    settings: Mapping[str, SettingValue] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""

    def document(self) -> dict[str, Any]:
        """The report as JSON values: everything but the pictures, which it names."""
        return {
            "schema_version": SCHEMA_VERSION,
            "kind": self.kind,
            "title": self.title,
            "verdict": self.verdict,
            "facts": dict(self.facts),
            "tables": [table._asdict() for table in (*self.tables, *self.details)],
            "pictures": [
                {"title": picture.title, "caption": picture.caption, "file": picture.file(number)}
                for number, picture in enumerate(self.pictures, 1)
            ],
            "command": self.command,
            "settings": {name: setting.as_json() for name, setting in self.settings.items()},
            "environment": dict(self.environment),
        }

    def to_json(self) -> str:
        """The document as text."""
        return json_document(self.document()) + "\n"

    def to_html(self, *, refresh: int = 0, state: str = "") -> str:
        """A page without scripts that loads nothing, or only itself, every `refresh` seconds; `state` comes first."""
        import jinja2
        from markupsafe import Markup

        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(TEMPLATES),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            finalize=lambda value: value if isinstance(value, Markup) else format_cell(value),
            trim_blocks=True,
            lstrip_blocks=True,
        )
        machine = Table("Environment", ("Property", "Value"), tuple(flatten_facts(self.environment)))
        template = environment.get_template("report.html.j2")
        return template.render(report=self, machine=machine, refresh=refresh, state=state)

    def write(self, folder: Path) -> None:
        """Writes plots, report.html, and last report.json, whose presence marks a finished run.

        Raises `StorageError`.
        """
        for number, picture in enumerate(self.pictures, 1):
            write_atomically(folder / picture.file(number), picture.png or picture.svg)
        crash_point("report.write")
        write_atomically(folder / "report.html", self.to_html())
        crash_point("report.write")
        write_atomically(folder / "report.json", self.to_json())


def flatten_facts(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Names as words, with values; nested names follow the name of their mapping. Lists of mappings are left out."""
    for name, value in values.items():
        words = f"{above}{name}".replace("_", " ")
        if isinstance(value, Mapping):
            yield from flatten_facts(value, f"{words}, ")
        elif not (isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value)):
            yield words, value
