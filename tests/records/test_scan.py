"""Every damaged record file is refused before MXNet opens it."""

import errno
import io
import os
import struct

import numpy as np
import pytest
from conftest import bands, write_records
from record_files import JPEG, PAYLOADS, read, rewrite, three_records

from common.cli import UserError
from common.records import scan, walk
from common.records.class_names import is_class
from common.records.format import MAGIC_BYTES as MAGIC
from common.records.format import read_image
from common.records.identity import records_fingerprint
from common.records.index import index_path
from common.records.scan import scan_records
from common.records.walk import open_records
from common.records.writer import create_records


@pytest.fixture
def made(tmp_path):
    return three_records(tmp_path)


def record(payload, flag=0):
    return MAGIC + struct.pack("<I", flag << 29 | len(payload)) + payload


def header(count=0, label=0.0):
    return struct.pack("<IfQQ", count, label, 0, 0)


def test_scan_finds_every_record_of_a_file_with_parts(tmp_path):
    prefix = str(tmp_path / "x")
    with create_records(prefix) as writer:
        for label, payload in enumerate(PAYLOADS.values()):
            writer.write(label, JPEG + payload)

    found = scan_records(f"{prefix}.rec")

    assert len(found) == len(PAYLOADS)
    assert found.labels.tolist() == list(range(len(PAYLOADS)))
    assert found.classes is None
    with open(f"{prefix}.idx") as index:
        assert found.offsets.tolist() == [int(line.split("\t")[1]) for line in index]
    with open_records(f"{prefix}.rec") as content:
        for at, payload in zip(found.offsets.tolist(), PAYLOADS.values()):
            assert read_image(content, at) == JPEG + payload


def test_scan_reads_the_label_behind_a_header_that_counts_one(tmp_path):
    path = str(tmp_path / "x.rec")
    rewrite(path, record(header(count=1, label=9.0) + struct.pack("<f", 5.0) + JPEG))

    assert scan_records(path).labels.tolist() == [5.0]
    with open_records(path) as content:
        assert read_image(content, 0) == JPEG


def test_class_names_that_are_not_utf8_are_refused(made):
    rewrite(made.replace(".rec", "-classes.txt"), "écureuil".encode("latin-1"))
    with pytest.raises(UserError, match="x-classes.txt: is not UTF-8"):
        scan_records(made)


@pytest.mark.parametrize(
    "text, names",
    [
        ("\ufeffcat\r\ndog\r\n", ["cat", "dog"]),
        ("cat\ndog\n\n\n", ["cat", "dog"]),
        ("cat", ["cat"]),
    ],
)
def test_class_names_are_read_as_editors_leave_them(made, text, names):
    rewrite(made.replace(".rec", "-classes.txt"), text.encode())
    assert scan_records(made).classes == names


@pytest.mark.parametrize(
    "text, words", [("cat\n\ndog\n", "line 2 is empty"), ("cat\ndog\ncat\n", "has cat twice")]
)
def test_class_names_that_cannot_be_told_apart_are_refused(made, text, words):
    rewrite(made.replace(".rec", "-classes.txt"), text.encode())
    with pytest.raises(UserError, match=f"x-classes.txt: {words}"):
        scan_records(made)


def test_a_missing_index_is_made_again(made):
    index = index_path(made)
    before = read(index)
    os.unlink(index)

    scan_records(made)

    assert read(index) == before


def test_an_index_in_any_order_is_read(made):
    found = scan_records(made)
    lines = read(index_path(made)).splitlines(keepends=True)
    rewrite(index_path(made), b"".join(reversed(lines)))
    assert np.array_equal(scan_records(made).offsets, found.offsets)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"none.rec: no such record file"):
        scan_records(str(tmp_path / "none.rec"))


@pytest.mark.parametrize(
    "content, cause",
    [
        (b"", "is empty"),
        (b"\xff\xd8\xff\xe0 a picture", "is not an MXNet record file"),
        (b"abc", "is not an MXNet record file"),
        (MAGIC + b"abc", "record 0 at byte 0 is cut off"),
        (record(b"x" * 20), "record 0 at byte 0 is too short"),
        (record(header()[:-4]), "record 0 at byte 0 is too short"),
        (record(header(count=1)), "record 0 at byte 0 is too short"),
        (record(header() + JPEG) + record(b""), "record 1 at byte 36 is too short"),
        (record(header(count=2) + b"x" * 8), "record 0 at byte 0 has 2 labels"),
        (record(header()), "record 0 at byte 0 holds no image"),
        (record(header(count=1) + bytes(4)), "record 0 at byte 0 holds no image"),
        (record(header() + JPEG, flag=3), "has a part out of place at byte 0"),
        (record(header() + JPEG, flag=2), "has a part out of place at byte 0"),
        (record(header() + JPEG, flag=4), "has a part out of place at byte 0"),
        (record(header() + JPEG, flag=1), "record 0 at byte 0 is cut off"),
        (record(header(), flag=1) + record(header()), "has a part out of place at byte 32"),
        (record(header(), flag=1) + record(b"", flag=1), "has a part out of place at byte 32"),
    ],
)
def test_a_file_of_other_content_is_refused(tmp_path, content, cause):
    path = str(tmp_path / "x.rec")
    rewrite(path, content)
    with pytest.raises(UserError, match=cause) as refusal:
        scan_records(path)
    assert str(refusal.value).startswith(f"{path}: ")
    assert "\n" not in str(refusal.value)
    assert not os.path.exists(index_path(path)), "a damaged file must get no index"


def test_a_file_cut_anywhere_is_refused(made):
    whole = read(made)
    for length in range(1, len(whole)):
        rewrite(made, whole[:length])
        with pytest.raises(UserError):
            scan_records(made)


