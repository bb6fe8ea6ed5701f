"""Messages for errors that are no `LwclError`: a bad command line, or a bug."""

import traceback
from collections.abc import Sequence
from typing import Any

import typer

from lwcl.errors import LwclError
from lwcl.settings import unknown_name


def usage_message(error: typer.TyperException, words: Sequence[str], commands: Sequence[str]) -> str:
    """The message for a bad command line, with the nearest flags for an unknown one and where to look."""
    path = " ".join(["lwcl", *(word for word in words[:1] if word in commands)])
    hint = f"See `{path} --help`."
    if not hasattr(error, "possibilities"):
        return f"{error.format_message()}\n{hint}"
    context: Any = vars(error)["ctx"]
    flags = [flag for param in context.command.get_params(context) for flag in (*param.opts, *param.secondary_opts)]
    return str(
        unknown_name("flag", vars(error)["option_name"], [flag for flag in flags if flag.startswith("--")], hint)
    )


def bug_message(error: Exception) -> str:
    """The message for an unexpected error, and where its traceback is."""
    what = f"This is a bug in lwcl: {type(error).__name__}: {error}"
    remedy = "Run the command again with --debug to see the traceback, and please report it."
    try:
        from lwcl.system.atomic_files import cache_folder, write_atomically

        path = cache_folder() / "last-error.txt"
        write_atomically(path, "".join(traceback.format_exception(error)))
    except (OSError, LwclError):
        return f"{what}\n{remedy}"
    return f"{what}\nTraceback: {path}\n{remedy}"
