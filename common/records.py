"""MXNet's record files (``X.rec`` with ``X.idx``), written and checked without MXNet.

A record is ``magic, flag<<29 | length, payload, padding to 4 bytes``, little-endian words of 32
bits. A payload that happens to hold the magic number at a multiple of 4 bytes is stored in parts
(flag 1 first, 2 middle, 3 last) without those four bytes, which the reader puts back. An image's
payload is a header ``flag, label, id, id2`` (flag 0: one label; flag n: n floats follow) and
the encoded image. The index is text: a line ``key<TAB>offset`` for each record.
Format: dmlc-core's recordio.h and MXNet's image_recordio.h.
"""

import contextlib
import mmap
import os
import struct
from typing import Iterator, List, NamedTuple, Optional, Sequence

import numpy as np

from common.cli import UserError
from common.files import atomic

MAGIC = 0xCED7230A
_MAGIC_BYTES = struct.pack("<I", MAGIC)
_MAX_LENGTH = (1 << 29) - 1
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)
_PART = struct.Struct("<II")  # magic, flag << 29 | length
_HEADER = struct.Struct("<IfQQ")  # number of further labels, label, id, id2
_SPARSE = 1 << 14  # bytes a record from which on a disk is faster asked for heads alone


class RecordWriter:
    """Write images to two open files. Use it through :func:`create`."""

    def __init__(self, rec, idx):
        self._rec, self._idx = rec, idx
        self.count = 0

    def write(self, label: float, image: bytes) -> None:
        """Append ``image`` (an encoded picture) with its class number; its key is its position."""
        payload = _HEADER.pack(0, label, self.count, 0) + image
        if len(payload) > _MAX_LENGTH:
            raise ValueError(f"a record of {len(payload)} bytes is over the format's 2**29")
        self._idx.write(f"{self.count}\t{self._rec.tell()}\n".encode())
        parts = _split(payload)
        for i, part in enumerate(parts):
            if len(parts) == 1:
                flag = _WHOLE
            else:
                flag = _FIRST if i == 0 else _LAST if i == len(parts) - 1 else _MIDDLE
            self._rec.write(_PART.pack(MAGIC, flag << 29 | len(part)))
            self._rec.write(part + b"\0" * (-len(part) % 4))
        self.count += 1


@contextlib.contextmanager
def create(prefix: str, classes: Optional[Sequence[str]] = None) -> Iterator[RecordWriter]:
    """Yield a :class:`RecordWriter` whose ``prefix.rec`` and ``.idx`` appear only when whole.

    With ``classes`` (names, in label order) ``prefix-classes.txt`` is written too, a name a line.
    If the block raises, none of them appears and files of those names from before stay.

    Raises:
        UserError: the disk is full.
    """
    paths = [f"{prefix}.rec", f"{prefix}.idx"]
    if classes is not None:
        paths.append(f"{prefix}-classes.txt")
    with atomic(*paths) as (rec_path, idx_path, *names):
        for path in names:
            with open(path, "w", encoding="utf-8") as file:
                file.writelines(f"{name}\n" for name in classes)
        with open(rec_path, "wb", 1 << 20) as rec, open(idx_path, "wb", 1 << 20) as idx:
            yield RecordWriter(rec, idx)


def _split(payload):
    """Cut ``payload`` at every magic number that a reader could take for a record's start."""
    parts, start, at = [], 0, payload.find(_MAGIC_BYTES)
    while at >= 0:
        if at % 4 == 0:
            parts.append(payload[start:at])
            start = at + 4
            at = payload.find(_MAGIC_BYTES, start)
        else:
            at = payload.find(_MAGIC_BYTES, at + 1)
    parts.append(payload[start:])
    return parts


class Records(NamedTuple):
    """What :func:`scan` found: the file and, for every record, its offset and label."""

    path: str
    offsets: np.ndarray  # (N,) int64
    labels: np.ndarray  # (N,) float32
    classes: Optional[List[str]]  # names from PREFIX-classes.txt, None without that file

    def __len__(self):
        return len(self.offsets)


