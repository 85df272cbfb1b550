"""common/records/picture.py: each picture is stored as ImageRecordIter reads it or refused."""

import os
import re
import struct
import threading
import zlib

import cv2
import numpy as np
import pytest
from pictures import BAD, KINDS, file, flat_jpeg, jpeg, photo, with_exif

from common.records.picture import Unreadable, decode, encode, fault


def shown(image):
    """Decode as ImageRecordIter does: no EXIF, 3 channels."""
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    return cv2.imdecode(np.frombuffer(image, np.uint8), flags)


def expected_picture(name):
    """The picture that OpenCV decodes; a transparent one is composited on white."""
    content = np.frombuffer(KINDS[name], np.uint8)
    if name != "alpha.png":
        return cv2.imdecode(content, cv2.IMREAD_COLOR)
    stored = cv2.imdecode(content, cv2.IMREAD_UNCHANGED).astype(float)
    share = stored[..., 3:] / 255
    return np.rint(stored[..., :3] * share + 255 * (1 - share)).astype(np.uint8)


def psnr(one, other):
    return 10 * np.log10(255**2 / np.mean((one.astype(float) - other) ** 2))


@pytest.mark.parametrize("encoding", [".jpg", ".png"])
@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_stored_as_eight_bits_and_the_same_picture(name, encoding):
    stored = encode(KINDS[name], encoding=encoding)

    expected = expected_picture(name)
    assert stored.startswith({".jpg": b"\xff\xd8\xff", ".png": b"\x89PNG"}[encoding])
    assert cv2.imdecode(np.frombuffer(stored, np.uint8), cv2.IMREAD_UNCHANGED).dtype == np.uint8
    assert shown(stored).shape == expected.shape
    assert psnr(shown(stored), expected + 0.01) > (30 if encoding == ".jpg" else 75)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", "<>")
def test_a_picture_that_its_camera_turned_is_stored_upright(orientation, order):
    turned = with_exif(jpeg(40, 64), orientation, order)
    upright = cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR)

    stored = encode(turned)

    assert upright.shape[:2] == ((40, 64) if orientation < 5 else (64, 40))
    assert shown(stored).shape == upright.shape
    assert psnr(shown(stored), upright + 0.01) > 30
    assert (stored == turned) == (orientation == 1)


def test_a_damaged_exif_block_is_not_passed_on():
    strange = with_exif(jpeg(), 1).replace(b"II*\0", b"XX*\0")

    stored = encode(strange)

    assert b"Exif" not in stored
    assert shown(stored).shape == (30, 40, 3)


@pytest.mark.parametrize("name", ["baseline.jpg", "progressive.jpg", "grey.jpg", "one pixel.jpg"])
def test_a_small_jpeg_is_stored_byte_for_byte(name):
    assert encode(KINDS[name], resize=30) == KINDS[name]
    assert encode(KINDS[name], resize=0) == KINDS[name]


def test_a_jpeg_of_four_channels_is_never_passed_on():
    assert encode(flat_jpeg(1)) == flat_jpeg(1)
    assert encode(flat_jpeg(3)) == flat_jpeg(3)
    assert encode(flat_jpeg(4)) == file(".jpg", shown(flat_jpeg(4)))


@pytest.mark.parametrize("turn", [False, True])
@pytest.mark.parametrize(
    "size, resize, expected",
    [
        ((29, 50), 30, (29, 50)),
        ((30, 50), 30, (30, 50)),
        ((31, 50), 30, (30, 48)),
        ((31, 31), 30, (30, 30)),
        ((32, 50), 30, (30, 47)),
        ((60, 61), 30, (30, 30)),
        ((100, 250), 30, (30, 75)),
        ((121, 300), 30, (30, 74)),  # libjpeg halves it first
        ((245, 500), 30, (30, 61)),
        ((481, 999), 30, (30, 62)),
        ((1, 500), 30, (1, 500)),
        ((90, 120), 0, (90, 120)),
    ],
)
def test_the_short_side_is_scaled_down_and_never_up(size, resize, expected, turn):
    if turn:
        size, expected = size[::-1], expected[::-1]
    assert shown(encode(jpeg(*size), resize)).shape[:2] == expected
    assert shown(encode(file(".png", photo(*size)), resize)).shape[:2] == expected


@pytest.mark.parametrize("size", [(270, 360), (375, 500), (600, 800), (1100, 1500), (2100, 2800)])
def test_a_scaled_picture_is_close_to_the_average_of_its_areas(size):
    source = jpeg(*size)
    areas = cv2.resize(
        shown(source), (round(size[1] * 256 / size[0]), 256), None, 0, 0, cv2.INTER_AREA
    )

    assert psnr(shown(encode(source, 256, encoding=".png")), areas) > 38  # of JPEG at 95: 33


@pytest.mark.parametrize("name", BAD)
def test_a_damaged_picture_is_unreadable_for_a_cause_and_quietly(name, capfd):
    image, cause = BAD[name]
    for resize in (0, 20, 256):
        with pytest.raises(Unreadable, match=re.escape(cause)):
            encode(image, resize)
    assert cause in fault(image)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("encoding", [".jpg", ".png"])
