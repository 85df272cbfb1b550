"""Name the limit of the machine behind an OSError, so that nothing else is blamed for it."""

import errno

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
