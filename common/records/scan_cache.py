"""The result of scanning a large record file, cached until the file changes."""

import contextlib
import hashlib
import os
from typing import Optional, Tuple

import numpy as np

from common.cli import UserError
from common.io.files import atomic, cache_folder

Scanned = Tuple[np.ndarray, np.ndarray]  # offsets (N,) int64, labels (N,) float32


def recall(path: str, state: str) -> Optional[Scanned]:
    """The result that was cached of ``path`` in this ``state``, or None."""
    try:
        with np.load(_cache_path(path), allow_pickle=False) as entries:
            if str(entries["state"]) == state:
                return entries["offsets"], entries["labels"]
    except Exception:  # not there, or damaged in any way: the record file itself is read
        return None
    return None


def remember(path: str, state: str, scanned: Scanned) -> None:
    """Cache the result for ``path`` in place of an earlier one, if that can be written."""
    with contextlib.suppress(OSError, UserError):
        os.makedirs(cache_folder(), exist_ok=True)
        with atomic(_cache_path(path)) as temporary, open(temporary, "wb") as file:
            np.savez(file, state=state, offsets=scanned[0], labels=scanned[1])


def _cache_path(path):
    name = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:16]
    return os.path.join(cache_folder(), f"scan-{name}.npz")
