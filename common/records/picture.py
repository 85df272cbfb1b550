"""One picture file -> the bytes that a record holds: an upright JPEG or PNG, 8 bits, 3 channels.

MXNet's ImageRecordIter fails on WebP and GIF, ignores the orientation that cameras note in EXIF,
and shows a damaged JPEG as a partly grey picture. So every picture is decoded here once.
simplejpeg decodes JPEGs to the same pixels as OpenCV, and returns libjpeg's warnings of damage,
which OpenCV prints. Everything here may be called by several threads at once.
"""

import contextlib
import struct
import zlib
from typing import List, Optional

import numpy as np
import simplejpeg

from common.io.opencv import cv2

from .picture_header import PNG, Unreadable, may_be_transparent, picture_size, read_jpeg

# What every OpenCV from 4.5 on decodes. ImageNet's files end in .JPEG: case does not matter.
EXTENSIONS = {
    ".bmp", ".dib", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg",
    ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
}  # fmt: skip
ON_WHITE, TO_8_BITS = "composited on white", "reduced from 16 bits to 8"
MAX_PIXELS = 1 << 30  # as OpenCV's own limit
_PROOF = 8  # the reduction at which every bit of a JPEG is read, at a fraction of the work
# What libjpeg (jerror.h) says of a JPEG that it fills up with grey, or may have misread. Stray
# bytes before a marker are included: some cameras leave them, but most lost sectors leave no other
# trace.
_WARNINGS = ("Corrupt JPEG data", "Premature end", "Inconsistent progression")


def encode(
    image: bytes,
    resize: int = 256,
    quality: int = 95,
    encoding: str = ".jpg",
    center_crop: bool = False,
    changes: Optional[List[str]] = None,
) -> bytes:
    """Return ``image`` (the bytes of a picture file) as ImageRecordIter reads it.

    A short side of more than ``resize`` pixels is scaled down to it, none is enlarged; 0 keeps
    every size. ``center_crop`` then keeps the central square alone. ``quality`` is a JPEG's, 1 to
    100, ``encoding`` '.jpg' or '.png'. ``changes`` is extended by what the picture's pixels needed:
    ``ON_WHITE``, ``TO_8_BITS``. A JPEG that needs no change is decoded as a proof and returned as
    it is. Unreadable if :func:`fault` finds one, or the format cannot hold the picture.
    """
    jpeg = read_jpeg(image)
    if encoding == ".jpg" and jpeg and _fits(jpeg, resize, center_crop):
        _decode(image, jpeg, _PROOF)
        return bytes(image)
    picture = _decode(image, jpeg, _reduction(jpeg, resize), changes=changes)
    picture = _shrink(picture, resize, sorted(jpeg[:2] if jpeg else picture.shape[:2]))
    if center_crop:
        side = min(picture.shape[:2])
        picture = centre(picture, side, side)
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if encoding == ".jpg" else []
    with contextlib.suppress(cv2.error):
        done, encoded = cv2.imencode(encoding, picture, options)
        if done:
            return encoded.tobytes()
    height, width = picture.shape[:2]  # a side of more than 65,535 pixels is too long for JPEG
    raise Unreadable(f"its {width}x{height} pixels cannot be encoded as {encoding}")


def decode(
    image: bytes,
    grey: bool = False,
    max_pixels: int = MAX_PIXELS,
    changes: Optional[List[str]] = None,
    enough: int = 0,
) -> np.ndarray:
    """The picture in the file content ``image``, upright: (height, width, 3) BGR, uint8.

    ``grey`` gives (height, width), the luminance. A JPEG may be decoded smaller, to a short side of
    at least twice ``enough`` pixels. ``changes`` is as :func:`encode` takes it; threads may share
    one list. Unreadable if OpenCV cannot decode it, or not the whole of it, or it has more than
    ``max_pixels``: before it is decoded, if its header tells the size.
    """
    jpeg = read_jpeg(image)
    return _decode(image, jpeg, _reduction(jpeg, enough), grey, max_pixels, changes)


def fault(image: bytes) -> Optional[str]:
    """Why ``image`` cannot be decoded, or only in part; None if it can."""
    try:
        _decode(image, read_jpeg(image), _PROOF)
    except Unreadable as cause:
        return str(cause)
    return None


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


