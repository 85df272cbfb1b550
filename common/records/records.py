"""MXNet's record files (``X.rec`` with ``X.idx``), written, read and checked without MXNet.

A record is ``magic, flag<<29 | length, payload, padding to 4 bytes``, little-endian words of 32
bits. A payload that happens to hold the magic number at a multiple of 4 bytes is stored in parts
(flag 1 first, 2 middle, 3 last) without those four bytes, which the reader puts back. An image's
payload is a header ``flag, label, id, id2`` (flag 0: one label; flag n: n floats follow) and
the encoded image. The index is text: a line ``key<TAB>offset`` for each record.
Format: dmlc-core's recordio.h and MXNet's image_recordio.h.
"""

import bisect
import contextlib
import hashlib
import mmap
import os
import struct
from typing import Iterator, List, NamedTuple, Optional, Sequence

import numpy as np

from common.cli import UserError
from common.io import cache
from common.io.files import atomic

MAGIC = 0xCED7230A
_MAGIC_BYTES = struct.pack("<I", MAGIC)
_MAX_LENGTH = (1 << 29) - 1
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)
_PART = struct.Struct("<II")  # magic, flag << 29 | length
_HEADER = struct.Struct("<IfQQ")  # number of further labels, label, id, id2
_HEAD = struct.Struct("<IIIf16x8s")  # both of these, without the ids, and a picture's beginning
_SPARSE = 1 << 14  # bytes a record from which on a disk is faster asked for heads alone
_ENDS = 1 << 16  # bytes at the start and the end of a file by which it is known again
_MANY = 10000  # records from which on the result of a scan is kept
_CHECKS = 1  # to be raised when scan() refuses more, so that results kept before do not count
# JPEG, PNG, BMP and TIFF are all that MXNet 1.9.1 decodes. Of another it is killed (SIGFPE): to
# resize it, it divides by its sides, which are 0.
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0*")
_LAST_BYTES = (b"\xff\xd9", b"IEND\xaeB`\x82")  # of a whole JPEG, of a PNG


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
                file.writelines(f"{name}\n" for name in classes or ())
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
    """Check the structure of the record file ``path`` and of its index.

    MXNet aborts the process on a damaged record file, so this runs first: every record's magic
    number, length, header and kind of picture, and that each index line points at a record. For a
    large file that has not changed since it passed, the result is read from the cache.

    Raises:
        UserError: no such file, not a record file, cut or damaged, or an index of another file.
    """
    identity = _identity(path)
    found = identity and cache.recall(path, identity, "offsets", "labels")
    if not found:
        found = _scan(path)
        if identity and len(found[0]) >= _MANY:
            cache.remember(path, identity, offsets=found[0], labels=found[1])
    offsets, labels = found
    return Records(path, offsets, labels, class_names(path))


def _scan(path):
    """The offsets and labels in ``path``; an index that is missing is made."""
    index = index_path(path)
    listed = index_offsets(path)
    offsets, labels = [], []
    with view(path) as content:
        _fetch_heads(content, listed)
        for at, _, label, fault in walk(content):
            if fault:
                raise UserError(
                    f"{path}: record {len(offsets)} at byte {at} {fault}; python -m data.check"
                    f" {path} --decode lists all faults, --repair OUT keeps the rest"
                )
            offsets.append(at)
            labels.append(label)
    offsets = np.asarray(offsets, np.int64)
    if listed is None:
        with atomic(index) as temporary, open(temporary, "w") as file:
            file.writelines(f"{key}\t{offset}\n" for key, offset in enumerate(offsets))
    elif not np.array_equal(listed, offsets):
        raise UserError(
            f"{index}: does not fit {path} ({len(listed)} entries for {len(offsets)} records, or"
            " other offsets); delete it and it is made again"
        )
    return offsets, np.asarray(labels, np.float32)


def index_path(path: str) -> str:
    """'X.rec' -> 'X.idx'."""
    return os.path.splitext(path)[0] + ".idx"


