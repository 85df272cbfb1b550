"""data/pack.py: in order, lazily, and no process left or waited for in vain."""

import multiprocessing
import os
import signal
import struct
import subprocess
import sys
import time

import pytest
from conftest import ROOT, run_script
from pictures import KINDS, jpeg, write_tree

from common.cli import UserError
from common.records.picture import encode
from common.records.writer import create_records
from data import pack, workers


def test_the_packing_processes_do_not_import_mxnet():
    check = "import sys, data.folder; sys.exit('mxnet' in sys.modules)"
    assert run_script("-c", check).returncode == 0


def many(path, count):
    for i in range(count):
        yield f"{i}", 0, str(path)


def test_the_stream_is_read_no_further_ahead_than_promised(tmp_path):
    (tmp_path / "x.jpg").write_bytes(jpeg())
    read = []

    def counted():
        for item in many(tmp_path / "x.jpg", 1000):
            read.append(item)
            yield item

    encoded = pack.encode_all(counted(), workers=2)
    for done in range(1, 400):
        next(encoded)
        assert len(read) <= done + 64 * 2
    encoded.close()
    assert multiprocessing.active_children() == []


def test_bytes_and_files_are_encoded_alike_and_in_order(tmp_path):
    write_tree(tmp_path, KINDS)
    as_bytes = [(name, i, image) for i, (name, image) in enumerate(KINDS.items())] * 3
    as_files = [(name, i, str(tmp_path / name)) for name, i, _ in as_bytes]

    expected = [(name, i, encode(image, resize=20)) for name, i, image in as_bytes]
    assert list(pack.encode_all(as_bytes, 2, resize=20)) == expected
    assert list(pack.encode_all(as_files, 2, resize=20)) == expected


def test_a_killed_process_is_an_error_and_not_a_hang(tmp_path):
    (tmp_path / "x.jpg").write_bytes(jpeg(300, 400))

    def killing():
        for i, item in enumerate(many(tmp_path / "x.jpg", 600)):
            if i == 300:
                os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
            yield item

    refusal = pytest.raises(UserError, match=r"a process died \(killed\? out of memory\?\).* \d+")
    with refusal, create_records(str(tmp_path / "out"), ["a"]) as writer:
        for _, label, image in pack.encode_all(killing(), workers=2):
            writer.write(label, image)
    assert os.listdir(tmp_path) == ["x.jpg"]
    assert multiprocessing.active_children() == []


def test_ctrl_c_is_the_parents_to_answer(tmp_path):
    (tmp_path / "x.jpg").write_bytes(jpeg())
    encoded = pack.encode_all(many(tmp_path / "x.jpg", 600), workers=2)
    next(encoded)
    for process in multiprocessing.active_children():
        os.kill(process.pid, signal.SIGINT)
    assert len(list(encoded)) == 599


def die_within_an_answer(pipe, _encoding):
    pipe.recv()
    os.write(pipe.fileno(), struct.pack("!i", 1000) + b"half an answer")
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_killed_while_it_answers_is_an_error_and_not_a_hang(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "_serve", die_within_an_answer)
    with pytest.raises(UserError, match="a process died"):
        list(pack.encode_all(many(tmp_path / "x.jpg", 100), workers=2))


def test_an_error_of_the_stream_ends_the_processes():
    def failing():
        yield "a", 0, jpeg()
        raise OSError("the archive is damaged")

    with pytest.raises(OSError, match="the archive is damaged"):
        list(pack.encode_all(failing(), workers=2))
    assert multiprocessing.active_children() == []


@pytest.fixture
def running(tmp_path):
    """The command at work on a tree that takes it long, in a process group of its own."""
    tree = write_tree(tmp_path / "tree", {"a/0.jpg": jpeg(1500, 2000)})
    for i in range(1, 3000):
        os.link(tree / "a" / "0.jpg", tree / "a" / f"{i}.jpg")
    command = [sys.executable, "-m", "data.folder", tree, tmp_path / "x", "--workers", "2"]
    process = subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    written = f"x.rec.tmp{process.pid}-*"
    wait_for(lambda: any(path.stat().st_size for path in tmp_path.glob(written)))
    yield process
    process.kill()
    process.communicate()


def wait_for(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as listed:
        return listed.read().split()


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_ctrl_c_ends_it_at_once_quietly_and_leaves_nothing(running, tmp_path):
    workers = children(running.pid)

    os.killpg(running.pid, signal.SIGINT)
    error = running.communicate(timeout=20)[1]

    assert running.returncode == 130
    assert "Traceback" not in error
    assert os.listdir(tmp_path) == ["tree"]
    wait_for(lambda: not any(alive(pid) for pid in workers))


def test_a_kill_leaves_only_temporary_names_and_no_process(running, tmp_path):
    workers = children(running.pid)

    running.kill()

    wait_for(lambda: not any(alive(pid) for pid in workers))
    assert all(".tmp" in name for name in set(os.listdir(tmp_path)) - {"tree"})
