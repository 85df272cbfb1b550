"""Recognise a record file and its companions without reading them whole."""

import hashlib
import os
from typing import Optional

from .checksums import checksums_path
from .index import index_path

_ENDS = 1 << 16  # bytes at the start and at the end of a file that are hashed


def records_fingerprint(path: str) -> str:
    """SHA-256, in hex, of the size, the first and the last 64 KiB of ``path`` and of its index.

    Raises:
        OSError: one of them cannot be read.
    """
    digest = hashlib.sha256()
    for name in (path, index_path(path)):
        size = os.path.getsize(name)
        with open(name, "rb") as file:
            digest.update(b"%d\n" % size + file.read(_ENDS))
            file.seek(max(0, size - _ENDS))
            digest.update(file.read(_ENDS))
    return digest.hexdigest()


def current_state(path: str) -> Optional[str]:
    """A text that changes when the record file ``path``, its index or its checksums change.

    None if the records or the index are missing.
    """
    names = [path, index_path(path)]
    if os.path.exists(checksums_path(path)):
        names.append(checksums_path(path))
    try:
        states = [os.stat(name) for name in names]
    except FileNotFoundError:
        return None
    times = [(state.st_ino, state.st_mtime_ns) for state in states]
    return f"{times} {records_fingerprint(path)}"
