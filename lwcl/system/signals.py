"""Signals in training: finish the step, save, leave with the signal's exit code; Ctrl-C twice leaves at once."""

import signal
import threading
import time
from types import FrameType
from typing import Self

from lwcl.system import slurm

#: What ends a process and can be caught: Ctrl-C, a closed terminal, schedulers' warnings, limits, a failing supply.
STOP_SIGNAL_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGALRM", "SIGPWR")
STOP_SIGNALS = tuple(signal.Signals[name] for name in STOP_SIGNAL_NAMES if name in signal.Signals.__members__)

REPEATED_SECONDS = 0.5  # a launcher passes on the Ctrl-C that the terminal has sent to all of its processes


class StopSignals:
    """Within `with`, the first signal only sets `received`; a second Ctrl-C raises `KeyboardInterrupt` at once.

    What the process was started to ignore stays ignored: SIGHUP under nohup. Only the main thread of a program may
    heed signals: in another one, they do what they did.
    """

    received: signal.Signals | None = None
    _since = 0.0  # when the first one came

    def __enter__(self) -> Self:
        heeded = (number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN)
        is_main = threading.current_thread() is threading.main_thread()
        self._before = {number: signal.signal(number, self._note) for number in heeded if is_main}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: installed by other code than Python

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT and time.monotonic() > self._since + REPEATED_SECONDS:
            raise KeyboardInterrupt
        if self.received is None:
            self._since = time.monotonic()
        self.received = signal.Signals(number)


def exit_code(number: int) -> int:
    """The exit code that tells which signal ended the run, as shells have it: 128 and its number.

    In a job of SLURM its warning (SIGUSR1) counts as the SIGTERM that would follow.
    """
    return 128 + (signal.SIGTERM if number == signal.SIGUSR1 and slurm.job() else number)