@pytest.mark.parametrize("name", KINDS)
def test_there_is_no_fault_in_what_is_stored(name, encoding):
    assert fault(KINDS[name]) is None
    assert fault(encode(KINDS[name], 20, encoding=encoding)) is None


@pytest.mark.parametrize("damage", ["IEND", "tEXt", "without its end"])
def test_a_damaged_png_is_unreadable_whatever_the_decoder_forgives(damage):
    whole = file(".png", photo(40, 40))
    damaged = {
        "IEND": whole[:-1] + b"x",
        "tEXt": whole[:33] + b"\0\0\0\x02tEXta\0" + bytes(4) + whole[33:],
        "without its end": whole[:-12],
    }[damage]
    with pytest.raises(Unreadable) as cause:
        encode(damaged)
    assert fault(damaged) == str(cause.value)


def test_a_cut_jpeg_is_noticed_wherever_it_ends():
    whole = jpeg(60, 80)
    for length in range(len(whole) - 1):
        with pytest.raises(Unreadable):
            encode(whole[:length])


def test_a_picture_too_long_for_a_jpeg_is_unreadable():
    long = file(".png", np.zeros((1, 70000, 3), np.uint8))
    with pytest.raises(Unreadable, match="its 70000x1 pixels cannot be encoded as .jpg"):
        encode(long)
    assert shown(encode(long, encoding=".png")).shape == (1, 70000, 3)


def test_a_lower_quality_takes_fewer_bytes():
    large = jpeg(300, 400)
    assert len(encode(large, 256, quality=50)) < len(encode(large, 256, quality=95))


@pytest.mark.parametrize("name", KINDS)
def test_a_picture_is_decoded_to_the_pixels_that_opencv_gives(name):
    assert np.array_equal(decode(KINDS[name]), expected_picture(name))


def test_damage_is_told_apart_in_threads_while_stderr_stays(capfd):
    images = [image for image, _ in BAD.values()] + list(KINDS.values())
    expected, wrong = [fault(image) for image in images], []

    def judge():
        for _ in range(20):
            wrong.extend(image for image, cause in zip(images, expected) if fault(image) != cause)

    threads = [threading.Thread(target=judge) for _ in range(4)]
    for thread in threads:
        thread.start()
    os.write(2, b"somebody else's line")
    for thread in threads:
        thread.join()
    assert wrong == []
    assert capfd.readouterr().err == "somebody else's line"


@pytest.mark.parametrize("size", [(90, 60), (60, 90), (60, 60), (61, 60), (300, 200), (20, 33)])
@pytest.mark.parametrize("resize", [0, 60])
def test_the_central_square_is_cut_out_after_scaling(size, resize):
    source = file(".png", photo(*size))
    whole = shown(encode(source, resize, encoding=".png"))
    side = min(whole.shape[:2])
    top, left = (whole.shape[0] - side) // 2, (whole.shape[1] - side) // 2

    square = shown(encode(source, resize, encoding=".png", center_crop=True))

    assert np.array_equal(square, whole[top : top + side, left : left + side])


def test_only_a_square_jpeg_is_stored_byte_for_byte_as_a_square():
    assert encode(jpeg(40, 40), center_crop=True) == jpeg(40, 40)
    assert shown(encode(jpeg(40, 64), center_crop=True)).shape == (40, 40, 3)


@pytest.mark.parametrize("name", KINDS)
def test_a_grey_picture_is_the_one_that_opencv_gives(name):
    if name == "alpha.png":
        expected = cv2.cvtColor(expected_picture(name), cv2.COLOR_BGR2GRAY)
    else:
        expected = cv2.imdecode(np.frombuffer(KINDS[name], np.uint8), cv2.IMREAD_GRAYSCALE)
    grey = decode(KINDS[name], grey=True)
    assert grey.shape == expected.shape
    assert abs(grey.astype(int) - expected).max() <= (1 if "16 bits" in name else 0)


