"""A mark in the run folder while a process runs there: it tells the next one that the last one could not say goodbye.

`faulthandler` writes to log.txt where the process was when it died of a signal of its own (SIGSEGV, SIGABRT, SIGBUS).
"""

import contextlib
import faulthandler
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from lwcl.system.atomic_files import explain_disk_errors

MARK_FILE = ".running"
FATAL_ERROR = re.compile(rb"^Fatal Python error: (.+)$", re.MULTILINE)  # as faulthandler writes it
NATIVE_REMEDY = (
    "This is a fault in compiled code (torch or an image decoder). If it comes again: --precision fp32, --workers 0 or "
    "another --arch, or ONEDNN_MAX_CPU_ISA=SSE41 before the command, for other kernels of torch; and report it."
)
KILLED_REMEDY = (
    "If the machine did not stop, memory may have run out (check `dmesg`): a smaller --batch-size, --accumulate 2, "
    "fewer --workers or --cache disk need less."
)


@contextlib.contextmanager
def marked_as_running(folder: Path, log: Path) -> Iterator[None]:
    """Within `with`, the mark is there, and the trace of a crash goes to `log`. Raises `StorageError`."""
    log_size = log.stat().st_size if log.exists() else 0
    with explain_disk_errors(folder):
        record = {"pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S"), "log_size": log_size}
        (folder / MARK_FILE).write_text(json.dumps(record), encoding="utf-8")
        file = open(log, "ab")  # noqa: SIM115  # faulthandler needs it as long as it is enabled
    watches = not faulthandler.is_enabled()
    if watches:
        faulthandler.enable(file)
    try:
        yield
    finally:
        if watches:
            faulthandler.disable()
        file.close()
        with contextlib.suppress(OSError):
            (folder / MARK_FILE).unlink()


def describe_crash(folder: Path, log: Path) -> str:
    """How the process that last ran in a folder died, and what to try; "" where it ended by itself."""
    try:
        record = json.loads((folder / MARK_FILE).read_bytes())
        who = f"The process {record['pid']} that ran here since {record['since']}"
        written = log.read_bytes()[int(record["log_size"]) :] if log.exists() else b""
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, LookupError, TypeError):
        who, written = "The process that ran here last", b""
    if found := FATAL_ERROR.search(written):
        return f"{who} died: {found[1].decode('utf-8', 'replace')}; {log} says where. {NATIVE_REMEDY}"
    return f"{who} was killed. {KILLED_REMEDY}"
