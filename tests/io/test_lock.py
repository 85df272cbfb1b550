"""One run at a time at a prefix: common/io/lock.py, with real processes and threads."""

import builtins
import contextlib
import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest
from conftest import ROOT, assert_refused, run_script

from common.cli import UserError
from common.io.lock import lock

HOLD = """
import sys, common.runtime.mxnet
from common.io.lock import lock
with lock(sys.argv[1]):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_another_process_is_refused_until_the_owner_is_dead(tmp_path):
    prefix = str(tmp_path / "x")
    owner = subprocess.Popen(
        [sys.executable, "-c", HOLD, prefix],
        env={**os.environ, "PYTHONPATH": ROOT},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with owner:
        try:
            assert owner.stdout.readline() == b"locked\n"
            with pytest.raises(UserError) as error, lock(prefix):
                pass
            assert f"(process {owner.pid} on {socket.gethostname()})" in str(error.value)
            assert prefix in str(error.value) and "\n" not in str(error.value)
        finally:
            owner.kill()
    assert owner.returncode == -signal.SIGKILL
    assert os.path.exists(f"{prefix}.lock")  # and no obstacle
    with lock(prefix) as locked:
        assert locked
    assert not os.path.exists(f"{prefix}.lock")


def side_by_side(count, function):
    threads = [threading.Thread(target=function) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_of_several_starters_exactly_one_wins(tmp_path):
    prefix, count = str(tmp_path / "x"), 6
    for _ in range(20):
        begin, decided = threading.Barrier(count), threading.Barrier(count)
        won = []

        def start(begin=begin, decided=decided, won=won):
            begin.wait()
            with contextlib.ExitStack() as stack:
                try:
                    stack.enter_context(lock(prefix))
                    won.append(threading.get_ident())
                except UserError:
                    pass
                decided.wait()

        side_by_side(count, start)
        assert len(won) == 1
    assert os.listdir(tmp_path) == []


def test_no_two_are_inside_while_many_come_and_go(tmp_path):
    prefix, inside, most, turns = str(tmp_path / "x"), [], [], []

    def come_and_go():
        for _ in range(100):
            with contextlib.suppress(UserError), lock(prefix):
                inside.append(1)
                most.append(len(inside))
                turns.append(1)
                inside.pop()

    side_by_side(4, come_and_go)
    assert max(most) == 1 and len(turns) > 4


def test_a_lock_that_its_last_owner_has_just_removed_is_none(tmp_path, monkeypatch):
    prefix = str(tmp_path / "x")
    flock, removed = fcntl.flock, []

    def after_removal(file, how):
        if not removed:
            removed.append(os.unlink(f"{prefix}.lock"))
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", after_removal)
    with lock(prefix), pytest.raises(UserError), lock(prefix):
        pass


def test_a_folder_that_was_made_goes_if_nothing_was_written_into_it(tmp_path):
    prefix = tmp_path / "new" / "folder" / "x"
    with contextlib.suppress(KeyError), lock(str(prefix)):
        assert prefix.parent.is_dir()
        raise KeyError
    assert os.listdir(tmp_path) == []
    with lock(str(prefix)):
        prefix.touch()
    assert os.listdir(prefix.parent) == ["x"]


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, capsys, code):
    def refuse(*_args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with lock(str(tmp_path / "x")) as locked:
        assert not locked
    warning = capsys.readouterr().err
    assert warning.count("\n") == 1
    assert "cannot be locked on this file system" in warning and os.strerror(code) in warning
    assert os.listdir(tmp_path) == []


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """The prefix of a lock file that another user left and that nobody else may write or delete."""
    (tmp_path / "x.lock").write_text("process 1 on elsewhere")
    true_open, true_unlink = builtins.open, os.unlink  # root, as which tests may run, may do all

    def open_for_reading(path, mode="r", *args, **options):
        if str(path).endswith(".lock") and mode != "rb":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return true_open(path, mode, *args, **options)

    def keep(path, *args, **options):
        if str(path).endswith(".lock"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        true_unlink(path, *args, **options)

    monkeypatch.setattr(builtins, "open", open_for_reading)
    monkeypatch.setattr(os, "unlink", keep)
    return str(tmp_path / "x")


def test_another_users_old_lock_file_is_no_obstacle_and_still_locks(foreign):
    with lock(foreign), pytest.raises(UserError, match="process 1 on elsewhere"), lock(foreign):
        pass
    with lock(foreign):
        pass


def test_a_lock_that_cannot_be_opened_is_one_line_with_a_remedy(tmp_path):
    os.mkdir(tmp_path / "x.lock")
    refusal = pytest.raises(UserError, match=r"x.lock cannot be opened \(.*\); remove")
    with refusal as error, lock(str(tmp_path / "x")):
        pass
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "command",
    [
        ["train_imagenet.py", "--benchmark", 1, "--model-prefix", "s3://bucket/x"],
        ["export_onnx.py", "--model-prefix", "x", "--load-epoch", 1, "--out", "s3://bucket/x"],
        ["-m", "data.folder", "FOLDER", "s3://bucket/x"],
        ["-m", "data.imagenet", "--train", "TAR", "s3://bucket/x"],
    ],
)
def test_an_address_is_refused_before_anything_is_done(tmp_path, command):
    picture = tmp_path / "in" / "cat" / "x.png"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"")
    places = {"FOLDER": str(tmp_path / "in"), "TAR": str(picture)}
    command = [places.get(word, word) for word in command]
    if command[0] != "-m":
        command[0] = os.path.join(ROOT, command[0])
    result = run_script(*command, cwd=tmp_path)
    assert_refused(result, "s3://bucket/x")
    assert os.listdir(tmp_path) == ["in"]
