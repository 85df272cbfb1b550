"""A worker's signs of life, which launch.py reads from the worker's output and does not show."""

import os
import sys

MARK = "\x1e"  # begins such a line: ASCII's record separator
WORKER = "LAUNCH_WORKER"  # the environment variable that holds the worker's number


def beat(batches: int) -> None:
    """Say that this process, if launch.py has started it, has computed so many batches."""
    if WORKER in os.environ:
        mark(str(batches))


def mark(text: str) -> None:
    """Write such a line, in one piece.

    Where PYTHONUNBUFFERED is set, print writes the line's end apart. What a signal's handler prints
    could come between, and would be lost.
    """
    sys.stdout.write(f"{MARK}{text}\n")
    sys.stdout.flush()
