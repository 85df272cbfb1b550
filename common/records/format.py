"""The layout of MXNet's record files, ``X.rec``: no other module knows it.

A record is ``magic, flag << 29 | length, payload, padding to 4 bytes``, little-endian words of 32
bits. A payload that happens to hold the magic number at a multiple of 4 bytes is stored in parts
(flag 1 first, 2 middle, 3 last) without those four bytes, which the reader puts back. An image's
payload is a header ``flag, label, id, id2`` (flag 0: one label; flag n: n floats follow) and
the encoded image. Source: dmlc-core's recordio.h and MXNet's image_recordio.h.
"""

import re
import struct
from typing import List

MAGIC = 0xCED7230A
MAGIC_BYTES = struct.pack("<I", MAGIC)
MAX_LENGTH = (1 << 29) - 1  # bytes of a part; the 3 bits above it are the flag
WHOLE, FIRST, MIDDLE, LAST = range(4)  # flags
PART = struct.Struct("<II")  # magic, flag << 29 | length
HEADER = struct.Struct("<IfQQ")  # number of further labels, label, id, id2
# JPEG, PNG, BMP and TIFF are all that MXNet 1.9.1 decodes. Any other picture kills the process
# (SIGFPE): MXNet divides by the picture's sides, which are then 0.
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0*")


def padded(length: int) -> int:
    """``length`` rounded up to a multiple of 4 bytes."""
    return length + -length % 4


def encode_parts(payload: bytes) -> bytes:
    """The record that holds ``payload``, in one part or more; ValueError from 2**29 bytes on."""
    if len(payload) > MAX_LENGTH:
        raise ValueError(f"a record of {len(payload)} bytes is over the format's 2**29")
    pieces = _split(payload)
    flags = [FIRST, *[MIDDLE] * (len(pieces) - 2), LAST] if len(pieces) > 1 else [WHOLE]
    return b"".join(
        PART.pack(MAGIC, flag << 29 | len(piece)) + piece + b"\0" * (-len(piece) % 4)
        for flag, piece in zip(flags, pieces)
    )


def _split(payload: bytes) -> List[bytes]:
    """Cut ``payload`` at every magic number that a reader could take for a record's start."""
    found = (match.start() for match in re.finditer(re.escape(MAGIC_BYTES), payload))
    cuts = [at for at in found if at % 4 == 0]
    ends = zip([0, *(at + 4 for at in cuts)], [*cuts, len(payload)])
    return [payload[start:end] for start, end in ends]


def read_payload(content: bytes, at: int) -> bytes:
    """The payload (header and picture) of the undamaged record at byte ``at`` of ``content``."""
    pieces, flag = [], FIRST
    while flag in (FIRST, MIDDLE):
        _, word = PART.unpack_from(content, at)
        flag, length = word >> 29, word & MAX_LENGTH
        at += PART.size
        pieces.append(content[at : at + length])
        at += padded(length)
    return MAGIC_BYTES.join(pieces)


def read_image(content: bytes, at: int) -> bytes:
    """The encoded picture in the undamaged record at byte ``at`` of ``content``."""
    payload = read_payload(content, at)
    (count,) = struct.unpack_from("<I", payload)
    return payload[HEADER.size + 4 * count :]
