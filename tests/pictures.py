"""Picture files of every kind, good and damaged, made for the tests."""

import struct

import cv2
import numpy as np


def photo(height, width, seed=0):
    """A smooth noisy picture, (height, width, 3) uint8."""
    noise = np.random.default_rng(seed).normal(128, 60, (height // 8 + 2, width // 8 + 2, 3))
    large = cv2.resize(noise.clip(0, 255).astype(np.float32), (width, height))
    return large.round().astype(np.uint8)


def jpeg(height=30, width=40, *options, seed=0):
    return cv2.imencode(".jpg", photo(height, width, seed), options)[1].tobytes()


def file(extension, picture):
    return cv2.imencode(extension, picture)[1].tobytes()


def flat_jpeg(channels):
    """An 8x8 JPEG of middle grey in any number of channels; four are CMYK."""
    ids = range(1, channels + 1)
    one_code = bytes([1] + [0] * 16)  # one Huffman code, the bit 0, for the symbol 0

    def segment(marker, body):
        return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body

    return (
        b"\xff\xd8"
        + segment(0xDB, b"\0" + b"\1" * 64)
        + segment(0xC0, struct.pack(">BHHB", 8, 8, 8, channels) + _each(ids, b"\x11\0"))
        + segment(0xC4, b"\x00" + one_code + b"\x10" + one_code)
        + segment(0xDA, bytes([channels]) + _each(ids, b"\0") + b"\0\x3f\0")
        + b"\0\xff\xd9"
    )


def _each(ids, rest):
    return b"".join(bytes([number]) + rest for number in ids)


def with_exif(image, orientation, order="<", thumbnail=b""):
    """Put an EXIF segment with an orientation behind a JPEG's first marker."""
    entries = struct.pack(order + "HHHI", 1, 0x0112, 3, 1) + struct.pack(
        order + "HH", orientation, 0
    )
    start = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HI", 42, 8)
    body = b"Exif\0\0" + start + entries + struct.pack(order + "I", 0) + thumbnail
    return image[:2] + struct.pack(">BBH", 0xFF, 0xE1, len(body) + 2) + body + image[2:]


GREY = photo(30, 40)[..., 0]
KINDS = {
    "baseline.jpg": jpeg(),
    "progressive.jpg": jpeg(30, 40, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "grey.jpg": file(".jpg", GREY),
    "cmyk.jpg": flat_jpeg(4),
    "one pixel.jpg": jpeg(1, 1),
    "trailing bytes.jpg": jpeg() + b"\0" * 999,
    "rotated.jpg": with_exif(jpeg(), 6),
    "grey.png": file(".png", GREY),
    "grey of 16 bits.png": file(".png", GREY.astype(np.uint16) * 257),
    "of 16 bits.png": file(".png", photo(30, 40).astype(np.uint16) * 257),
    "alpha.png": file(".png", np.dstack([photo(30, 40), GREY])),
    "one pixel.png": file(".png", photo(1, 1)),
    "é 猫.webp": file(".webp", photo(30, 40)),
    "x.BMP": file(".bmp", photo(30, 40)),
    "x.tiff": file(".tiff", photo(30, 40)),
    "x.ppm": file(".ppm", photo(30, 40)),
}
CUT = jpeg(200, 300)[:-900]
LOST_SECTOR = jpeg(375, 500)[:4096] + bytes(512) + jpeg(375, 500)[4608:]
BAD = {
    "cut.jpg": (CUT, "the JPEG ends early"),
    "cut, with a thumbnail.jpg": (with_exif(CUT, 1, "<", jpeg()), "the JPEG ends early"),
    "cut, then closed.jpg": (CUT + b"\xff\xd9", "is damaged"),
    "stray bytes.jpg": (jpeg()[:-2] + b"stray" * 20 + b"\xff\xd9", "is damaged"),
    "lost sector.jpg": (LOST_SECTOR, "is damaged"),
    "only a header.jpg": (jpeg()[:100], "is not a picture"),
    "cut.png": (file(".png", photo(200, 300))[:-900], "is damaged (the PNG ends early)"),
    "cut.webp": (file(".webp", photo(200, 300))[:-900], "is not a picture"),
    "empty.jpg": (b"", "is empty"),
    "text.jpg": (b"<html>404 not found</html>", "is not a picture"),
}


def write_tree(root, files):
    """Write {'class/name': bytes} below ``root``."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root
