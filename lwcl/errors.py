"""Errors that users can act on: each says what happened, why, and what to do, and has an exit code."""


class LwclError(Exception):
    """An error that a user can act on.

    `what` happened, `why`, and the `remedy`: one sentence each, printed on a line each without a traceback.
    """

    exit_code = 1

    def __init__(self, what: str, why: str = "", remedy: str = "") -> None:
        super().__init__(what, why, remedy)
        self.what, self.why, self.remedy = what, why, remedy

    def __str__(self) -> str:
        return "\n".join(line for line in (self.what, self.why, self.remedy) if line)


class UsageError(LwclError, ValueError):
    """A wrong command line, settings file or value."""

    exit_code = 2


class TrainingDivergedError(LwclError):
    """Training diverged: non-finite values, or an embedding that collapsed under `--strict`."""

    exit_code = 3


class DataError(LwclError):
    """The images cannot be used: none found, too many broken, labels missing, a worker process died."""

    exit_code = 4


class StorageError(LwclError):
    """The disk is full or read-only, or every checkpoint is corrupt."""

    exit_code = 5


class ProcessLostError(LwclError):
    """Of several processes that train together, one was killed, or does not come or go on."""

    exit_code = 6


class ReportedElsewhereError(LwclError):
    """Another process has said why the run ends; this one only ends, with the same exit code."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("The run ends: another process says why.")
        self.exit_code = exit_code
