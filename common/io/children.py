"""Processes that end when this one does, whatever ends it."""

import contextlib
import ctypes
import os
import signal
import subprocess
from typing import Any, Dict

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_PR_SET_PDEATHSIG = 1  # of Linux's prctl: a signal for this process when its parent has died


def as_child(**environment: str) -> Dict[str, Any]:
    """Options for ``subprocess``: the process finds our modules, reads nothing, ends with this one.

    Its errors go where its output goes; it has this process's environment variables and these.
    Start it from the main thread: Linux takes the end of the thread that has started a process for
    the end of its parent.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", lambda *_: None)  # looked up before the fork
    parent = os.getpid()

    def end_with_parent() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before that call
            os._exit(1)

    return {
        "stdin": subprocess.DEVNULL,
        "stderr": subprocess.STDOUT,
        "env": {**os.environ, "PYTHONPATH": ROOT, **environment},
        "preexec_fn": end_with_parent,
    }


def is_stopped(process: int) -> bool:
    """Whether a signal such as SIGSTOP holds a process of this machine."""
    with contextlib.suppress(OSError), open(f"/proc/{process}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] in "Tt"
    return False