def index_offsets(path: str) -> Optional[np.ndarray]:
    """The offsets in the index of ``path``, sorted, (N,) int64; None if there is no index.

    Raises:
        UserError: it is not what MXNet, in C++ as in Python, reads as an index.
    """
    index = index_path(path)
    if not os.path.exists(index):
        return None
    with open(index, "rb") as file:
        text = file.read()
    # Digits aside, there must be a tab and an end of line by turns, and a number before each.
    marks = text.translate(None, b"0123456789\r")
    lines = (len(marks) + 1) // 2
    numbers = keys = np.empty(0, np.int64)
    if marks in (b"\t\n" * lines, (b"\t\n" * lines)[:-1]):
        numbers = np.fromstring(text, np.int64, sep=" ")
        keys = np.unique(numbers[::2])
    if len(numbers) != 2 * lines or len(keys) != lines or numbers.max(initial=0) >= 2**62:
        raise UserError(f"{index}: is not a record index; delete it and it is made again")
    return np.sort(numbers[1::2])


@contextlib.contextmanager
def view(path: str) -> Iterator[mmap.mmap]:
    """Yield the bytes of the record file ``path``, to be read while the block lasts.

    Raises:
        UserError: no such file, or no record in it.
    """
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such record file; data/README.md says how to make one")
    if os.path.getsize(path) == 0:
        raise UserError(f"{path}: is empty; make it again")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content[:4] != _MAGIC_BYTES and _next_start(content, 0) == len(content):
            raise UserError(f"{path}: is not an MXNet record file (no magic number at its start)")
        yield content


def _fetch_heads(content, listed):
    """Ask for every listed record's head at once, unless records are so small that all is read.

    Only a hint, and only for a file that is not in memory yet: a disk answers many requests sooner
    than one after the other, and reading ahead as :func:`walk` goes would read the whole file.
    """
    if listed is None or len(content) < len(listed) * _SPARSE:
        return
    for at in listed[listed < len(content)].tolist():
        into_page = at % mmap.PAGESIZE
        content.madvise(mmap.MADV_WILLNEED, at - into_page, into_page + _HEAD.size)


def walk(content: bytes, listed: Sequence[int] = ()) -> Iterator[tuple]:
    """Yield (offset, end, label, fault) of each record, and of each damaged stretch between them.

    Args:
        content: of the file, as :func:`view` gives it.
        listed: sorted offsets at which records ought to begin, which helps to part damage.

    The fault, a predicate, is None if MXNet reads the record; the label is None if unknown. After
    damage the walk goes on at the next word that can be the start of a record, or is listed.
    """
    at = 0
    while at < len(content):
        end, label, fault = _record(content, at)
        if fault is None and not _is_border(content, end):
            fault = f"ends at byte {end}, where no record begins"
        if fault:
            end = _next_start(content, at + 4, listed)
        yield at, end, label, fault
        at = end


def _record(content, at):
    """The end, label and fault of the record at ``at``; the first two may be None with a fault."""
    if at + _HEAD.size <= len(content):  # quickly what holds for nearly all
        magic, length, count, label, picture = _HEAD.unpack_from(content, at)
        end = at + _PART.size + length + -length % 4
        whole = magic == MAGIC and count == 0 and _HEAD.size <= length + _PART.size <= _MAX_LENGTH
        if whole and end <= len(content) and picture.startswith(_SIGNATURES):
            return end, label, None
    end, fault = _end(content, at)
    label, other = _label(content, at)
    return end, label, fault or other


def _end(content, at):
    """Where the last part of the record at ``at`` ends, or None and why there is none."""
    start, expected = at, (_WHOLE, _FIRST)
    while at + _PART.size <= len(content):
        magic, word = _PART.unpack_from(content, at)
        flag, length = word >> 29, word & _MAX_LENGTH
        if magic != MAGIC:
            return None, "has no magic number" + f" at byte {at}" * (at > start)
        if flag not in expected:
            return None, f"has a part out of place at byte {at}"
        at += _PART.size + length + -length % 4
        if flag in (_WHOLE, _LAST) and at <= len(content):
            return at, None
        expected = (_MIDDLE, _LAST)
    if not _MAGIC_BYTES.startswith(content[start : start + 4]):
        return None, "has no magic number"
    return None, "is cut off, or its length is wrong: it goes beyond the end of the file"


