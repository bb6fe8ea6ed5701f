"""Packages that only some commands need: imported where they are used, and named with their extra where they lack."""

import importlib
from types import ModuleType

from lwcl.errors import UsageError


def require_package(name: str, extra: str) -> ModuleType:
    """A package, or a module of one, of one of lwcl's extras. Raises `UsageError` where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise UsageError(
            f"{package} is needed for this, and not installed.",
            str(error),
            f"Install it: pip install 'lwcl[{extra}]'.",
        ) from error