def test_a_file_cut_inside_a_record_is_refused_without_an_index_too(made):
    whole, starts = read(made), scan_records(made).offsets.tolist()
    os.unlink(index_path(made))
    for length in set(range(1, len(whole))) - set(starts):
        rewrite(made, whole[:length])
        with pytest.raises(
            UserError, match=r"record \d at byte \d+ (is cut off|ends)|not an MXNet"
        ):
            scan_records(made)


@pytest.mark.parametrize("image", [b"RIFF....WEBP", b"GIF89a", b"P6 1 1", b"\x89PNG\r\n\0", b"x"])
def test_a_picture_that_mxnet_does_not_decode_is_refused(tmp_path, image):
    with create_records(str(tmp_path / "x")) as writer:
        writer.write(0, JPEG)
        writer.write(0, image)
    with pytest.raises(
        UserError, match="record 1 at byte 36 holds no JPEG, PNG.*data.check .*x.rec"
    ):
        scan_records(str(tmp_path / "x.rec"))


@pytest.mark.parametrize("image", [JPEG, b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0*"])
def test_the_formats_that_mxnet_decodes_pass(tmp_path, image):
    with create_records(str(tmp_path / "x")) as writer:
        writer.write(0, image)
    assert len(scan_records(str(tmp_path / "x.rec"))) == 1


@pytest.mark.parametrize(
    "content, cause",
    [
        ("", "does not fit"),
        ("0\t0\n", "does not fit"),
        ("0\t0\n1\t52\n2\t116\n", "does not fit"),
        ("0\t0\n1\t48\n2\t108\n3\t108\n", "does not fit"),
        ("0\t0\n0\t0\n0\t0\n", "is not a record index"),
        ("0\t0\n1\t48\n1\t108\n", "is not a record index"),
        ("0\t0\n1\t48\n2\t-112\n", "is not a record index"),
        ("0\t0\n1\t48\n2 112\n", "is not a record index"),
        ("0\t0\n1\t48\n\n2\t108\n", "is not a record index"),
        ("0\t0\n1\t4_8\n2\t108\n", "is not a record index"),
        ("0\t0\t1\n48\t2\t108\n", "is not a record index"),
        ("0\t0\n1\n", "is not a record index"),
        ("zero\t0\n", "is not a record index"),
        (f"0\t{2**70}\n", "is not a record index"),
        ("\x89PNG", "is not a record index"),
    ],
)
def test_an_index_of_another_file_is_refused(made, content, cause):
    rewrite(index_path(made), content.encode("latin-1"))
    with pytest.raises(UserError, match=f"x.idx: {cause}.*delete it and it is made again"):
        scan_records(made)


@pytest.mark.parametrize("label", [0, 1, 2.0, 3, -1, -0.5, 0.5, 2**24, np.inf, -np.inf, np.nan])
def test_a_label_is_a_class_number_alone_as_in_an_array(label):
    whole, below_three = label in (0, 1, 2, 3, 2**24), label in (0, 1, 2)
    for form in (label, np.array([label], np.float32)):
        assert is_class(form) == whole
        assert is_class(form, 3) == below_three


def test_asking_for_heads_first_changes_nothing(tmp_path, monkeypatch):
    path = write_records(tmp_path / "x", *bands(20, seed=3))
    plain = scan_records(path)
    monkeypatch.setattr(scan, "_SPARSE", 0)
    asked = scan_records(path)
    assert np.array_equal(asked.offsets, plain.offsets)
    assert np.array_equal(asked.labels, plain.labels)
    index = index_path(path)
    with open(index, "a") as file:  # offsets that lie outside the file
        file.write("20\t9999999999\n")
    with pytest.raises(UserError, match="does not fit"):
        scan_records(path)


def test_the_fingerprint_is_that_of_size_ends_and_index(tmp_path):
    made = {}
    for name, middle in (("a", b"x"), ("b", b"y"), ("c", b"")):
        with create_records(str(tmp_path / name)) as writer:
            writer.write(0, JPEG + bytes(99999) + middle + bytes(99999))
        made[name] = records_fingerprint(str(tmp_path / f"{name}.rec"))
    assert made["a"] == made["b"] != made["c"]
    assert len(made["a"]) == 64
    for name, at in (("a.rec", 40), ("b.rec", -40), ("a.idx", 0)):
        content = bytearray(read(tmp_path / name))
        content[at] ^= 1
        rewrite(tmp_path / name, content)
        assert records_fingerprint(str(tmp_path / f"{name[0]}.rec")) != made[name[0]]
        content[at] ^= 1
        rewrite(tmp_path / name, content)


@pytest.mark.parametrize("code", [errno.ENODEV, errno.EINVAL])
def test_a_file_that_cannot_be_mapped_is_read(made, monkeypatch, code):
    expected = scan_records(made)

    def refuse(*_args, **_options):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(walk.mmap, "mmap", refuse)
    monkeypatch.setattr(scan, "_SPARSE", 0)
    found = scan_records(made)
    assert found.offsets.tolist() == expected.offsets.tolist()
    with open_records(made) as content:
        assert read_image(content, 0) == JPEG + b"picture!!"


def test_a_file_that_can_be_neither_mapped_nor_read_is_named(made, monkeypatch):
    def refuse(*_args, **_options):
        raise OSError(errno.ENODEV, "No such device")

    class File(io.BytesIO):
        def read(self, *_args):
            raise MemoryError

        def fileno(self):
            return 0

    monkeypatch.setattr(walk.mmap, "mmap", refuse)
    monkeypatch.setattr("builtins.open", lambda *_args: File())
    refusal = pytest.raises(UserError, match="x.rec: cannot be mapped into memory .*No such device")
    with refusal, open_records(made):
        pass
