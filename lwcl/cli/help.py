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


#: The flags that `--help` shows of a command that has `--help-all` for the others.
ESSENTIAL_FLAGS = (
    *(
        "data",
        "arch",
        "teacher",
        "recipe",
        "epochs",
        "minutes",
        "batch_size",
        "image_size",
        "init",
        "out",
        "config",
        "monitor",
    ),
    *("dry_run", "fast_dev_run", "threads", "help_all", "help"),
)
#: An example of each group in `--help-all`, shown where a command has all its flags.
GROUP_EXAMPLES = {
    "What": "--arch efficientnet_b0 --image-size 96",
    "Data": "--data photos/ --data more.zip --cache disk",
    "Teacher": "--teacher timm/resnet50.a1_in1k --teacher-cache views:4",
    "Method": "--temperature 0.1 --hidden 2048",
    "Optimization": "--epochs 100 --batch-size 128 --lr 0.002",
    "Views": "--crop-min 0.3 --gray-p 0.1",
    "Machine": "--threads 4 --precision bf16",
    "Run": "--out runs/mine --save-every 5m --monitor labelled/",
    "Screen": "--json --quiet",
}


ALL_FLAGS = "lwcl.all_flags"


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
                example = GROUP_EXAMPLES.get(group, "")
                flags = {word for names, _ in rows for word in names.replace("[no-]", "").split()}
                if (
                    ctx.meta.get(ALL_FLAGS)
                    and {word for word in example.split() if word.startswith("--")} - flags == set()
                ):
                    formatter.write_text(f"Example: {example}" if example else "")


def bold_heading(text: str) -> str:
    """Bold on a terminal, unless NO_COLOR is set (no-color.org)."""
    return typer.style(text, bold=True) if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else text


class PlainCommand(TyperCommand):
    """A command whose help is plain and grouped."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Writes the options by group, with the values that a recipe gives them: only help needs to know these."""
        params = self.get_params(ctx)
        if any(param.name == "help_all" for param in params) and not ctx.meta.get(ALL_FLAGS):
            params = [param for name in ESSENTIAL_FLAGS for param in params if param.name == name]
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
    pages = [f"# Command line\n\nGenerated from `{name} --help-all` by the tests; do not edit.\n"]
    top = typer.Context(program, info_name=name, terminal_width=HELP_WIDTH, help_option_names=HELP_FLAGS)
    contexts = [typer.Context(command, info_name=word, parent=top) for word, command in program.commands.items()]
    for context in (top, *contexts):
        context.meta[ALL_FLAGS] = True
        pages.append(f"## {context.command_path}\n\n```text\n{context.get_help().rstrip()}\n```\n")
    return "\n".join(pages)
