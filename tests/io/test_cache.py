"""What a scan found is kept for a large file, and used while that file is the same."""

import os

import numpy as np
import pytest
from conftest import bands, write_records

from common.cli import UserError
from common.records import records


@pytest.fixture
def remembered(tmp_path, monkeypatch):
    """A scanned file of 20 records whose scan is kept in a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(records, "_MANY", 20)
    path = write_records(tmp_path / "x", *bands(20, seed=3), ["top", "middle", "bottom"])
    records.scan(path)
    return path


class Walked(Exception):
    """The file was read."""


@pytest.fixture
def no_walk(remembered, monkeypatch):
    def fail(content):
        raise Walked

    monkeypatch.setattr(records, "walk", fail)


def cache_file(tmp_path):
    (name,) = os.listdir(tmp_path / "cache" / "alexnet-mxnet")
    return tmp_path / "cache" / "alexnet-mxnet" / name


def test_a_file_that_passed_is_not_read_again(remembered, tmp_path, no_walk):
    found = records.scan(remembered)

    _, labels = bands(20, seed=3)
    with open(records.index_path(remembered)) as index:
        assert found.offsets.tolist() == [int(line.split("\t")[1]) for line in index]
    assert found.offsets.dtype == np.int64 and found.labels.dtype == np.float32
    assert np.array_equal(found.labels, labels)
    assert found.classes == ["top", "middle", "bottom"]
    assert found.path == remembered


@pytest.mark.parametrize("name", ["x.rec", "x.idx"])
@pytest.mark.parametrize("change", ["last byte, same times", "time", "another file"])
def test_a_file_that_changed_is_read_again(remembered, tmp_path, no_walk, name, change):
    path = tmp_path / name
    content, state = path.read_bytes(), os.stat(path)
    if change == "time":
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    elif change == "another file":
        (tmp_path / "copy").write_bytes(content)
        os.replace(tmp_path / "copy", path)
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    else:
        path.write_bytes(content[:-1] + b"\r")
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))

    with pytest.raises(Walked):
        records.scan(remembered)


def test_a_damaged_file_is_refused_though_it_once_passed(remembered):
    with open(remembered, "r+b") as file:
        file.seek(-300, os.SEEK_END)
        file.truncate()
    with pytest.raises(UserError, match="record 19 at byte"):
        records.scan(remembered)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", "cut", "flipped", "pickle"])
def test_a_damaged_cache_is_ignored(remembered, tmp_path, content):
    kept = cache_file(tmp_path)
    whole, expected = kept.read_bytes(), records.scan(remembered)
    if content == "cut":
        content = whole[:-40]
    elif content == "flipped":
        middle = whole.index(expected.offsets.tobytes()[8:])
        content = whole[:middle] + b"\1" + whole[middle + 1 :]
    elif content == "pickle":
        np.savez(kept, identity=np.array([object()]))
        content = kept.read_bytes()
    kept.write_bytes(content)

    found = records.scan(remembered)

    assert np.array_equal(found.offsets, expected.offsets)
    assert kept.read_bytes() != content, "it is written again"


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(records, "_MANY", 20)
    assert len(records.scan(write_records(tmp_path / "x", *bands(20, seed=3)))) == 20


def test_small_files_and_refused_ones_leave_no_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = write_records(tmp_path / "x", *bands(20, seed=3))
    records.scan(path)
    monkeypatch.setattr(records, "_MANY", 20)
    with open(path, "r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.truncate()
    with pytest.raises(UserError):
        records.scan(path)
    assert not os.path.exists(tmp_path / "cache")
