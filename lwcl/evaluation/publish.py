"""The end of every evaluation: its report on the terminal, as JSON, and in a folder."""

import dataclasses
import sys
from collections.abc import Collection, Iterable
from pathlib import Path

from lwcl.errors import StorageError
from lwcl.formatting import escape, plural
from lwcl.reporting.console import Screen, print_json, print_table, write_line
from lwcl.reporting.report import Report, Table
from lwcl.system.device import current_command
from lwcl.system.environment import describe_environment


def publish(
    report: Report,
    screen: Screen,
    folder: Path | None,
    *,
    tables: Iterable[Table],
    lines: Iterable[str],
    as_json: bool = False,
    broken: Collection[object] = (),
    asked: bool = True,
) -> None:
    """Prints `tables` and `lines`, or the report as JSON, on stdout; writes the report to `folder`, if there is one.

    Adds environment and command line to the report, and warns about `broken` images. Raises `StorageError` where the
    report cannot be written, unless nobody `asked` for that folder: then it warns.
    """
    report = dataclasses.replace(report, environment=describe_environment(), command=current_command())
    if broken:
        screen.warn(f"{plural(len(broken), 'broken image')} replaced by the next readable one.")
    if as_json:
        print_json(report.document())
    else:
        for table in tables:
            print_table(table.title, table.columns, table.rows)
        for line in lines:
            write_line(escape(line), sys.stdout)
    if folder:
        try:
            report.write(folder)
        except StorageError as error:
            if asked:
                raise
            screen.warn(f"The report was not kept. {error.what} {error.why} Give --out for another folder.")
            return
        screen.say(f"Report: {escape(folder / 'report.html')}")
