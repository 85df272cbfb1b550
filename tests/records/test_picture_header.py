"""Kinds of picture that the header alone tells, and that must not be passed on as they are."""

import struct
import zlib

import cv2
import numpy as np
from pictures import file, flat_jpeg

from common.records.picture import decode, encode
from common.records.picture_header import read_jpeg


def test_an_arithmetic_or_lossless_jpeg_is_never_passed_on():
    arithmetic, lossless = (
        flat_jpeg(3).replace(b"\xff\xc0", start) for start in (b"\xff\xc9", b"\xff\xc3")
    )
    shown = cv2.imdecode(np.frombuffer(arithmetic, np.uint8), cv2.IMREAD_COLOR)
    assert encode(arithmetic) == file(".jpg", shown)
    assert read_jpeg(flat_jpeg(3)).plain and not read_jpeg(lossless).plain  # few OpenCVs read it


def test_a_lossy_webp_with_alpha_is_composited_on_white():
    clear = np.zeros((30, 40, 4), np.uint8)
    image = cv2.imencode(".webp", clear, [cv2.IMWRITE_WEBP_QUALITY, 90])[1].tobytes()
    assert image[12:16] == b"VP8X" and decode(image).min() == 255


def test_a_grey_png_with_alpha_is_composited_on_white():
    image = b"\x89PNG\r\n\x1a\n"
    head = struct.pack(">IIBBBBB", 2, 1, 8, 4, 0, 0, 0)  # two pixels, the left one transparent
    body = zlib.compress(b"\0" + b"\5\0" + b"\x09\xff")
    for kind, content in ((b"IHDR", head), (b"IDAT", body), (b"IEND", b"")):
        check = struct.pack(">I", zlib.crc32(kind + content))
        image += struct.pack(">I", len(content)) + kind + content + check
    assert decode(image)[0].tolist() == [[255] * 3, [9] * 3]