def _decode(image, jpeg, factor, grey=False, max_pixels=MAX_PIXELS, changes=None):
    """``image``, (H, W, 3) or grey (H, W), upright; a JPEG has its sides divided by ``factor``."""
    if not image:
        raise Unreadable("is empty")
    if image[: len(PNG)] == PNG:
        _check_png(image)
    _check_size((jpeg.width, jpeg.height) if jpeg else picture_size(image), max_pixels)
    if jpeg:
        picture = _decode_jpeg(image, jpeg, factor if jpeg.plain else _PROOF, grey)
        if picture is not None and jpeg.plain:
            return picture
    elif may_be_transparent(image):
        picture = _decode_on_white(image, changes)
        if picture is not None:
            return cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY) if grey else picture
    name = "IMREAD_GRAYSCALE" if grey else "IMREAD_COLOR"
    if jpeg and factor > 1:
        name = name.replace("IMREAD", "IMREAD_REDUCED") + f"_{factor}"
    picture = _imdecode(image, getattr(cv2, name), jpeg is None)
    _check_size(picture.shape[1::-1], max_pixels)  # of a format that picture_size does not know
    return _to_8_bits(picture, changes)


def _check_size(sides, max_pixels):
    width, height = sides
    if width * height > max_pixels:
        raise Unreadable(f"has {width}x{height} pixels, more than {max_pixels}")


def _imdecode(image, flags, any_depth):
    """What OpenCV decodes, uint8 or with ``any_depth`` uint16."""
    content = np.frombuffer(image, np.uint8)
    cause = ""
    try:
        picture = cv2.imdecode(content, flags | (cv2.IMREAD_ANYDEPTH if any_depth else 0))
        if picture is not None and picture.dtype not in (np.uint8, np.uint16):
            picture = cv2.imdecode(content, flags)
    except cv2.error as error:
        picture, cause = None, f" ({' '.join(error.err.split())})"
    if picture is None:
        raise Unreadable(f"is not a picture that OpenCV {cv2.__version__} decodes{cause}")
    return picture


def _to_8_bits(picture, changes=None):
    """Keep the upper 8 of the bits that a uint16 picture uses: 8, 10, 12, 14 or 16."""
    if picture.dtype == np.uint8:
        return picture
    if changes is not None:
        changes.append(TO_8_BITS)
    used = int(picture.max()).bit_length()
    return (picture >> max(0, used + used % 2 - 8)).astype(np.uint8)


def _decode_on_white(image, changes):
    """``image`` as BGR on white, or None if all of it is opaque."""
    try:
        stored = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    if stored is None or stored.shape[2:] != (4,) or stored.dtype not in (np.uint8, np.uint16):
        return None
    alpha = _to_8_bits(stored[..., 3])
    if alpha.min() == 255:
        return None
    if changes is not None:
        changes.append(ON_WHITE)
    stored = np.dstack([_to_8_bits(stored[..., :3], changes), alpha])
    # OpenCV turns a picture upright by EXIF only where it drops the alpha channel.
    upright = _to_8_bits(_imdecode(image, cv2.IMREAD_COLOR, True))
    turns = (np.rot90(side, k) for side in (stored, stored[:, ::-1]) for k in range(4))
    return on_white(next((t for t in turns if np.array_equal(t[..., :3], upright)), stored))


def on_white(picture: np.ndarray) -> np.ndarray:
    """Composite (H, W, 4) uint8, alpha last, on white: (H, W, 3)."""
    alpha = picture[..., 3:].astype(np.uint16)
    return ((picture[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def _decode_jpeg(image, jpeg, factor, grey=False):
    """The JPEG as it is stored, BGR, grey or CMYK; None if simplejpeg does not know its kind."""
    colors = "CMYK" if jpeg.channels == 4 else "GRAY" if grey else "BGR"
    height, width = -(-jpeg.height // factor), -(-jpeg.width // factor)
    try:
        picture = simplejpeg.decode_jpeg(image, colors, min_height=height, min_width=width)
    except ValueError as error:
        if str(error).startswith(_WARNINGS):
            raise Unreadable(f"is damaged ({error})")
        return None
    return picture[..., 0] if colors == "GRAY" else picture


def _check_png(image):
    """Raise Unreadable if a chunk is damaged: decoders differ in what they forgive."""
    at, kind = len(PNG), None
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


def centre(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Cut out the centre of a picture; an odd pixel is cut off at the bottom or right."""
    top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    return picture[top : top + height, left : left + width]
