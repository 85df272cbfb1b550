"""Limits of the machine: the one behind an OSError, and how much memory is left."""

import errno
import re
from typing import Optional

from .cpus import read_text

_LIMITS = {
    errno.EMFILE: "this process may not open more files; raise ulimit -n",
    errno.ENFILE: "the machine has too many open files; close other programs",
    errno.EAGAIN: "no more processes or threads may be started; raise ulimit -u, or end others",
    errno.ENOMEM: "there is not enough memory; free some, or raise ulimit -v",
}


def is_limit(error: OSError) -> bool:
    """Whether ``error`` comes from a limit on files, processes or memory."""
    return error.errno in _LIMITS


def limit_reached(error: OSError) -> str:
    """The limit behind ``error`` and the remedy; any other error's own text."""
    return _LIMITS.get(error.errno or 0, error.strerror or str(error))


def available_memory(root: str = "/") -> Optional[int]:
    """Bytes that this process may still take without swapping; None where Linux does not say.

    A container's limit is that of version 2 of the control groups. What caches files is free.
    """
    group = f"{root}/sys/fs/cgroup/memory"
    free = re.search(r"MemAvailable: +(\d+) kB", read_text(f"{root}/proc/meminfo"))
    left = [1024 * int(free[1])] if free else []
    cached = re.search(r"^file (\d+)", read_text(f"{group}.stat"), re.MULTILINE)
    most = read_text(f"{group}.max").strip()
    if cached and most.isdecimal():
        left.append(int(most) - int(read_text(f"{group}.current")) + int(cached[1]))
    return min(left, default=None)
