"""What the header of a picture file says, read without decoding the picture.

Formats: JPEG markers, ITU-T T.81 table B.1; the orientation tag, Exif 2.3 section 4.6.4; PNG, third
edition, section 11; WebP, RFC 9649, section 2.
"""

import contextlib
import io
import struct
from typing import NamedTuple, Optional, Tuple

import imagesize

PNG = b"\x89PNG\r\n\x1a\n"
_TIFF = (b"II*\0", b"MM\0*")


class Unreadable(ValueError):
    """A picture cannot be decoded, or only in part; the message is the cause."""


class Jpeg(NamedTuple):
    """What the header segments of a JPEG say."""

    height: int  # pixels, as stored: before it is turned upright
    width: int
    channels: int
    plain: bool  # baseline or progressive, grey or of three channels, upright: fit to be stored


# Start-of-frame markers: baseline 0xC0, extended 0xC1, progressive 0xC2, then rarer ones.
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_APP1, _START_OF_SCAN, _END_OF_IMAGE = 0xE1, 0xDA, b"\xff\xd9"


def read_jpeg(image: bytes) -> Optional[Jpeg]:
    """What the header segments of a JPEG say; None for another format or a strange header.

    Unreadable if the end marker is missing.
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
    kind, height, width, channels = frame
    return Jpeg(height, width, channels, kind <= 0xC2 and channels in (1, 3) and upright)


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


def picture_size(image: bytes) -> Tuple[int, int]:
    """(width, height) in pixels of a picture that is no JPEG; (0, 0) where they are not found."""
    width = height = 0
    if image[:2] == b"BM":  # imagesize knows BMP from its version 2 on, for Python 3.10
        with contextlib.suppress(struct.error):
            (length,) = struct.unpack_from("<I", image, 14)  # of the header; 12 in OS/2's form
            width, height = struct.unpack_from("<HH" if length == 12 else "<ii", image, 18)
    else:
        with contextlib.suppress(Exception):  # a damaged header; OpenCV will refuse it
            width, height = imagesize.get(io.BytesIO(image))
    return max(0, width), abs(height) if width > 0 else 0


def may_be_transparent(image: bytes) -> bool:
    """Whether a PNG, a WebP or a TIFF may have an alpha channel or transparent colours."""
    if image[:8] == PNG:
        return bool(image[25:26] in (b"\4", b"\6") or b"tRNS" in image[: image.find(b"IDAT")])
    if image[:4] == b"RIFF":
        if image[12:16] == b"VP8X":
            return bool(image[20:21]) and bool(image[20] & 0x10)
        return image[12:16] == b"VP8L"
    return image[:4] in _TIFF
