"""The program `lwcl`: the one place where errors become messages and exit codes."""

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import typer

from lwcl.cli import device, evaluate, tools, train
from lwcl.cli.app import app
from lwcl.cli.failures import bug_message, usage_message
from lwcl.errors import LwclError
from lwcl.formatting import escape, escape_lines
from lwcl.system.cpu import shorten_spin_wait

COMMAND_MODULES = [module.__name__ for module in (train, evaluate, device, tools)]  # the order in `lwcl --help`
PROGRAM: Any = typer.main.get_command(app)
PROGRAM.commands = dict(
    sorted(PROGRAM.commands.items(), key=lambda item: COMMAND_MODULES.index(item[1].callback.__module__))
)
COMMANDS = list(PROGRAM.commands)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit code: 0, or that of the error printed on stderr."""
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    shorten_spin_wait()
    try:
        code = PROGRAM.main(words, prog_name="lwcl", standalone_mode=False, obj=words)
        return code if isinstance(code, int) else 0
    except LwclError as error:
        return print_error(error, "\n".join(escape(line) for line in error.args if line), words)
    except typer.TyperException as error:
        return print_error(error, usage_message(error, words, COMMANDS), words)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        return print_error(error, bug_message(error), words)


def print_error(error: Exception, text: str, words: Sequence[str]) -> int:
    """Prints an error on stderr, with its traceback if --debug is among the words; returns its exit code.

    Control characters in file names are escaped; markup is printed as it is.
    """
    if "--debug" in words:
        traceback.print_exception(error)
    first, *rest = escape_lines(text).split("\n")
    red = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    typer.echo("\n".join([typer.style(first, fg="red", bold=True) if red else first, *rest]), err=True)
    return getattr(error, "exit_code", 1)
