"""Record files equal MXNet's, and appear only when whole."""

import errno
import os

import numpy as np
import pytest
from conftest import run_script
from record_files import JPEG, PAYLOADS, read, three_records

from common.cli import UserError
from common.records.scan import scan_records
from common.records.writer import create_records


@pytest.fixture
def made(tmp_path):
    return three_records(tmp_path)


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS.keys())
def test_the_bytes_are_those_that_mxnet_writes(tmp_path, payload):
    import mxnet as mx

    prefix = str(tmp_path / "theirs")
    theirs = mx.recordio.MXIndexedRecordIO(f"{prefix}.idx", f"{prefix}.rec", "w")
    with create_records(str(tmp_path / "ours")) as ours:
        for key, label in enumerate((3.0, 7.0)):
            ours.write(label, payload)
            theirs.write_idx(key, mx.recordio.pack(mx.recordio.IRHeader(0, label, key, 0), payload))
    theirs.close()

    assert read(tmp_path / "ours.rec") == read(f"{prefix}.rec")
    assert read(tmp_path / "ours.idx") == read(f"{prefix}.idx")


def test_mxnet_reads_back_every_label_and_payload(tmp_path):
    import mxnet as mx

    prefix = str(tmp_path / "x")
    with create_records(prefix) as writer:
        for label, payload in enumerate(PAYLOADS.values()):
            writer.write(label, payload)

    reader = mx.recordio.MXIndexedRecordIO(f"{prefix}.idx", f"{prefix}.rec", "r")
    for key, payload in enumerate(PAYLOADS.values()):
        head, image = mx.recordio.unpack(reader.read_idx(key))
        assert (head.label, head.id, image) == (key, key, payload)


def test_class_names_keep_their_order_and_their_odd_characters(tmp_path):
    names = ["zebra", "écureuil roux", "a\u2028b", "猫"]
    with create_records(str(tmp_path / "x"), names) as writer:
        writer.write(0, JPEG)

    assert scan_records(str(tmp_path / "x.rec")).classes == names


def test_an_error_leaves_nothing_behind_and_the_old_files_untouched(made, tmp_path):
    before = {name: read(tmp_path / name) for name in os.listdir(tmp_path)}
    with pytest.raises(RuntimeError), create_records(str(tmp_path / "x"), ["other"]) as writer:
        writer.write(0, b"other")
        raise RuntimeError

    assert {name: read(tmp_path / name) for name in os.listdir(tmp_path)} == before


def test_a_class_name_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    with pytest.raises(UnicodeEncodeError), create_records(str(tmp_path / "x"), ["\udcff"]):
        pass
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_one_line_and_leaves_nothing_behind(tmp_path):
    refusal = pytest.raises(UserError, match=r"x.rec: cannot be written: .*space")
    with refusal, create_records(str(tmp_path / "x")):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert os.listdir(tmp_path) == []


KILLED_AT_A_RENAME = """
import os, sys
from common.records.writer import create_records
replace, left = os.replace, int(sys.argv[2])
def dying(*paths):
    global left
    left -= 1
    if left < 0:
        os._exit(9)
    replace(*paths)
os.replace = dying
with create_records(sys.argv[1], ["cat"]) as writer:
    writer.write(0, b"picture")
"""


@pytest.mark.parametrize("renames", range(5))
def test_a_record_file_never_appears_without_its_index_and_classes(tmp_path, renames):
    code = run_script("-c", KILLED_AT_A_RENAME, tmp_path / "x", renames).returncode

    whole = {"x.rec", "x.idx", "x-checksums.npy", "x-classes.txt"}
    there = {name for name in os.listdir(tmp_path) if ".tmp" not in name}
    assert code == (9 if renames < 4 else 0)
    assert len(there) == renames
    assert there == whole or "x.rec" not in there


def test_a_float_label_and_a_large_payload_survive(tmp_path):
    picture = np.random.default_rng(0).bytes(3_000_001)
    with create_records(str(tmp_path / "x")) as writer:
        writer.write(2.5, JPEG + picture)

    assert scan_records(str(tmp_path / "x.rec")).labels.tolist() == [2.5]
    assert picture in read(tmp_path / "x.rec")
