"""Packages that only some commands need: imported where they are used, without what they print meanwhile."""

import contextlib
import importlib
import io
import logging
import warnings
from collections.abc import Iterator
from types import ModuleType

from lwcl.errors import UsageError


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Without the warnings, log records below an error, and progress of a package, which a user cannot act on."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(level)


def require_package(name: str, extra: str) -> ModuleType:
    """A package, or a module of one, of one of lwcl's extras. Raises `UsageError` where it is not installed."""
    try:
        with silence():
            return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise UsageError(
            f"{package} is needed for this, and not installed.",
            str(error),
            f"Install it: pip install 'lwcl[{extra}]'.",
        ) from error
