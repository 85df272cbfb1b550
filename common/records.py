"""MXNet's record files (``X.rec`` with ``X.idx``), written and checked without MXNet.

A record is ``magic, flag<<29 | length, payload, padding to 4 bytes``, little-endian words of 32
bits. A payload that happens to hold the magic number at a multiple of 4 bytes is stored in parts
(flag 1 first, 2 middle, 3 last) without those four bytes, which the reader puts back. An image's
payload is a header ``flag, label, id, id2`` (flag 0: one label; flag n: n floats follow) and
the encoded image. The index is text: a line ``key<TAB>offset`` for each record.
Format: dmlc-core's recordio.h and MXNet's image_recordio.h.
"""

import mmap
import os
import struct
from typing import NamedTuple, Optional

import numpy as np

from common.cli import UserError
from common.files import atomic

MAGIC = 0xCED7230A
_MAGIC_BYTES = struct.pack("<I", MAGIC)
_MAX_LENGTH = (1 << 29) - 1
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)
_HEADER = struct.Struct("<IfQQ")


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
            self._rec.write(struct.pack("<II", MAGIC, flag << 29 | len(part)))
            self._rec.write(part + b"\0" * (-len(part) % 4))
        self.count += 1


class create:
    """Context: a :class:`RecordWriter` whose ``prefix.rec``, ``.idx`` appear only when whole.

    With ``classes`` (names, in label order) ``prefix-classes.txt`` is written too, a name a line.
    """

    def __init__(self, prefix: str, classes=None):
        paths = [f"{prefix}.rec", f"{prefix}.idx"]
        if classes is not None:
            paths.append(f"{prefix}-classes.txt")
        self._classes = classes
        self._atomic = atomic(*paths)

    def __enter__(self):
        rec, idx, *names = self._atomic.__enter__()
        if names:
            with open(names[0], "w", encoding="utf-8") as file:
                file.writelines(f"{name}\n" for name in self._classes)
        self._files = open(rec, "wb", buffering=1 << 20), open(idx, "wb", buffering=1 << 20)
        return RecordWriter(*self._files)

    def __exit__(self, *error):
        for file in self._files:
            file.close()
        return self._atomic.__exit__(*error)


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
    classes: Optional[list]  # names from PREFIX-classes.txt, None without that file

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
    size = os.path.getsize(path)
    if size == 0:
        raise UserError(f"{path}: is empty; make it again")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        offsets, labels = _walk(path, view, size)
    offsets = np.asarray(offsets, np.int64)
    _check_index(path, offsets)
    return Records(path, offsets, np.asarray(labels, np.float32), _class_names(path))


def index_path(path: str) -> str:
    """'X.rec' -> 'X.idx'."""
    return os.path.splitext(path)[0] + ".idx"


def _walk(path, view, size):
    offsets, labels = [], []
    at = 0
    inside = False  # between the first and the last part of one record
    head, header = struct.Struct("<II").unpack_from, _HEADER.unpack_from
    while at < size:
        if at + 8 > size:
            raise _cut(path, len(offsets), at)
        magic, word = head(view, at)
        if magic != MAGIC:
            if at == 0:
                raise UserError(
                    f"{path}: is not an MXNet record file (no magic number at its start)"
                )
            raise UserError(
                f"{path}: damaged at byte {at}, after {len(offsets)} good records; make it again"
            )
        flag, length = word >> 29, word & _MAX_LENGTH
        end = at + 8 + length + -length % 4
        if end > size:
            raise _cut(path, len(offsets), at)
        if inside != (flag in (_MIDDLE, _LAST)) or flag > _LAST:
            raise UserError(
                f"{path}: damaged at byte {at}: part {flag} of a record out of place; make it again"
            )
        if not inside:
            if length < _HEADER.size:
                raise UserError(
                    f"{path}: the record at byte {at} is shorter than an image header; make it again"
                )
            count, label, _, _ = header(view, at + 8)
            if count > 1:
                raise UserError(
                    f"{path}: the record at byte {at} has {count} labels; classification needs one"
                )
            if count == 1:
                (label,) = struct.unpack_from("<f", view, at + 8 + _HEADER.size)
            offsets.append(at)
            labels.append(label)
        inside = flag in (_FIRST, _MIDDLE)
        at = end
    if inside:
        raise _cut(path, len(offsets), at)
    return offsets, labels


def _cut(path, count, at):
    return UserError(f"{path}: is cut off after {count} records, at byte {at}; make it again")


def _check_index(path, offsets):
    index = index_path(path)
    if not os.path.exists(index):
        with atomic(index) as temporary, open(temporary, "w") as file:
            file.writelines(f"{key}\t{offset}\n" for key, offset in enumerate(offsets))
        return
    try:
        with open(index) as file:
            keys = [tuple(map(int, line.split("\t"))) for line in file]
        listed = np.array(sorted(offset for _, offset in keys), np.int64)
    except ValueError:
        raise UserError(f"{index}: is not a record index; delete it and it is made again")
    if not np.array_equal(listed, offsets):
        raise UserError(
            f"{index}: does not fit {path} ({len(listed)} entries for {len(offsets)} records, or"
            " other offsets); delete it and it is made again"
        )


def _class_names(path):
    names = os.path.splitext(path)[0] + "-classes.txt"
    if not os.path.exists(names):
        return None
    with open(names, encoding="utf-8") as file:
        return file.read().splitlines()
