"""The program `lwcl`: the one place where errors become messages and exit codes."""

import errno
import os
import re
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Any

import typer

from lwcl.cli import device, evaluate, tools, train
from lwcl.cli.app import app
from lwcl.errors import LwclError, ReportedElsewhereError, StorageError, UsageError
from lwcl.formatting import escape, escape_lines
from lwcl.settings import unknown_name_error
from lwcl.system.cpu import shorten_spin_wait
from lwcl.system.ranks import Ranks, current_ranks
from lwcl.system.streams import guarded_streams

COMMAND_MODULES = [module.__name__ for module in (train, evaluate, device, tools)]  # the order in `lwcl --help`
PROGRAM: Any = typer.main.get_command(app)
PROGRAM.commands = dict(
    sorted(PROGRAM.commands.items(), key=lambda item: COMMAND_MODULES.index(item[1].callback.__module__))
)
COMMANDS = list(PROGRAM.commands)
SHARED_COMMANDS = ("pretrain", "distill", "compress", "probe", "knn")
SPEAK_SECONDS = 20.0  # in which process 0 has said what is wrong
#: What other programs call these flags and commands.
ENCODER_WORDS = ("model", "encoder", "checkpoint", "ckpt", "weights", "pretrained", "run")
SYNONYMS = {
    **dict.fromkeys(("model", "backbone", "net", "network", "architecture"), "--arch"),
    **dict.fromkeys(("dataset", "data-path", "data-dir", "train-dir", "images", "input", "root"), "--data"),
    **dict.fromkeys(("output", "output-dir", "out-dir", "save-dir", "logdir"), "--out"),
    **dict.fromkeys(("size", "img-size", "input-size", "resolution", "imgsz"), "--image-size"),
    **dict.fromkeys(("learning-rate", "lr0"), "--lr"),
    **dict.fromkeys(("num-workers", "jobs"), "--workers"),
    **dict.fromkeys(("batch", "bs"), "--batch-size"),
    **dict.fromkeys(("gpu", "gpus", "cuda"), "--device"),
    **dict.fromkeys(("checkpoint", "pretrained", "weights", "from"), "--init"),
    **dict.fromkeys(("amp", "fp16", "half"), "--precision"),
    **dict.fromkeys(("train", "fit"), "pretrain"),
    **dict.fromkeys(("eval", "evaluate", "test", "score"), "knn"),
    **dict.fromkeys(("linear", "lincls"), "probe"),
    **dict.fromkeys(("import", "load"), "convert"),
    **dict.fromkeys(("check", "env"), "doctor"),
}
UNEXPECTED = re.compile(r"unexpected extra argument(?:\(s\)|s)? \((.+)\)$")
BROKEN_PIPE_EXIT_CODE = 141  # as of a process that SIGPIPE ends


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit code: 0, or that of the error printed on stderr.

    A process of several leaves at once: connections to one that is gone can keep Python from ending.
    """
    code = guarded_program(arguments)
    if arguments is None and own_place().world_size > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def own_place() -> Ranks:
    """This process's place among those of a run; the only one where its variables are wrong, which is told later."""
    try:
        return current_ranks()
    except UsageError:
        return Ranks()


def guarded_program(arguments: Sequence[str] | None) -> int:
    """Runs the program with errors of stdout caught; returns its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    shorten_spin_wait()
    with guarded_streams() as (stdout, _):
        code = run_program(words)
        stdout.flush()
        if stdout.error is None:
            return code
        if stdout.error.errno == errno.EPIPE:
            return code or BROKEN_PIPE_EXIT_CODE
        lost = StorageError(f"The result could not be written to stdout: {stdout.error.strerror}.")
        return code or print_error(lost, str(lost), words)


def run_program(words: Sequence[str]) -> int:
    """Runs the program with these words; returns its exit code."""
    try:
        refuse_several(words)
        code = PROGRAM.main(words, prog_name="lwcl", standalone_mode=False, obj=words)
        return code if isinstance(code, int) else 0
    except ReportedElsewhereError as error:
        return error.exit_code
    except LwclError as error:
        return print_error(error, "\n".join(escape(line) for line in error.args if line), words)
    except typer.TyperException as error:
        return print_error(error, usage_message(error, words, COMMANDS), words)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        return print_error(error, bug_message(error), words)


def refuse_several(words: Sequence[str]) -> None:
    """Raises `UsageError` for a command that several processes cannot share."""
    count = current_ranks().world_size
    if count > 1 and words[0] in COMMANDS and words[0] not in SHARED_COMMANDS:
        raise UsageError(
            f"lwcl {words[0]} runs in one process; {count} were started.",
            f"Several processes can share {', '.join(SHARED_COMMANDS)}.",
            "Start it without torchrun or srun.",
        )


def print_error(error: Exception, text: str, words: Sequence[str]) -> int:
    """Prints an error on stderr, with its traceback if --debug is among the words; returns its exit code.

    Control characters in file names are escaped; markup is printed as it is.
    """
    if not own_place().is_first:
        speaker = error.process if hasattr(error, "process") else wait_for_first()
        text = f"{speaker}: {text}" if speaker else text
    if "--debug" in words:
        traceback.print_exception(error)
    first, *rest = escape_lines(text).split("\n")
    red = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    typer.echo("\n".join([typer.style(first, fg="red", bold=True) if red else first, *rest]), err=True)
    return getattr(error, "exit_code", 1)


def wait_for_first() -> str:
    """Lets process 0 speak first for an error that all have before they know of each other; this process's name.

    Its launcher then ends this one.
    """
    time.sleep(SPEAK_SECONDS)
    return f"Process {own_place().rank}"


def usage_message(error: typer.TyperException, words: Sequence[str], commands: Sequence[str]) -> str:
    """The message for a bad command line, with the nearest names for an unknown one and where to look."""
    path = " ".join(["lwcl", *(word for word in words[:1] if word in commands)])
    hint, details = f"See `{path} --help`.", vars(error)
    context: Any = details.get("ctx")
    if hasattr(error, "possibilities"):
        flags = [flag for param in context.command.get_params(context) for flag in (*param.opts, *param.secondary_opts)]
        known, name = [flag for flag in flags if flag.startswith("--")], details["option_name"]
        arguments = [param.name for param in context.command.params if param.param_type_name == "argument"]
        if name.lstrip("-") in ENCODER_WORDS and any(argument.startswith("encoder") for argument in arguments):
            return f"Unknown flag: '{name}'.\nEncoders are given without a flag, as in `{path} RUN`.\n{hint}"
        if (usual := SYNONYMS.get(name.lstrip("-"), "")) in known:
            return f"Unknown flag: '{name}'.\nDid you mean {usual}?\n{hint}"
        return str(unknown_name_error("flag", name, known, hint))
    message: str = error.format_message()
    if message.startswith("No such command"):
        meant = [one for one in commands if words[0] in one] or [SYNONYMS.get(words[0], "")]
        return (
            f"Unknown command: {words[0]!r}.\nDid you mean {meant[0]}?\n{hint}"
            if meant[0]
            else str(unknown_name_error("command", words[0], commands, hint))
        )
    flags = [flag for param in context.command.params for flag in param.opts] if context else []
    if (extra := UNEXPECTED.search(message)) and "--data" in flags:
        return f"Not expected there: {extra[1]!r}.\nImages are given as `--data {extra[1]}`.\n{hint}"
    return f"{message}\n{hint}"


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
