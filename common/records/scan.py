"""Check a record file before MXNet opens it: MXNet aborts the process on a damaged one."""

import mmap
import os
import tempfile
from typing import IO, List, NamedTuple, Optional, Tuple

import numpy as np

from common.cli import UserError

from . import scan_cache
from .checksums import compare_labels
from .class_names import read_class_names
from .identity import current_state, record_files
from .index import index_path, read_index, write_index
from .walk import HEAD, open_records, walk_records

_SPARSE = 1 << 14  # mean bytes a record; above it a disk reads the heads alone faster
_LARGE = 10000  # from this many records on, the result of a scan is cached
_RULES = 2  # raise it when scan_records() refuses more, so that cached results do not count


class Records(NamedTuple):
    """A record file that was scanned, or a set of them: the offset and label of every record."""

    path: str  # of a set 'a.rec;b.rec'
    offsets: np.ndarray  # (N,) int64; a set's files count as one, laid end to end
    labels: np.ndarray  # (N,) float32
    classes: Optional[List[str]]  # names from PREFIX-classes.txt, None without that file

    def __len__(self):
        return len(self.offsets)


def scan_records(path: str) -> Records:
    """Check the structure of the record file ``path``, or of each of 'a.rec;b.rec', and its index.

    That is every record's magic number, length, header and kind of picture, and that each line of
    the index points at a record; UserError names the first fault. Labels are compared with
    ``X-checksums.npy`` if it is there, but pictures are not: that would read the whole file. Files
    of a set need the same class names. A missing index is written. For a large file that has not
    changed since it passed, the result is read from the cache.
    """
    files = record_files(path)
    if files != [path]:
        return _joined(path, [scan_records(file) for file in files])
    state = current_state(path)
    state = state and f"{_RULES} {state}"
    scanned = state and scan_cache.recall(path, state)
    if not scanned:
        scanned = _scan(path)
        if state and len(scanned[0]) >= _LARGE:
            scan_cache.remember(path, state, scanned)
    offsets, labels = scanned
    return Records(path, offsets, labels, read_class_names(path))


def _joined(path, parts):
    """The records of several files as those of one."""
    for part in parts:
        if part.classes != parts[0].classes:
            raise UserError(
                f"{part.path}: its -classes.txt has other names than that of {parts[0].path}; files"
                " of one set need the same"
            )
    ends = np.cumsum([os.path.getsize(part.path) for part in parts])
    offsets = [part.offsets + start for part, start in zip(parts, [0, *ends])]
    labels = [part.labels for part in parts]
    return Records(path, np.concatenate(offsets), np.concatenate(labels), parts[0].classes)


def index_of(records: Records) -> Tuple[str, Optional[IO]]:
    """A name of the index and, for a set of files, the open file, in no folder, behind it."""
    paths = record_files(records.path)
    if len(paths) == 1:
        return index_path(paths[0]), None
    file = tempfile.TemporaryFile("w")  # noqa: SIM115
    file.writelines(f"{i}\t{at}\n" for i, at in enumerate(records.offsets.tolist()))
    file.flush()
    return f"/proc/self/fd/{file.fileno()}", file


def _scan(path):
    """The offsets and labels in ``path``."""
    listed = read_index(path)
    offsets, labels = [], []
    with open_records(path) as content:
        _prefetch_heads(content, listed)
        for at, _, label, fault in walk_records(content):
            if fault:
                raise UserError(
                    f"{path}: record {len(offsets)} at byte {at} {fault}; python -m data.check"
                    f" {path} --decode lists all faults, --repair OUT keeps the rest"
                )
            offsets.append(at)
            labels.append(label)
    offsets, labels = np.asarray(offsets, np.int64), np.asarray(labels, np.float32)
    compare_labels(path, labels)
    if listed is None:
        write_index(path, offsets)
    elif not np.array_equal(listed, offsets):
        raise UserError(
            f"{index_path(path)}: does not fit {path} ({len(listed)} entries for {len(offsets)}"
            " records, or other offsets); delete it and it is made again"
        )
    return offsets, labels


def _prefetch_heads(content, listed):
    """Ask for every listed record's head at once, unless records are so small that all is read.

    This is only a hint, for a file that is not in memory yet: a disk answers many requests sooner
    than one after the other, and its read-ahead would fetch the whole file.
    """
    if isinstance(content, bytes) or listed is None or len(content) < len(listed) * _SPARSE:
        return
    for at in listed[listed < len(content)].tolist():
        into_page = at % mmap.PAGESIZE
        content.madvise(mmap.MADV_WILLNEED, at - into_page, into_page + HEAD.size)
