"""One picture file -> the bytes that a record holds: an upright JPEG or PNG, 8 bits, 3 channels.

MXNet's ImageRecordIter fails on WebP and GIF, ignores the orientation that cameras note in EXIF,
and shows a damaged JPEG as a partly grey picture. So every picture is decoded here once.
simplejpeg decodes JPEGs to the same pixels as OpenCV, and returns libjpeg's warnings of damage,
which OpenCV prints. Everything here may be called by several threads at once.
Formats: JPEG markers, ITU-T T.81 table B.1; the orientation tag, Exif 2.3 section 4.6.4.
"""

import contextlib
import struct
import zlib
from typing import NamedTuple, Optional

import numpy as np
import simplejpeg

from common.io.opencv import cv2

_PNG = b"\x89PNG\r\n\x1a\n"
_PROOF = 8  # the reduction at which every bit of a JPEG is read, at a fraction of the work
_MAX_PIXELS = 1 << 30  # as OpenCV's own limit
# What libjpeg (jerror.h) says of a JPEG that it fills up with grey, or may have misread. Stray
# bytes before a marker are included: some cameras leave them, but most lost sectors leave no other
# trace.
_WARNINGS = ("Corrupt JPEG data", "Premature end", "Inconsistent progression")


class Unreadable(ValueError):
    """A picture cannot be decoded, or only in part; the message is the cause."""


def encode(
    image: bytes,
    resize: int = 256,
    quality: int = 95,
    encoding: str = ".jpg",
    center_crop: bool = False,
) -> bytes:
    """Return ``image`` (the bytes of a picture file) as ImageRecordIter reads it.

    A JPEG that needs no change is decoded as a check and returned byte for byte. Transparency is
    dropped; of an animation the first frame is taken.

    Args:
        resize: pixels; a picture with a longer short side is scaled down to it, none is enlarged.
            0 keeps every size.
        quality: of a JPEG, 1 to 100.
        encoding: '.jpg' or '.png'.
        center_crop: keep the central square only, cut out after the scaling.

    Raises:
        Unreadable: :func:`fault` finds one, or the format cannot hold the picture.
    """
    jpeg = _read_jpeg(image)
    if encoding == ".jpg" and jpeg and _fits(jpeg, resize, center_crop):
        _decode(image, jpeg, _PROOF)
        return bytes(image)
    picture = _decode(image, jpeg, _reduction(jpeg, resize))
    picture = _shrink(picture, resize, sorted(jpeg[:2] if jpeg else picture.shape[:2]))
    if center_crop:
        picture = _central_square(picture)
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if encoding == ".jpg" else []
    with contextlib.suppress(cv2.error):
        done, encoded = cv2.imencode(encoding, picture, options)
        if done:
            return encoded.tobytes()
    height, width = picture.shape[:2]  # a side of more than 65,535 pixels is too long for JPEG
    raise Unreadable(f"its {width}x{height} pixels cannot be encoded as {encoding}")


def decode(image: bytes) -> np.ndarray:
    """The picture in the file content ``image``, upright, BGR, (height, width, 3) uint8.

    Raises:
        Unreadable: OpenCV cannot decode it, or only a part of it.
    """
    return _decode(image, _read_jpeg(image), 1)


def fault(image: bytes) -> Optional[str]:
    """Why ``image`` cannot be decoded, or only in part; None if it can."""
    try:
        _decode(image, _read_jpeg(image), _PROOF)
    except Unreadable as cause:
        return str(cause)
    return None


class _Jpeg(NamedTuple):
    height: int  # pixels, as stored: before it is turned upright
    width: int
    channels: int
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
    kind, height, width, channels = frame
    return _Jpeg(height, width, channels, kind <= 0xC2 and channels in (1, 3) and upright)


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


def _fits(jpeg, resize, center_crop):
    """Whether the JPEG can be stored without a change."""
    if center_crop and jpeg.height != jpeg.width:
        return False
    return jpeg.plain and not 0 < resize < min(jpeg.height, jpeg.width)


def _reduction(jpeg, resize):
    """The factor by which libjpeg reduces a large picture's sides while it decodes.

    libjpeg averages as well as OpenCV and skips most of the work. It leaves a short side of at
    least twice ``resize``: to scale by less than a half afterwards would blur the picture.
    """
    if jpeg and resize:
        for factor in (8, 4, 2):
            if min(jpeg.height, jpeg.width) >= 2 * factor * resize:
                return factor
    return 1


def _decode(image, jpeg, factor):
    """``image`` as (H, W, 3) uint8, upright; a JPEG with its sides divided by ``factor``."""
    if not image:
        raise Unreadable("is empty")
    if jpeg:
        picture = _decode_jpeg(image, jpeg, factor if jpeg.plain else _PROOF)
        if picture is not None and jpeg.plain:
            return picture
    elif image[: len(_PNG)] == _PNG:
        _check_png(image)
    reduced = f"IMREAD_REDUCED_COLOR_{factor}" if jpeg and factor > 1 else "IMREAD_COLOR"
    cause = ""
    try:
        picture = cv2.imdecode(np.frombuffer(image, np.uint8), getattr(cv2, reduced))
    except cv2.error as error:
        picture, cause = None, f" ({' '.join(error.err.split())})"
    if picture is None:
        raise Unreadable(f"is not a picture that OpenCV {cv2.__version__} decodes{cause}")
    return picture


def _decode_jpeg(image, jpeg, factor):
    """The JPEG as it is stored, BGR or CMYK; None if simplejpeg does not know its kind."""
    if jpeg.height * jpeg.width > _MAX_PIXELS:
        raise Unreadable(f"has {jpeg.width}x{jpeg.height} pixels, more than {_MAX_PIXELS}")
    colors = "CMYK" if jpeg.channels == 4 else "BGR"
    height, width = -(-jpeg.height // factor), -(-jpeg.width // factor)
    try:
        return simplejpeg.decode_jpeg(image, colors, min_height=height, min_width=width)
    except ValueError as error:
        if str(error).startswith(_WARNINGS):
            raise Unreadable(f"is damaged ({error})")
    return None


def _check_png(image):
    """Raise Unreadable if a chunk is damaged: decoders differ in what they forgive."""
    at, kind = len(_PNG), None
    while kind != b"IEND":
        length, kind = struct.unpack(">I4s", image[at : at + 8].ljust(8, b"\0"))
        end = at + 8 + length
        if end + 4 > len(image):
            raise Unreadable("is damaged (the PNG ends early)")
        if image[end : end + 4] != struct.pack(">I", zlib.crc32(image[at + 4 : end])):
            raise Unreadable(f"is damaged (the checksum of the PNG's chunk at its byte {at})")
        at = end + 4


def _shrink(picture, resize, sides):
    """Scale ``picture`` to a short side of ``resize``; ``sides`` (short, long) are the file's."""
    short, long = sides
    if not 0 < resize < short:
        return picture
    height, width = picture.shape[:2]
    size = (resize, round(long * resize / short))
    size = size if height > width else size[::-1]  # width, height
    if min(height, width) < 4 * resize:
        # First to twice the size: 2x2 pixels are then left to average, which OpenCV does fast. That
        # takes a half to a quarter of the time of averaging areas at once. The results differ by a
        # PSNR of 42 dB or more; JPEG itself loses more.
        twice = (2 * size[0], 2 * size[1])
        picture = cv2.resize(picture, twice, interpolation=cv2.INTER_LINEAR)
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def _central_square(picture):
    """The central square of ``picture``; an odd pixel is cut off at the bottom or right."""
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return picture[top : top + side, left : left + side]
