"""Modules imported at their first use: what parses a command line never waits for torch."""

import importlib
from types import ModuleType
from typing import Any


class Lazy:
    """Stands for a module and imports it when one of its attributes is first read.

    To be used inside function bodies only; type checkers see the real import, under `TYPE_CHECKING`.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._module: ModuleType | None = None

    def __getattr__(self, attribute: str) -> Any:
        if self._module is None:
            self._module = importlib.import_module(self._name)
        return getattr(self._module, attribute)
