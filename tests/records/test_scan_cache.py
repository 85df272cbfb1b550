"""The scan of a large file is cached, and used while that file is the same."""

import os

import numpy as np
import pytest
from conftest import bands, write_records

from common.cli import UserError
from common.records import scan
from common.records.index import index_path
from common.records.scan import scan_records


@pytest.fixture
def remembered(tmp_path, monkeypatch):
    """A scanned file of 20 records whose scan is in a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(scan, "_LARGE", 20)
    path = write_records(tmp_path / "x", *bands(20, seed=3), ["top", "middle", "bottom"])
    scan_records(path)
    return path


class Walked(Exception):
    """The file was read."""


@pytest.fixture
def no_walk(remembered, monkeypatch):
    def fail(content):
        raise Walked

    monkeypatch.setattr(scan, "walk_records", fail)


def cache_file(tmp_path):
    (name,) = os.listdir(tmp_path / "cache" / "alexnet-mxnet")
    return tmp_path / "cache" / "alexnet-mxnet" / name


def test_a_file_that_passed_is_not_read_again(remembered, tmp_path, no_walk):
    found = scan_records(remembered)

    _, labels = bands(20, seed=3)
    with open(index_path(remembered)) as index:
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
        scan_records(remembered)


def test_a_damaged_file_is_refused_though_it_once_passed(remembered):
    with open(remembered, "r+b") as file:
        file.seek(-300, os.SEEK_END)
        file.truncate()
    with pytest.raises(UserError, match="record 19 at byte"):
        scan_records(remembered)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", "cut", "flipped", "pickle"])
def test_a_damaged_cache_is_ignored(remembered, tmp_path, content):
    cached = cache_file(tmp_path)
    whole, expected = cached.read_bytes(), scan_records(remembered)
    if content == "cut":
        content = whole[:-40]
    elif content == "flipped":
        middle = whole.index(expected.offsets.tobytes()[8:])
        content = whole[:middle] + b"\1" + whole[middle + 1 :]
    elif content == "pickle":
        np.savez(cached, state=np.array([object()]))
        content = cached.read_bytes()
    cached.write_bytes(content)

    found = scan_records(remembered)

    assert np.array_equal(found.offsets, expected.offsets)
    assert cached.read_bytes() != content, "it is written again"


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(scan, "_LARGE", 20)
    assert len(scan_records(write_records(tmp_path / "x", *bands(20, seed=3)))) == 20


def test_small_files_and_refused_ones_leave_no_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = write_records(tmp_path / "x", *bands(20, seed=3))
    scan_records(path)
    monkeypatch.setattr(scan, "_LARGE", 20)
    with open(path, "r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.truncate()
    with pytest.raises(UserError):
        scan_records(path)
    assert not os.path.exists(tmp_path / "cache")
