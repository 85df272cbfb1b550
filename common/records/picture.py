"""One picture file -> the bytes that a record holds: an upright JPEG or PNG, 8 bits, 3 channels.

MXNet's ImageRecordIter fails on WebP and GIF, ignores the orientation that cameras note in EXIF,
and shows a damaged JPEG as a partly grey picture. So every picture is decoded here once.
Formats: JPEG markers, ITU-T T.81 table B.1; the orientation tag, Exif 2.3 section 4.6.4.
"""

import contextlib
import os
import struct
import zlib
from typing import NamedTuple, Optional, Tuple

import numpy as np

from common.io.opencv import cv2

_PNG = b"\x89PNG\r\n\x1a\n"
_PROOF = cv2.IMREAD_REDUCED_COLOR_8  # every bit of a JPEG is read, at a fraction of the work
# What libjpeg (jerror.h) says of a JPEG that it fills up with grey, or may have read amiss. Stray
# bytes before a marker, which some cameras leave, are the one trace of most lost sectors, too.
_WARNINGS = ("Corrupt JPEG data", "Premature end", "Inconsistent progression")


class Unreadable(ValueError):
    """A picture cannot be decoded, or only in part; the message is the cause."""


def encode(image: bytes, resize: int = 256, quality: int = 95, encoding: str = ".jpg") -> bytes:
    """Return ``image`` (the bytes of a picture file) as ImageRecordIter reads it.

    A picture whose short side is over ``resize`` pixels is scaled down to it; none is enlarged,
    and 0 keeps every size. ``encoding`` is '.jpg' (of ``quality`` 1 to 100) or '.png'. A JPEG that
    needs no change is decoded as a proof and returned as it is. Transparency is dropped; of an
    animation the first frame is taken.

    Raises:
        Unreadable: :func:`fault` finds one, or the format cannot hold the picture.
    """
    jpeg = _read_jpeg(image)
    if encoding == ".jpg" and jpeg and jpeg.plain and not 0 < resize < jpeg.sides[0]:
        _decode(image, _PROOF)
        return bytes(image)
    picture = _decode(image, _reduction(jpeg, resize))
    picture = _shrink(picture, resize, jpeg.sides if jpeg else sorted(picture.shape[:2]))
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if encoding == ".jpg" else []
    with contextlib.suppress(cv2.error):
        done, encoded = cv2.imencode(encoding, picture, options)
        if done:
            return encoded.tobytes()
    height, width = picture.shape[:2]  # a side of more than 65,535 pixels is too long for JPEG
    raise Unreadable(f"its {width}x{height} pixels cannot be encoded as {encoding}")


def fault(image: bytes) -> Optional[str]:
    """Why OpenCV cannot decode ``image``, or perhaps not the whole of it; None if it can."""
    try:
        _decode(image, _PROOF if _read_jpeg(image) else cv2.IMREAD_COLOR)
    except Unreadable as cause:
        return str(cause)
    return None


class _Jpeg(NamedTuple):
    sides: Tuple[int, int]  # the shorter and the longer, in pixels
    plain: bool  # baseline or progressive, grey or of three channels, upright: fit to be stored


# Start-of-frame markers: baseline 0xC0, extended 0xC1, progressive 0xC2, then rarer ones.
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_APP1, _START_OF_SCAN, _END_OF_IMAGE = 0xE1, 0xDA, b"\xff\xd9"


def _read_jpeg(image) -> Optional[_Jpeg]:
    """What the header segments of a JPEG say; None for another format or a strange header.

    Raises:
        Unreadable: the end marker is missing.
    """
    if image[:2] != b"\xff\xd8":
        return None
    at, frame, upright = 2, None, True
    while at + 4 <= len(image) and image[at] == 0xFF:
        marker, length = struct.unpack_from(">BH", image, at + 1)
        body = image[at + 4 : at + 2 + length]
        if marker in _FRAMES and len(body) >= 6:
            frame = (marker, *struct.unpack_from(">xHHB", body))
        elif marker == _APP1 and body[:6] == b"Exif\0\0":
            upright = upright and _orientation(body[6:]) == 1
        elif marker == _START_OF_SCAN:
            # A thumbnail in the header has an end of its own; within the scan 0xFF is escaped.
            if image.rfind(_END_OF_IMAGE, at) < 0:
                raise Unreadable("the JPEG ends early")
            break
        at += 2 + length
    if frame is None:
        return None
    kind, *sides, channels = frame
    return _Jpeg(tuple(sorted(sides)), kind <= 0xC2 and channels in (1, 3) and upright)


