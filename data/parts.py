"""A packing job of hours that may be killed at any time: parts that appear only when whole.

The job is cut into parts. A part's encoded images lie one after another in ``NAME.bin``;
``NAME.txt`` has a line for every image the part was made of: ``bytes<TAB>image name``, or, for one
that cannot be read, ``0<TAB>image name<TAB>cause``. Run again, the job makes the missing parts
only. The end is :func:`join`, which copies the images into one record file.
"""

import contextlib
import itertools
import os
import shutil
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Tuple

import numpy as np

from common.cli import UserError
from common.io.files import atomic
from common.records.writer import create_records
from data import pack
from data.progress import progress

# Images that join() holds in memory, to read each part once and in its order: about 300 MB.
_WINDOW = 8192
_SHUFFLE_SEED = 0


class Part(NamedTuple):
    """A whole part: its images, where each lies in NAME.bin, and what could not be read."""

    name: str
    path: str  # of NAME.bin
    names: List[str]  # of the images
    offsets: np.ndarray  # (len(names) + 1,) int64: image i is bytes offsets[i] to offsets[i + 1]
    bad: List[Tuple[str, str]]  # (image name, cause)

    def __len__(self):
        return len(self.names) + len(self.bad)


def find(folder: str) -> Dict[str, Part]:
    """The whole parts in ``folder`` by their NAME; the folder is made if it does not exist."""
    os.makedirs(folder, exist_ok=True)
    files = (os.path.splitext(name) for name in sorted(os.listdir(folder)))
    return {name: _read(folder, name) for name, ending in files if ending == ".bin"}


def _read(folder, name):
    path = os.path.join(folder, name)
    with open(f"{path}.txt", encoding="utf-8") as file:
        rows = [line.rstrip("\n").split("\t") for line in file]
    good = [(int(row[0]), row[1]) for row in rows if len(row) == 2]
    bad = [(row[1], row[2]) for row in rows if len(row) == 3]
    offsets = np.cumsum([0] + [length for length, _ in good], dtype=np.int64)
    if os.path.getsize(f"{path}.bin") != offsets[-1]:
        raise UserError(f"{path}.bin: does not fit {path}.txt; delete both and run again")
    return Part(name, f"{path}.bin", [image for _, image in good], offsets, bad)


def write(folder: str, items: Iterable, title: str, total: Optional[int], **encoding: Any) -> None:
    """Encode ``items`` into parts in ``folder``; ``encoding`` is for :func:`data.pack.encode_all`.

    Each is (image name, part's NAME, bytes); the images of a part come one after another.
    """
    with contextlib.closing(pack.encode_all(items, **encoding)) as encoded:
        results = progress(encoded, title, total)
        for name, images in itertools.groupby(results, key=lambda result: result[1]):
            path = os.path.join(folder, name)
            with atomic(f"{path}.bin", f"{path}.txt") as (binary, index):  # renames .bin last
                _write_part(binary, index, images)


def _write_part(binary, index, images):
    with open(binary, "wb") as data, open(index, "w", encoding="utf-8") as lines:
        for name, _, image in images:
            if isinstance(image, pack.Unreadable):
                lines.write(f"0\t{name}\t{' '.join(str(image).split())}\n")
            else:
                lines.write(f"{len(image)}\t{name}\n")
                data.write(image)


def join(
    job: List[Part],
    prefix: str,
    classes: List[str],
    label: Callable[[str, str], int],
    shuffle: bool,
) -> int:
    """Copy the images of all parts into ``prefix.rec`` and its companions; how many they are.

    The records are written in one sequential pass. Their order is shuffled, always alike, or that
    of the images' names. The parts are read through once for every ``_WINDOW`` images. ``label``
    makes a class of (part's NAME, image name). UserError if the disk has too little room.
    """
    images = [(i, j) for i, part in enumerate(job) for j in range(len(part.names))]
    if shuffle:  # RandomState: its stream is the same in every numpy
        order = np.random.RandomState(_SHUFFLE_SEED).permutation(len(images)).tolist()
    else:
        order = sorted(range(len(images)), key=lambda n: job[images[n][0]].names[images[n][1]])
    _check_room(prefix, sum(int(part.offsets[-1]) + 64 * len(part.names) for part in job))
    title = os.path.basename(prefix)
    with create_records(prefix, classes) as writer:
        for n, image in progress(_windows(job, images, order), title, len(images)):
            i, j = images[n]
            writer.write(label(job[i].name, job[i].names[j]), image)
    return writer.count


def _windows(job, images, order):
    """Yield (n, bytes of images[n]) for each n of ``order``."""
    for start in range(0, len(order), _WINDOW):
        window = order[start : start + _WINDOW]
        held = {}
        for i, group in itertools.groupby(sorted(window), key=lambda n: images[n][0]):
            with open(job[i].path, "rb") as file:
                for n in group:
                    begin, end = job[i].offsets[images[n][1] :][:2].tolist()
                    file.seek(begin)
                    held[n] = file.read(end - begin)
        for n in window:
            yield n, held.pop(n)


def _check_room(prefix, needed):
    free = shutil.disk_usage(os.path.dirname(os.path.abspath(prefix))).free
    if needed > free:
        raise UserError(
            f"{prefix}.rec: needs {needed / 1e9:.1f} GB of disk and {free / 1e9:.1f} GB are free;"
            " make room and run again (what is done is kept)"
        )
