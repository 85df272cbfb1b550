"""``python -m common.io.leash COMMAND``: a process on another machine that ends with its launcher.

The launcher sends a line each second, and this sends one back. When no more come, because the
launcher or the network has gone, the process is killed. A line with a number is a signal for it.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time

from common import cli

from .children import as_child, is_stopped
from .heartbeat import mark

SILENCE = 12  # seconds without a line after which the other end has gone
STOPPED = "stopped"  # said of a process that a signal such as SIGSTOP holds


def main() -> int:
    """Run the command; its exit code, 128 + the number of a signal that has killed it."""
    process = subprocess.Popen(sys.argv[1:], start_new_session=True, **as_child())
    try:
        _watch(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    code = process.wait()
    return code if code >= 0 else 128 - code


def _watch(process):
    heard = time.monotonic()
    while process.poll() is None and time.monotonic() - heard < SILENCE:
        if select.select([0], [], [], 0.5)[0]:
            data = os.read(0, 4096)
            if not data:
                return
            heard = time.monotonic()
            for word in data.split():
                process.send_signal(int(word))
            mark(STOPPED if is_stopped(process.pid) else "")


if __name__ == "__main__":
    cli.run(main)
