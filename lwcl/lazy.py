"""Modules imported at first use: optional packages, and torch, for which parsing a command line must not wait."""

import importlib
from types import ModuleType
from typing import Any


class Lazy:
    """A proxy for a module that imports it when an attribute is first read.

    For use inside function bodies only; type checkers see the real import under `TYPE_CHECKING`.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._module: ModuleType | None = None

    def __getattr__(self, attribute: str) -> Any:
        if self._module is None:
            self._module = importlib.import_module(self._name)
        return getattr(self._module, attribute)
