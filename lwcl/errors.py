"""What can go wrong for a user: each error says what happened, why, and what to do, and knows its exit code."""


class LwclError(Exception):
    """An error that a user can act on.

    `what` happened, `why`, and the `remedy`: one sentence each, printed as a line each without a traceback.
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
    """The model is sick: its loss is not finite, or it collapsed under `--strict`."""

    exit_code = 3


class DataError(LwclError):
    """The images cannot be used: none found, too many broken, labels missing, a worker died."""

    exit_code = 4


class StorageError(LwclError):
    """The disk refused: full, read-only, or every checkpoint corrupt."""

    exit_code = 5
