"""The layout of `--help`: plain lines in groups, as wide as the terminal up to 100 columns.

typer's own rich panels cost 0.2 s of CPU for a command with many options (typer 0.29, measured): as much as all else.
"""

import os
import sys
from collections.abc import Iterable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

#: In the order of help; options without a group come last.
HELP_GROUPS = ("What", "Data", "Teacher", "Method", "Optimization", "Views", "Machine", "Run", "Screen", "Options")
HELP_WIDTH = 100
#: typer's own flags have no default, and typer imports pydantic (0.1 s of CPU) to convert that to a bool.
FLAG_DEFAULTS = {"help": False, "install_completion": False, "show_completion": False}
HELP_FLAGS = ["--help", "-h"]
CONTEXT_SETTINGS = {"max_content_width": HELP_WIDTH, "help_option_names": HELP_FLAGS, "default_map": FLAG_DEFAULTS}


def write_options(params: Iterable[Any], ctx: Any, formatter: Any) -> None:
    """Writes the arguments and options of a command, each group under its heading."""
    groups: dict[str, list[tuple[str, str]]] = {group: [] for group in ("Arguments", *HELP_GROUPS)}
    for param in params:
        if record := param.get_help_record(ctx):
            names, text = record
            if param.secondary_opts:
                names = "--[no-]" + param.opts[0].removeprefix("--")
            if param.param_type_name == "argument":
                names = names.partition(" <")[0]
                groups["Arguments"].append((names, text))
            else:
                groups.setdefault(getattr(param, "rich_help_panel", None) or "Options", []).append((names, text))
    for group, rows in groups.items():
        if rows:
            with formatter.section(bold_heading(group)):
                formatter.write_dl(rows)


def bold_heading(text: str) -> str:
    """Bold on a terminal, unless NO_COLOR is set (no-color.org)."""
    return typer.style(text, bold=True) if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else text


class PlainCommand(TyperCommand):
    """A command whose help is plain and grouped."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Writes the options by group, with the values that a recipe gives them: only help needs to know these."""
        params = self.get_params(ctx)
        texts: dict[str, str] = getattr(self.callback, "help_texts", dict)()
        for param in params:
            vars(param)["help"] = texts.get(param.name or "", getattr(param, "help", None))
        write_options(params, ctx, formatter)


class PlainGroup(TyperGroup):
    """The program, whose help lists the commands first."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Writes the commands, then the options."""
        self.format_commands(ctx, formatter)
        write_options(self.get_params(ctx), ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Writes each command with the first paragraph of its help."""
        rows = [(name, (self.commands[name].help or "").split("\n\n")[0]) for name in self.list_commands(ctx)]
        with formatter.section(bold_heading("Commands")):
            formatter.write_dl(rows)


def cli_reference(program: Any, name: str) -> str:
    """The help of a program and of each of its commands as Markdown."""
    pages = [f"# Command line\n\nGenerated from `{name} --help` by the tests; do not edit.\n"]
    top = typer.Context(program, info_name=name, terminal_width=HELP_WIDTH, help_option_names=HELP_FLAGS)
    contexts = [typer.Context(command, info_name=word, parent=top) for word, command in program.commands.items()]
    for context in (top, *contexts):
        pages.append(f"## {context.command_path}\n\n```text\n{context.get_help().rstrip()}\n```\n")
    return "\n".join(pages)