def _orientation(tiff):
    """The orientation tag of an EXIF block (1 is upright and the default), 0 if it is damaged."""
    try:
        order = {b"II": "<", b"MM": ">"}[tiff[:2]]
        (start,) = struct.unpack_from(order + "I", tiff, 4)
        (entries,) = struct.unpack_from(order + "H", tiff, start)
        for i in range(entries):
            tag, _, _, value = struct.unpack_from(order + "HHIH", tiff, start + 2 + 12 * i)
            if tag == 0x0112:
                return value
        return 1
    except (KeyError, struct.error):
        return 0


def _reduction(jpeg, resize):
    """The flag with which libjpeg divides a large picture itself, to twice ``resize`` or more.

    It averages as well as OpenCV and skips most of the work. Twice, because scaling what is left
    by less than that would soften the picture.
    """
    if jpeg and resize:
        for factor in (8, 4, 2):
            if jpeg.sides[0] >= 2 * factor * resize:
                return getattr(cv2, f"IMREAD_REDUCED_COLOR_{factor}")
    return cv2.IMREAD_COLOR


def _decode(image, flag):
    """``image`` as (H, W, 3) uint8, upright. Raises Unreadable."""
    if not image:
        raise Unreadable("is empty")
    picture, noise = _quietly(cv2.imdecode, np.frombuffer(image, np.uint8), flag)
    lines = [line for line in noise.splitlines() if line and not line.startswith("[")]
    if picture is None:
        why = f" ({lines[0]})" if lines else ""
        raise Unreadable(f"is not a picture that OpenCV {cv2.__version__} decodes{why}")
    for line in lines:
        if line.startswith(_WARNINGS):
            raise Unreadable(f"is damaged ({line})")
    if image[: len(_PNG)] == _PNG:
        _check_png(image)
    return picture


def _check_png(image):
    """Raise Unreadable if a chunk is damaged: decoders differ in what they forgive."""
    at, kind = len(_PNG), None
    while kind != b"IEND" and at + 12 <= len(image):
        length, kind = struct.unpack_from(">I4s", image, at)
        end = at + 8 + length
        if image[end : end + 4] != struct.pack(">I", zlib.crc32(image[at + 4 : end])):
            raise Unreadable(f"is damaged (the checksum of the PNG's chunk at its byte {at})")
        at = end + 4
    if kind != b"IEND":
        raise Unreadable("is damaged (the PNG ends early)")


def _quietly(function, *args):
    """Call ``function``; return its result and what C code wrote to stderr meanwhile."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)  # a full pipe loses text, it does not stop the decoder
    stderr = os.dup(2)
    os.dup2(writer, 2)
    os.close(writer)
    try:
        result, error = function(*args), ""
    except cv2.error as refusal:
        result, error = None, refusal.err
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
    with open(reader, "rb") as file:
        return result, error + file.read().decode(errors="replace")


def _shrink(picture, resize, sides):
    """Scale ``picture``, whose sides once were ``sides`` (short, long), to a short side."""
    short, long = sides
    if not 0 < resize < short:
        return picture
    height, width = picture.shape[:2]
    size = (resize, round(long * resize / short))
    size = size if height > width else size[::-1]  # width, height
    if min(height, width) < 4 * resize:
        # Then only 2x2 pixels are left to average, which OpenCV does fast: two to four times faster
        # than averaging areas at once, and 42 dB or more from it, where JPEG itself loses more.
        twice = (2 * size[0], 2 * size[1])
        picture = cv2.resize(picture, twice, interpolation=cv2.INTER_LINEAR)
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
