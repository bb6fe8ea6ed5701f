"""Ctrl-C and SIGTERM during training: finish the step, save, exit with the right code. A second Ctrl-C exits."""

import signal
from types import FrameType
from typing import Self

SIGNAL_EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


class StopSignals:
    """Within `with`, the first signal only sets `received`; a second Ctrl-C raises `KeyboardInterrupt` at once."""

    received: signal.Signals | None = None

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._note) for number in SIGNAL_EXIT_CODES}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)

    @property
    def exit_code(self) -> int:
        """The exit code for the signal that stopped the run; 0 without one."""
        return SIGNAL_EXIT_CODES[self.received] if self.received else 0
