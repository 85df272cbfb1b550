"""Signals that end training: save first, then leave."""

import contextlib
import os
import signal
import sys
from typing import Any, Callable, Dict

# SIGHUP: the terminal, or an ssh session, has gone. SIGUSR1: Slurm's warning before its time limit
# (sbatch --signal=B:USR1@120).
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


def handle(handler: Callable) -> Dict[int, Any]:
    """Install ``handler`` for SIGNALS; their earlier handlers, by number.

    SIGHUP stays ignored where it is ignored already, as ``nohup`` has it.
    """
    heeds_hangup = signal.getsignal(signal.SIGHUP) != signal.SIG_IGN
    numbers = [number for number in SIGNALS if number != signal.SIGHUP or heeds_hangup]
    return {number: signal.signal(number, handler) for number in numbers}


class Stop:
    """In its context, the first of SIGNALS asks for a save, a second one ends the process.

    The loop sets ``unsaved`` once a batch has changed the weights, and clears it when they are
    saved. While it is false, there is nothing to save and the first signal ends the process.
    """

    def __init__(self, say: Callable[[str], None]):
        self.unsaved = False
        self.requested = 0  # the signal's number
        self._say = say
        self._earlier: Dict[int, Any] = {}

    def __enter__(self):
        self._earlier = handle(self._handle)
        return self

    def __exit__(self, *_error):
        for number, handler in self._earlier.items():
            signal.signal(number, handler)

    def leave(self) -> None:
        """End the process as a shell reports a signal: 143 for SIGTERM, 129 for SIGHUP."""
        # Not sys.exit: that would wait for the thread that reads images, minutes perhaps.
        with contextlib.suppress(OSError, RuntimeError):
            sys.stdout.flush()
        os._exit(128 + self.requested)

    def _handle(self, number, _frame):
        name = signal.Signals(number).name
        again, self.requested = self.requested, number
        if again:
            self.leave()
        if not self.unsaved:
            self._tell(f"{name}: nothing to save")
            self.leave()
        self._tell(f"{name}: saving after this batch; send it again to stop now")

    def _tell(self, text):
        # The output may be closed, or the signal may have interrupted a print: save all the same.
        with contextlib.suppress(OSError, RuntimeError):
            self._say(text)
