"""Recognise a record file and its companions without reading them whole."""

import hashlib
import os
from typing import List, Optional

from .checksums import checksums_path
from .index import index_path

_ENDS = 1 << 16  # bytes at the start and at the end of a file that are hashed


def record_files(path: str) -> List[str]:
    """The files that ``path`` names: itself, or those of the set 'a.rec;b.rec'."""
    if ";" not in path or os.path.exists(path):
        return [path]
    return [file for file in path.split(";") if file] or [path]


def check_command(path: str) -> str:
    """What a user types to find a damaged picture in ``path``, a file or a set."""
    return "; ".join(f"python -m data.check {file} --decode" for file in record_files(path))


def records_fingerprint(path: str) -> str:
    """SHA-256, in hex, of the size, the first and the last 64 KiB of each file and its index."""
    digest = hashlib.sha256()
    for name in (name for file in record_files(path) for name in (file, index_path(file))):
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