def scan(path: str) -> Records:
    """Read the structure of the record file ``path`` and of its index.

    MXNet aborts the process on a damaged record file, so this runs first: every record's magic
    number, length and header, and that each index line points at a record.

    Raises:
        UserError: no such file, not a record file, cut or damaged, or an index of another file.
    """
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such record file; data/README.md says how to make one")
    if os.path.getsize(path) == 0:
        raise UserError(f"{path}: is empty; make it again")
    index = index_path(path)
    listed = _listed(index)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        _fetch_heads(view, listed)
        offsets, labels = _walk(path, view)
    offsets = np.asarray(offsets, np.int64)
    if listed is None:
        with atomic(index) as temporary, open(temporary, "w") as file:
            file.writelines(f"{key}\t{offset}\n" for key, offset in enumerate(offsets))
    elif not np.array_equal(listed, offsets):
        raise UserError(
            f"{index}: does not fit {path} ({len(listed)} entries for {len(offsets)} records, or"
            " other offsets); delete it and it is made again"
        )
    return Records(path, offsets, np.asarray(labels, np.float32), _class_names(path))


def index_path(path: str) -> str:
    """'X.rec' -> 'X.idx'."""
    return os.path.splitext(path)[0] + ".idx"


def _listed(index):
    """The offsets in the file ``index``, sorted; None if there is no such file."""
    if not os.path.exists(index):
        return None
    try:
        with open(index) as file:
            entries = dict(map(int, line.split("\t")) for line in file)
        return np.array(sorted(entries.values()), np.int64)
    except (ValueError, OverflowError):
        raise UserError(f"{index}: is not a record index; delete it and it is made again")


def _fetch_heads(view, listed):
    """Ask for every listed record's head at once, unless records are so small that all is read.

    Only a hint, and only for a file that is not in memory yet: a disk answers many requests sooner
    than one after the other, and reading ahead as :func:`_walk` goes would read the whole file.
    """
    if listed is None or len(view) < len(listed) * _SPARSE:
        return
    for at in listed[(listed >= 0) & (listed < len(view))].tolist():
        into_page = at % mmap.PAGESIZE
        view.madvise(mmap.MADV_WILLNEED, at - into_page, into_page + _PART.size + _HEADER.size)


def _walk(path, view):
    """Check every record; return where each starts and its label."""
    offsets, labels = [], []
    inside = False  # a record whose last part is still to come
    for at, flag, length in _parts(path, view):
        if flag not in ((_MIDDLE, _LAST) if inside else (_WHOLE, _FIRST)):
            raise UserError(f"{path}: a part is out of place at byte {at}; make it again")
        if not inside:
            offsets.append(at)
            labels.append(_label(path, view, at, length))
        inside = flag in (_FIRST, _MIDDLE)
    if inside:
        raise _cut(path, offsets[-1])
    return offsets, labels


def _parts(path, view):
    """Yield offset, flag and length of each part of each record."""
    at, size = 0, len(view)
    while at < size:
        if at + _PART.size > size:
            raise _cut(path, at)
        magic, word = _PART.unpack_from(view, at)
        if magic != MAGIC and at == 0:
            raise UserError(f"{path}: is not an MXNet record file (no magic number at its start)")
        if magic != MAGIC:
            raise UserError(f"{path}: is damaged at byte {at}; make it again")
        flag, length = word >> 29, word & _MAX_LENGTH
        end = at + _PART.size + length + -length % 4
        if end > size:
            raise _cut(path, at)
        yield at, flag, length
        at = end


def _label(path, view, at, length):
    """The one label of the record at ``at``, whose first part holds ``length`` bytes."""
    start, count = at + _PART.size, 0
    if length >= _HEADER.size:
        count, label, _, _ = _HEADER.unpack_from(view, start)
        if count == 0:
            return label
        if count == 1 and length >= _HEADER.size + 4:
            return struct.unpack_from("<f", view, start + _HEADER.size)[0]
    if count > 1:
        raise UserError(f"{path}: the record at byte {at} has {count} labels; one is needed")
    raise UserError(f"{path}: the record at byte {at} is too short for an image; make it again")


def _cut(path, at):
    return UserError(f"{path}: is cut off inside the record at byte {at}; make it again")


def _class_names(path):
    names = os.path.splitext(path)[0] + "-classes.txt"
    if not os.path.exists(names):
        return None
    try:
        with open(names, encoding="utf-8") as file:
            return [line.rstrip("\n") for line in file]
    except UnicodeDecodeError:
        raise UserError(f"{names}: is not UTF-8 text; write a class name a line")
