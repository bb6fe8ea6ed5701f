"""A report: the verdict of a run, its numbers and pictures, how it was made; as JSON and as an HTML page to keep."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from lwcl.formatting import escape, format_cell, json_document
from lwcl.reporting.plots import png_data_uri
from lwcl.settings import SettingValue
from lwcl.system.atomic_files import crash_point, write_atomically

if TYPE_CHECKING:
    from markupsafe import Markup

TEMPLATES = Path(__file__).parent / "templates"
SVG_IDENTIFIER = re.compile(r"(\bid=\"|href=\"#|url\(#)")


class Table(NamedTuple):
    """A table of numbers, texts, or None where there is nothing."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    note: str = ""

    def numeric(self, column: int) -> bool:
        """Whether a column holds numbers only, and so stands to the right."""
        known = [row[column] for row in self.rows if row[column] is not None]
        return bool(known) and all(isinstance(value, int | float) for value in known)


class Picture(NamedTuple):
    """A picture: SVG text of ours, or a PNG. The caption says in words what there is to see."""

    title: str
    caption: str
    svg: str = ""
    png: bytes = b""

    def file(self, number: int) -> str:
        """Its path in the run's folder, where it is the `number`-th of its report."""
        words = re.sub(r"[^a-z0-9]+", "-", self.title.lower())[:50].strip("-")
        return f"plots/{number:02}-{words}.{'png' if self.png else 'svg'}"

    def embedded(self, number: int) -> "Markup":
        """The picture as part of a page, where it is the `number`-th: identifiers must differ between pictures."""
        from markupsafe import Markup

        if self.png:
            return Markup('<img src="{}" alt="{}">').format(png_data_uri(self.png), escape(self.caption or self.title))
        return Markup(SVG_IDENTIFIER.sub(rf"\g<1>p{number}-", self.svg))  # noqa: S704


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a command found out. All texts may come from strangers, except a picture's SVG, which must be our own."""

    SCHEMA_VERSION: ClassVar[int] = 1

    kind: str  # the command
    title: str
    verdict: str  # one or two sentences
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)  # JSON
    settings: Mapping[str, SettingValue] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""

    def document(self) -> dict[str, Any]:
        """The report as JSON values: everything but the pictures, which it names."""
        return {
            "schema_version": self.SCHEMA_VERSION,
            "kind": self.kind,
            "title": self.title,
            "verdict": self.verdict,
            "facts": dict(self.facts),
            "tables": [table._asdict() for table in self.tables],
            "pictures": [
                {"title": one.title, "caption": one.caption, "file": one.file(number)}
                for number, one in enumerate(self.pictures, 1)
            ],
            "command": self.command,
            "settings": {name: settled.as_json() for name, settled in self.settings.items()},
            "environment": dict(self.environment),
        }

    def to_json(self) -> str:
        """The document as text."""
        return json_document(self.document()) + "\n"

    def to_html(self) -> str:
        """One page that needs nothing else: no scripts, nothing loaded."""
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
        made_with = Table("Machine and versions", ("What", "Value"), tuple(flatten_facts(self.environment)))
        return environment.get_template("report.html.j2").render(report=self, machine=made_with)

    def write(self, folder: Path) -> None:
        """Writes plots, report.html, and last report.json, whose presence says that the run is finished.

        Raises `StorageError`.
        """
        for number, picture in enumerate(self.pictures, 1):
            write_atomically(folder / picture.file(number), picture.png or picture.svg)
        crash_point("report.write")
        write_atomically(folder / "report.html", self.to_html())
        crash_point("report.write")
        write_atomically(folder / "report.json", self.to_json())


def flatten_facts(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Names in words and values, those of mappings within after the name of the mapping; no lists of mappings."""
    for name, value in values.items():
        words = f"{above}{name}".replace("_", " ")
        if isinstance(value, Mapping):
            yield from flatten_facts(value, f"{words}, ")
        elif not (isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value)):
            yield words, value
