"""Output that cannot be written (closed, full, its reader or terminal gone) never ends a command: files matter more.

A stream that fails once leads nowhere from then on. What was lost on stdout is a result, and the exit code says so;
what was lost on stderr is in the run's log.txt.
"""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

STANDARD_DESCRIPTORS = (0, 1, 2)


class GuardedStream:
    """A text stream whose failures are noted in `error`, and raised nowhere; `None` is a stream that is closed."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream: TextIO = open(os.devnull, "w", encoding="utf-8") if stream is None else stream  # noqa: SIM115
        self._is_closed = stream is None
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        """Write, or note the failure; gives the number of characters."""
        if self._is_closed and text:
            self.error = OSError(errno.EBADF, os.strerror(errno.EBADF))
        self._attempt("write", text)
        return len(text)

    def flush(self) -> None:
        """Flush, or note the failure."""
        self._attempt("flush")

    def _attempt(self, name: str, *arguments: Any) -> None:
        try:
            getattr(self._stream, name)(*arguments)
        except UnicodeError:
            raise
        except (OSError, ValueError) as error:  # ValueError: the stream was closed
            self.error = error if isinstance(error, OSError) else OSError(errno.EBADF, str(error))
            redirect_to_null(self._stream)
            self._stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # open as long as the process

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def redirect_to_null(stream: TextIO) -> None:
    """Let a stream's descriptor lead nowhere: what is buffered would otherwise fail again when the process ends."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def fill_standard_descriptors() -> None:
    """Open what is closed of stdin, stdout and stderr: the next file would get the number, and what is printed."""
    for descriptor in STANDARD_DESCRIPTORS:
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


@contextlib.contextmanager
def guarded_streams() -> Iterator[tuple[GuardedStream, GuardedStream]]:
    """Within `with`, stdout and stderr are guarded; both are flushed at the end."""
    fill_standard_descriptors()
    before = sys.stdout, sys.stderr
    guarded = GuardedStream(sys.stdout), GuardedStream(sys.stderr)
    sys.stdout, sys.stderr = (cast(TextIO, stream) for stream in guarded)
    try:
        yield guarded
    finally:
        for stream in guarded:
            stream.flush()
        sys.stdout, sys.stderr = before