@pytest.mark.parametrize("extension", [".png", ".tiff"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("most", [127, 255])
def test_the_bits_that_a_picture_uses_are_scaled_to_eight(bits, extension, most):
    picture = photo(30, 40).clip(0, most).astype(np.uint16)
    picture[0, 0] = most
    image = file(extension, picture << (bits - 8))
    assert np.array_equal(decode(image), picture)
    assert np.array_equal(shown(encode(image, encoding=".png")), picture)
    assert psnr(decode(image, grey=True), cv2.cvtColor(decode(image), cv2.COLOR_BGR2GRAY)) > 45


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize("extension", [".png", ".tiff", ".webp"])
def test_a_drawing_on_transparency_is_drawn_on_white(extension, depth):
    drawing = np.zeros((30, 40, 4), depth)  # black, and only the alpha channel tells where
    drawing[5:20, 5:10, 3] = np.iinfo(depth).max
    if extension == ".webp" and depth == np.uint16:
        return  # WebP has 8 bits
    image = cv2.imencode(extension, drawing, [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes()
    expected = np.full((30, 40, 3), 255)
    expected[5:20, 5:10] = 0
    assert np.array_equal(decode(image), expected)
    assert np.array_equal(shown(encode(image, encoding=".png")), expected)


@pytest.mark.parametrize("colour_type", [2, 3])  # of grey ones OpenCV ignores it
def test_a_transparent_colour_of_a_png_is_white(colour_type):
    """Colour and palette PNGs of two pixels, the left of them transparent by tRNS."""
    pixels = {2: b"\5\5\5\x09\x09\x09", 3: b"\0\1"}[colour_type]
    clear = {2: b"\0\5" * 3, 3: b"\0"}[colour_type]
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 8, colour_type, 0, 0, 0))]
    if colour_type == 3:
        chunks.append((b"PLTE", b"\5\5\5\x09\x09\x09"))
    chunks += [(b"tRNS", clear), (b"IDAT", zlib.compress(b"\0" + pixels)), (b"IEND", b"")]
    assert decode(png_of(chunks))[0].tolist() == [[255] * 3, [9] * 3]


def png_of(chunks):
    """A PNG file of (kind, body) chunks."""
    whole = b"\x89PNG\r\n\x1a\n"
    for kind, body in chunks:
        check = zlib.crc32(kind + body)
        whole += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)
    return whole


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_transparent_picture_is_turned_upright(orientation):
    turned = with_png_exif(np.dstack([photo(30, 40), np.full((30, 40), 128, np.uint8)]))
    image = turned(orientation)
    upright = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)
    assert np.abs(decode(image) - (upright / 2 + 127.5)).max() < 2


def with_png_exif(picture):
    """A function: orientation -> the picture as a PNG file with an eXIf chunk."""
    image = file(".png", picture)

    def turned(orientation):
        block = with_exif(b"", orientation)[10:]  # without marker, length and "Exif"
        chunk = b"eXIf" + block
        return (
            image[:33]
            + struct.pack(">I", len(block))
            + chunk
            + struct.pack(">I", zlib.crc32(chunk))
            + image[33:]
        )

    return turned


def huge(kind):
    """A file whose header promises 50,000 x 40,000 pixels, without any."""
    if kind == "png":
        return png_of(
            [(b"IHDR", struct.pack(">IIBBBBB", 50000, 40000, 8, 2, 0, 0, 0)), (b"IEND", b"")]
        )
    whole = bytearray(file("." + kind, np.zeros((3, 5, 3), np.uint8)))
    if kind == "jpg":
        at = whole.index(b"\xff\xc0")
        struct.pack_into(">HH", whole, at + 5, 40000, 50000)
    elif kind == "bmp":
        struct.pack_into("<ii", whole, 18, 50000, -40000)
    elif kind == "webp":
        whole = whole[:12] + b"VP8X\x0a\0\0\0" + bytes(4) + b"\x4f\xc3\0" + b"\x3f\x9c\0"
    elif kind == "ppm":
        whole = whole.replace(b"5 3", b"50000 40000")
    else:
        start = struct.unpack_from("<I", whole, 4)[0]
        for entry in range(start + 2, start + 2 + 12 * whole[start], 12):
            tag, _, _, _ = struct.unpack_from("<HHII", whole, entry)
            if tag in (256, 257):
                struct.pack_into("<HII", whole, entry + 2, 4, 1, {256: 50000, 257: 40000}[tag])
    return bytes(whole)


@pytest.mark.parametrize("kind", ["jpg", "png", "bmp", "tiff", "webp", "ppm"])
def test_a_picture_of_too_many_pixels_is_refused_by_its_header(kind):
    with pytest.raises(Unreadable, match="has 50000x40000 pixels, more than 1999999999"):
        decode(huge(kind), max_pixels=50000 * 40000 - 1)
    if kind != "jpg":  # libjpeg would make 6 GB of them
        with pytest.raises(Unreadable) as cause:
            decode(huge(kind), max_pixels=1 << 33)  # then it is OpenCV that refuses it
        assert "more than" not in str(cause.value)


@pytest.mark.parametrize("name", KINDS)
def test_the_limit_on_pixels_is_exact(name):
    height, width = expected_picture(name).shape[:2]
    decode(KINDS[name], max_pixels=height * width)
    with pytest.raises(Unreadable, match="pixels, more than"):
        decode(KINDS[name], max_pixels=height * width - 1)


@pytest.mark.parametrize("kind", [".jpg", ".png", ".bmp", ".tiff", ".webp", ".ppm"])
def test_a_damaged_header_is_a_picture_or_unreadable(kind):
    whole = file(
        kind,
        np.dstack([photo(9, 9), np.full((9, 9), 99, np.uint8)])[
            ..., : 3 + (kind in (".png", ".tiff", ".webp"))
        ],
    )
    rng = np.random.RandomState(0)
    for _ in range(200):
        damaged = bytearray(whole[: rng.randint(len(whole))] if rng.rand() < 0.3 else whole)
        for at in rng.randint(0, max(1, min(64, len(damaged))), 3):
            damaged[at : at + 1] = bytes([rng.randint(256)])
        try:
            assert decode(bytes(damaged), max_pixels=1 << 20).dtype == np.uint8
        except Unreadable as cause:
            assert len(str(cause).splitlines()) == 1
