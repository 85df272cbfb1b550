"""Some records of a file, in any order, as record files in memory that MXNet can read.

MXNet reads an index as the borders between neighbouring records, so it can neither repeat a record
nor leave one out. What is drawn is therefore copied, undecoded.
"""

import contextlib
import os
from typing import Iterator, Tuple

import numpy as np

from common.records.identity import record_files
from common.records.scan import Records

_BYTES = 64 << 20  # of records that are in memory at once


def files(
    records: Records, numbers: np.ndarray, batch_size: int
) -> Iterator[Tuple[Tuple[str, str], int]]:
    """The records with these numbers, in this order, in files of some 64 MB and a batch at least.

    Yields (path, path of the index) and the number of records; the files are gone when the next is
    asked for.
    """
    paths = record_files(records.path)
    ends = np.cumsum([os.path.getsize(path) for path in paths])
    order = np.argsort(records.offsets)
    sizes = np.empty(len(records), np.int64)
    sizes[order] = np.diff(records.offsets[order], append=ends[-1])
    pieces = max(1, min(sizes[numbers].sum() // _BYTES, len(numbers) // batch_size))
    with contextlib.ExitStack() as stack:
        sources = [stack.enter_context(open(path, "rb")).fileno() for path in paths]
        for part in np.array_split(numbers, pieces):
            with _file() as file, _file() as index:
                for key, number in enumerate(part):
                    at = records.offsets[number]
                    source = int(np.searchsorted(ends, at, side="right"))
                    start = ends[source - 1] if source else 0
                    index.write(b"%d\t%d\n" % (key, file.tell()))
                    file.write(os.pread(sources[source], sizes[number], at - start))
                file.flush(), index.flush()
                yield (_path(file), _path(index)), len(part)


def _file():
    return open(os.memfd_create("records"), "wb")


def _path(file):
    return f"/proc/self/fd/{file.fileno()}"
