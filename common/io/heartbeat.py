"""A worker's signs of life, which launch.py reads from the worker's output and does not show."""

import os

MARK = "\x1e"  # begins such a line: ASCII's record separator
WORKER = "LAUNCH_WORKER"  # the environment variable that holds the worker's number


def beat(batches: int) -> None:
    """Say that this process, if launch.py has started it, has computed so many batches."""
    if WORKER in os.environ:
        print(f"{MARK}{batches}", flush=True)
