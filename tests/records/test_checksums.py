"""Checksums beside the records show what the records cannot: another label, damaged pixels."""

import os
import struct

import numpy as np
import pytest
from conftest import bands, write_records

from common.cli import UserError
from common.records import scan
from common.records.checksums import checksums_path, payload_fault, read_checksums
from common.records.format import read_payload
from common.records.scan import scan_records
from common.records.walk import open_records
from data import check

LABEL = 12  # bytes from a record's start to its label


@pytest.fixture
def path(tmp_path):
    """Twenty records of classes 0, 1 and 2, with checksums."""
    return write_records(tmp_path / "x", *bands(20, seed=3), ["top", "middle", "bottom"])


def edit(path, at, new):
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(new)


@pytest.mark.parametrize("number", [0, 7, 19])
def test_a_label_changed_to_another_class_is_refused_by_its_record(path, number):
    whole = scan_records(path)
    other = (whole.labels[number] + 1) % 3
    edit(path, whole.offsets[number] + LABEL, struct.pack("<f", other))

    with pytest.raises(
        UserError, match=f"x.rec: record {number} has label {other:g}, .*data.check"
    ):
        scan_records(path)


def test_the_scan_in_the_cache_does_not_hide_changed_checksums(path, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(scan, "_LARGE", 20)
    scan_records(path)
    rows = np.load(checksums_path(path))
    rows["label"][4] = 2
    np.save(checksums_path(path), rows)

    with pytest.raises(UserError, match="record 4 has label 1"):
        scan_records(path)


def test_records_without_checksums_are_read(path):
    os.unlink(checksums_path(path))
    assert len(scan_records(path)) == 20


def test_checksums_of_another_file_are_refused(path, tmp_path):
    other = write_records(tmp_path / "y", *bands(21, seed=3))
    os.replace(checksums_path(other), checksums_path(path))
    with pytest.raises(UserError, match="does not fit .*21 rows for 20 records.*delete"):
        scan_records(path)


def test_a_lost_last_record_is_noticed_without_an_index(path, capsys):
    os.truncate(path, scan_records(path).offsets[-1])
    os.unlink(path[:-4] + ".idx")
    with pytest.raises(UserError, match="20 rows for 19 records"):
        scan_records(path)
    assert check.main([path]) == 1
    assert "x-checksums.npy: has 1 rows more than there are records" in capsys.readouterr().out


def test_a_record_that_was_added_has_no_checksum(path):
    (*_, last), rows = scan_records(path).offsets, read_checksums(path)
    with open_records(path) as content:
        payload = read_payload(content, last)
    assert payload_fault(payload, 1, rows) is None
    assert payload_fault(payload, 1, rows[:-1]) == "has no checksum (its number is 19 of 19)"


@pytest.mark.parametrize("length", [0, 5, 100, 200])
def test_cut_checksums_are_refused_in_a_line(path, length):
    os.truncate(checksums_path(path), length)
    with pytest.raises(UserError, match="x-checksums.npy: is damaged; delete it"):
        scan_records(path)


def test_checksums_that_are_a_pickle_run_nothing(path):
    np.save(checksums_path(path), np.array([print], object))
    with pytest.raises(UserError, match="x-checksums.npy: is damaged"):
        scan_records(path)
