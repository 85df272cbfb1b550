"""data/check.py: damaged pictures and changed labels, by decoding and by checksums."""

import _multiprocessing
import errno
import multiprocessing
import os
import signal
import struct

import cv2
import numpy as np
import pytest
from pictures import BAD, CUT, KINDS, file, jpeg, photo
from record_files import COUNT, IMAGES, contents, edit, offsets, run, splice, write

from common.cli import UserError
from common.records.format import read_image
from common.records.index import index_path
from common.records.walk import open_records
from data import check


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "x", IMAGES, np.arange(COUNT) % 3)


def read(path, at, count):
    with open(path, "rb") as rec:
        rec.seek(at)
        return rec.read(count)


PNG = file(".png", photo(40, 40))
IDAT = PNG.index(b"IDAT")


def flipped(image, at):
    return image[:at] + bytes([image[at] ^ 1]) + image[at + 1 :]


UNDECODABLE = {
    **{
        name: image
        for name, (image, _) in BAD.items()
        if name not in ("empty.jpg", "text.jpg", "cut.webp")  # no record may hold those
    },
    "half.jpg": jpeg(200, 300)[: len(jpeg(200, 300)) // 2],
    "half, progressive.jpg": jpeg(200, 300, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)[:4000],
    "its scan in zeros.jpg": CUT[:2000] + bytes(2000) + CUT[4000:] + b"\xff\xd9",
    "data.png": flipped(PNG, IDAT + 400),
    "checksum of the data.png": flipped(PNG, PNG.index(b"IEND") - 5),
    "checksum of the end.png": flipped(PNG, len(PNG) - 1),
    "text chunk.png": PNG[:33] + struct.pack(">I", 2) + b"tEXta\0" + bytes(4) + PNG[33:],
    "without its end.png": PNG[:-12],
}


def test_decoding_finds_every_damaged_picture_and_no_other(tmp_path, capsys):
    good = [image for name, image in KINDS.items() if not name.endswith(("webp", "ppm"))]
    images = good + list(UNDECODABLE.values())
    path = write(tmp_path / "x", images, [1] * len(images))
    assert run(capsys, path)[0] == 0, "without decoding nothing is seen"

    code, lines = run(capsys, path, "--decode", "--repair", tmp_path / "out")

    assert code == 1
    named = [line.split(", label 1: ")[0] for line in lines[:-2]]
    assert named == [
        f"record {number} at byte {offsets(path)[number]}"
        for number in range(len(good), len(images))
    ]
    assert contents(str(tmp_path / "out.rec")) == [(1, image) for image in good]


def test_a_jpeg_is_found_wherever_it_is_cut(tmp_path, capsys):
    whole = jpeg(60, 80)
    images = [whole[:length] for length in range(20, len(whole) - 1, 7)]
    path = write(tmp_path / "x", images, [0] * len(images))
    code, lines = run(capsys, path, "--decode")
    assert code == 1
    assert lines[-1] == f"{path}: 0 records good, {len(images)} faulty"


def test_a_killed_process_is_an_error_and_not_a_hang(tmp_path):
    path = write(tmp_path / "x", [CUT, *[jpeg(300, 400)] * 999], [0] * 1000)
    with open_records(path) as content:
        found = list(check.structure(content))
    faults = check.undecodable(path, found, workers=1)
    assert next(faults).number == 0
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    with pytest.raises(UserError, match="x.rec: a process died"):
        list(faults)
    assert multiprocessing.active_children() == []


def test_a_changed_label_is_named_and_left_out(path, tmp_path, capsys):
    good, at = contents(path), offsets(path)[4]
    edit(path, at + 12, struct.pack("<f", (good[4][0] + 1) % 3))
    code, lines = run(capsys, path, "--repair", tmp_path / "out")
    assert code == 1
    assert lines[0].startswith(f"record 4 at byte {at}, label {(good[4][0] + 1) % 3:g}: ")
    assert lines[0].endswith(f"has another checksum: label {good[4][0]:g} was written")
    assert contents(str(tmp_path / "out.rec")) == good[:4] + good[5:]
    assert run(capsys, tmp_path / "out.rec")[0] == 0


def test_every_flipped_bit_of_a_picture_is_named(path, tmp_path, capsys):
    whole, starts = read(path, 0, -1), [*offsets(path), os.path.getsize(path)]
    for seed in range(60):
        number = seed % 10
        picture = read_image(whole, starts[number])
        at = whole.index(picture[-60:], starts[number]) + seed  # unpadded, and not its beginning
        flipped = bytes([whole[at] ^ 1 << seed % 8])
        edit(path, at, flipped)
        code, lines = run(capsys, path)
        assert code == 1 and len(lines) == 2
        assert lines[0].startswith(f"record {number} at byte {starts[number]}, label ")
        assert lines[0].endswith("has another checksum: its picture was changed")
        edit(path, at, whole[at : at + 1])


def test_a_record_that_was_moved_keeps_its_checksum(path, tmp_path, capsys):
    good, starts = contents(path), offsets(path)
    splice(path, starts[2], starts[3] - starts[2])
    os.unlink(index_path(path))
    code, lines = run(capsys, path, "--repair", tmp_path / "out")
    assert code == 1
    assert lines[:2] == [
        f"{index_path(path)}: is missing",
        f"{path[:-4]}-checksums.npy: has 1 rows more than there are records",
    ]
    assert contents(str(tmp_path / "out.rec")) == good[:2] + good[3:]


def test_checksums_of_another_file_condemn_no_record(path, tmp_path, capsys):
    other = write(tmp_path / "y", [jpeg(40, 41)] * 10, [1] * 10)
    os.replace(f"{other[:-4]}-checksums.npy", f"{path[:-4]}-checksums.npy")
    code, lines = run(capsys, path)
    assert code == 1
    assert "x-checksums.npy: does not fit" in lines[0] and "10 records good" in lines[1]


def test_damaged_checksums_are_a_fault_and_repaired(path, tmp_path, capsys):
    good = contents(path)
    with open(f"{path[:-4]}-checksums.npy", "wb") as file:
        file.write(b"\x93NUMPY")
    code, lines = run(capsys, path, "--repair", tmp_path / "out")
    assert code == 1 and "x-checksums.npy: is damaged" in lines[0]
    assert contents(str(tmp_path / "out.rec")) == good


def test_decoding_needs_no_semaphores(tmp_path, capsys, monkeypatch):
    class SemLock(_multiprocessing.SemLock):
        def __new__(cls, *_args, **_options):
            raise OSError(errno.EROFS, "Read-only file system")  # /dev/shm of some containers

    monkeypatch.setattr(_multiprocessing, "SemLock", SemLock)
    path = write(tmp_path / "x", [jpeg(), CUT], [0, 1])
    code, lines = run(capsys, path, "--decode")
    assert code == 1 and lines[-1] == f"{path}: 1 records good, 1 faulty"