def _label(content, at):
    """The label of the record at ``at``, and what is wrong with its header or picture."""
    if not _begins(content, at):
        return None, None
    begin = at + _PART.size + _HEADER.size
    stop = min(at + _PART.size + (_PART.unpack_from(content, at)[1] & _MAX_LENGTH), len(content))
    if begin > stop:
        return None, "is too short for an image"
    count, label, _, _ = _HEADER.unpack_from(content, begin - _HEADER.size)
    if count > 1:
        return None, f"has {count} labels; one is needed"
    if count == 1:
        if begin + 4 > stop:
            return None, "is too short for an image"
        (label,) = struct.unpack_from("<f", content, begin)
        begin += 4
    if begin == stop:
        return label, "holds no image"
    if not content[begin : min(begin + 8, stop)].startswith(_SIGNATURES):
        return label, "holds no JPEG, PNG, BMP or TIFF image, which MXNet needs"
    return label, None


def _begins(content, at):
    """Whether what stands at ``at`` can be the start of a record."""
    if at + _PART.size > len(content):
        return False
    magic, word = _PART.unpack_from(content, at)
    return magic == MAGIC and word >> 29 in (_WHOLE, _FIRST)


def _is_border(content, end):
    """Whether a record ends at ``end``, rather than to have a wrong length or lost bytes."""
    # Each record comes by here, so the flag, in the 3 bits at the top, is compared as a byte.
    if content[end : end + 4] == _MAGIC_BYTES and content[end + 7 : end + 8] < b"\x40":
        return True
    return end == len(content) or content[end - 12 : end].rstrip(b"\0").endswith(_LAST_BYTES)


def _next_start(content, at, listed=()):
    """Where from ``at`` on a record can begin, or is listed by an index that is right there."""
    found = content.find(_MAGIC_BYTES, at)
    while found >= 0 and (found % 4 or not _begins(content, found)):
        found = content.find(_MAGIC_BYTES, found + 1)
    if found < 0:
        found = len(content)
    first, last = bisect.bisect_left(listed, at), bisect.bisect_left(listed, found)
    if first < last and (found == len(content) or found in listed[last : last + 1]):
        return int(listed[first])
    return found


def read_image(content: bytes, at: int) -> bytes:
    """The encoded picture in the sound record at ``at``."""
    parts, flag = [], _FIRST
    while flag in (_FIRST, _MIDDLE):
        _, word = _PART.unpack_from(content, at)
        flag, length = word >> 29, word & _MAX_LENGTH
        at += _PART.size
        parts.append(content[at : at + length])
        at += length + -length % 4
    payload = _MAGIC_BYTES.join(parts)
    (count,) = struct.unpack_from("<I", payload)
    return payload[_HEADER.size + 4 * count :]


def is_class(labels, num_classes: Optional[int] = None):
    """Whether a label, or each of an array of them, is a class number, 0 to ``num_classes`` - 1."""
    below = np.inf if num_classes is None else num_classes
    return (labels >= 0) & (labels < below) & (labels == np.floor(labels))


def class_names(path: str) -> Optional[List[str]]:
    """The names in the ``-classes.txt`` of ``path``; None if there is no such file.

    Raises:
        UserError: it is not text.
    """
    names = os.path.splitext(path)[0] + "-classes.txt"
    if not os.path.exists(names):
        return None
    try:
        with open(names, encoding="utf-8") as file:
            return [line.rstrip("\n") for line in file]
    except UnicodeDecodeError:
        raise UserError(f"{names}: is not UTF-8 text; write a class name a line")


def fingerprint(path: str) -> str:
    """SHA-256, in hex, of the size, the first and the last 64 KiB of ``path`` and of its index.

    Raises:
        OSError: one of them cannot be read.
    """
    digest = hashlib.sha256()
    for name in (path, index_path(path)):
        size = os.path.getsize(name)
        with open(name, "rb") as file:
            digest.update(b"%d\n" % size + file.read(_ENDS))
            file.seek(max(0, size - _ENDS))
            digest.update(file.read(_ENDS))
    return digest.hexdigest()


def _identity(path):
    """What tells the file and its index, as they are now, from others; None if one is missing."""
    try:
        states = [os.stat(name) for name in (path, index_path(path))]
    except FileNotFoundError:
        return None
    times = [(state.st_ino, state.st_mtime_ns) for state in states]
    return f"{_CHECKS} {times} {fingerprint(path)}"
