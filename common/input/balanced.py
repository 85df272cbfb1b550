"""``--draw balanced``: an epoch in which each class has as many images, those of small ones often.

MXNet reads an index as the borders between neighbouring records, so it can neither repeat a record
nor leave one out. What is drawn is therefore copied, undecoded, into record files in memory.
"""

import os
from typing import Iterator, Tuple

import numpy as np

from common.records.scan import Records

_BYTES = 64 << 20  # of records that are in memory at once


def draw(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """The numbers of ``count`` records in random order: each class equally often, give or take one.

    A class's record comes again only after all others of that class.
    """
    rng = np.random.RandomState(seed)
    classes = rng.permutation(np.unique(labels))
    drawn = []
    for place, label in enumerate(classes):
        own = np.flatnonzero(labels == label)
        wanted = count // len(classes) + (place < count % len(classes))
        rounds = [rng.permutation(own) for _ in range(-(-wanted // len(own)))]
        drawn.extend(np.concatenate(rounds)[:wanted] if rounds else [])
    return rng.permutation(np.array(drawn, np.int64))


def files(
    records: Records, count: int, seed: int, batch_size: int
) -> Iterator[Tuple[Tuple[str, str], int]]:
    """An epoch's drawn records in files of some 64 MB and a batch at least.

    Yields:
        (Path, path of the index), number of records. The files are gone when the next is asked for.
    """
    order = np.argsort(records.offsets)
    ends = np.append(records.offsets[order][1:], os.path.getsize(records.path))
    sizes = np.empty(len(records), np.int64)
    sizes[order] = ends - records.offsets[order]
    numbers = draw(records.labels, count, seed)
    pieces = max(1, min(sizes[numbers].sum() // _BYTES, count // batch_size))
    with open(records.path, "rb") as source:
        for part in np.array_split(numbers, pieces):
            with _file() as file, _file() as index:
                for key, number in enumerate(part):
                    index.write(b"%d\t%d\n" % (key, file.tell()))
                    file.write(os.pread(source.fileno(), sizes[number], records.offsets[number]))
                file.flush(), index.flush()
                yield (_path(file), _path(index)), len(part)


def _file():
    return open(os.memfd_create("records"), "wb")


def _path(file):
    return f"/proc/self/fd/{file.fileno()}"
