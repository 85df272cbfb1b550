"""Walk through the bytes of a record file, past damage too: where records are, what is wrong."""

import bisect
import contextlib
import mmap
import os
import struct
from typing import Iterator, Optional, Sequence, Tuple, Union

from common.cli import UserError

from .format import (
    FIRST,
    HEADER,
    LAST,
    MAGIC,
    MAGIC_BYTES,
    MAX_LENGTH,
    MIDDLE,
    PART,
    SIGNATURES,
    WHOLE,
    padded,
)

HEAD = struct.Struct("<IIIf16x8s")  # PART and HEADER, without the ids, and a picture's beginning
_ENDINGS = (b"\xff\xd9", b"IEND\xaeB`\x82")  # of a whole JPEG, of a PNG


# A record, or a damaged stretch where one should be: its first byte and the one after its last, its
# label if known, and its fault ("has ..."), None if MXNet reads the record.
Stretch = Tuple[int, int, Optional[float], Optional[str]]


@contextlib.contextmanager
def open_records(path: str) -> Iterator[Union[mmap.mmap, bytes]]:
    """Yield the bytes of the record file ``path``; they can be read while the block lasts.

    The file is mapped into memory, or read whole where its file system cannot map files. UserError
    if there is no such file, no record in it, or neither works.
    """
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such record file; data/README.md says how to make one")
    if os.path.getsize(path) == 0:
        raise UserError(f"{path}: is empty; make it again")
    with open(path, "rb") as file, _contents(file, path) as content:
        if content[:4] != MAGIC_BYTES and _next_start(content, 0) == len(content):
            raise UserError(f"{path}: is not an MXNet record file (no magic number at its start)")
        yield content


@contextlib.contextmanager
def _contents(file, path):
    try:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as refusal:  # some shared folders refuse: ENODEV, EINVAL
        try:
            whole = file.read()
        except (OSError, MemoryError):
            cause = getattr(refusal, "strerror", None) or refusal
            raise UserError(
                f"{path}: cannot be mapped into memory ({cause}) and is too large to be read whole;"
                " copy it to a disk of this machine"
            )
        yield whole
        return
    with mapped:
        yield mapped


def walk_records(content: bytes, listed: Sequence[int] = ()) -> Iterator[Stretch]:
    """Yield each record of a file's content, and each damaged stretch between records.

    After damage the walk continues at the next word that can start a record, or at one of the
    offsets ``listed``, sorted, in the index.
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
    """The end, label and fault of the record at ``at``; with a fault the first two may be None."""
    if at + HEAD.size <= len(content):  # a fast path for what nearly all records are
        magic, length, count, label, picture = HEAD.unpack_from(content, at)
        end = at + PART.size + padded(length)
        whole = magic == MAGIC and count == 0 and HEAD.size <= length + PART.size <= MAX_LENGTH
        if whole and end <= len(content) and picture.startswith(SIGNATURES):
            return end, label, None
    end, fault = _end(content, at)
    label, other_fault = _label(content, at)
    return end, label, fault or other_fault


def _end(content, at):
    """Where the last part of the record at ``at`` ends, or None and the reason."""
    start, expected = at, (WHOLE, FIRST)
    while at + PART.size <= len(content):
        magic, word = PART.unpack_from(content, at)
        flag, length = word >> 29, word & MAX_LENGTH
        if magic != MAGIC:
            return None, "has no magic number" + f" at byte {at}" * (at > start)
        if flag not in expected:
            return None, f"has a part out of place at byte {at}"
        at += PART.size + padded(length)
        if flag in (WHOLE, LAST) and at <= len(content):
            return at, None
        expected = (MIDDLE, LAST)
    if not MAGIC_BYTES.startswith(content[start : start + 4]):
        return None, "has no magic number"
    return None, "is cut off, or its length is wrong: it goes beyond the end of the file"


def _label(content, at):
    """The label of the record at ``at``, and what is wrong with its header or picture."""
    if not _can_start(content, at):
        return None, None
    begin = at + PART.size + HEADER.size
    stop = min(at + PART.size + (PART.unpack_from(content, at)[1] & MAX_LENGTH), len(content))
    if begin > stop:
        return None, "is too short for an image"
    count, label, _, _ = HEADER.unpack_from(content, begin - HEADER.size)
    if count > 1:
        return None, f"has {count} labels; one is needed"
    if count == 1:
        if begin + 4 > stop:
            return None, "is too short for an image"
        (label,) = struct.unpack_from("<f", content, begin)
        begin += 4
    if begin == stop:
        return label, "holds no image"
    if not content[begin : min(begin + 8, stop)].startswith(SIGNATURES):
        return label, "holds no JPEG, PNG, BMP or TIFF image, which MXNet needs"
    return label, None


def _can_start(content, at):
    """Whether the bytes at ``at`` can be the start of a record."""
    if at + PART.size > len(content):
        return False
    magic, word = PART.unpack_from(content, at)
    return magic == MAGIC and word >> 29 in (WHOLE, FIRST)


def _is_border(content, end):
    """Whether a record ends at ``end``; if not, its length is wrong or bytes are lost."""
    # This runs for every record, so the flag, the top 3 bits, is compared as a byte: it is fast.
    if content[end : end + 4] == MAGIC_BYTES and content[end + 7 : end + 8] < b"\x40":
        return True
    return end == len(content) or content[end - 12 : end].rstrip(b"\0").endswith(_ENDINGS)


def _next_start(content, at, listed=()):
    """The first offset from ``at`` on where a record can begin, or an earlier one that is listed.

    An earlier one counts only if the index also lists the first start found in the bytes.
    """
    start = content.find(MAGIC_BYTES, at)
    while start >= 0 and (start % 4 or not _can_start(content, start)):
        start = content.find(MAGIC_BYTES, start + 1)
    if start < 0:
        start = len(content)
    first, last = bisect.bisect_left(listed, at), bisect.bisect_left(listed, start)
    if first < last and (start == len(content) or start in listed[last : last + 1]):
        return int(listed[first])
    return start
