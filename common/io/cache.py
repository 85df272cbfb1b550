"""What was found out about a file, kept in the cache folder until the file changes."""

import contextlib
import hashlib
import os
from typing import List, Optional

import numpy as np

from common.cli import UserError

from .files import atomic, cache_folder


def recall(path: str, identity: str, *names: str) -> Optional[List[np.ndarray]]:
    """The arrays of these names that were kept of ``path`` when it was ``identity``, or None."""
    try:
        with np.load(_place(path), allow_pickle=False) as found:
            if str(found["identity"]) == identity:
                return [found[name] for name in names]
    except Exception:  # not there, or damaged in any way: the file itself is read
        return None
    return None


def remember(path: str, identity: str, **arrays: np.ndarray) -> None:
    """Keep ``arrays`` of ``path``, in place of what was kept before, if that can be written."""
    with contextlib.suppress(OSError, UserError):
        os.makedirs(cache_folder(), exist_ok=True)
        with atomic(_place(path)) as temporary, open(temporary, "wb") as file:
            np.savez(file, identity=identity, **arrays)


def _place(path):
    name = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:16]
    return os.path.join(cache_folder(), f"scan-{name}.npz")
