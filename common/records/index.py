"""The index of a record file, ``X.idx``: text, a line ``key<TAB>offset`` for each record."""

import os
from typing import Optional, Sequence

import numpy as np

from common.cli import UserError
from common.io.files import atomic


def index_path(path: str) -> str:
    """'X.rec' -> 'X.idx'."""
    return os.path.splitext(path)[0] + ".idx"


def read_index(path: str) -> Optional[np.ndarray]:
    """The offsets in the index of the record file ``path``, sorted, (N,) int64; None without one.

    UserError if MXNet, in C++ or in Python, would not read it as an index.
    """
    index = index_path(path)
    if not os.path.exists(index):
        return None
    with open(index, "rb") as file:
        text = file.read()
    # Without the digits, tabs and line ends must alternate; a number comes before each.
    marks = text.translate(None, b"0123456789\r")
    lines = (len(marks) + 1) // 2
    numbers = keys = np.empty(0, np.int64)
    if marks in (b"\t\n" * lines, (b"\t\n" * lines)[:-1]):
        numbers = np.fromstring(text, np.int64, sep=" ")
        keys = np.unique(numbers[::2])
    if len(numbers) != 2 * lines or len(keys) != lines or numbers.max(initial=0) >= 2**62:
        raise UserError(f"{index}: is not a record index; delete it and it is made again")
    return np.sort(numbers[1::2])


def write_index(path: str, offsets: Sequence[int]) -> None:
    """Write the index of the record file ``path``; the keys are 0, 1, ..."""
    with atomic(index_path(path)) as temporary, open(temporary, "w") as file:
        file.writelines(f"{key}\t{offset}\n" for key, offset in enumerate(offsets))
