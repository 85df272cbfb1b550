"""One run at a time at a prefix: common/checkpoint/lock.py, with real processes and threads."""

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest
from conftest import ROOT

from common.checkpoint.lock import lock
from common.cli import UserError

HOLD = """
import sys, common.runtime.mxnet
from common.checkpoint.lock import lock
with lock(sys.argv[1]):
    open(sys.argv[1] + "-0009.params.tmp1", "w").close()
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
            assert f"{prefix}-0009.params.tmp1" in map(str, tmp_path.iterdir())  # it is in use
        finally:
            owner.kill()
    assert owner.returncode == -signal.SIGKILL
    assert os.path.exists(f"{prefix}.lock")  # and no obstacle
    with lock(prefix):
        assert not os.path.exists(f"{prefix}-0009.params.tmp1")
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


def test_left_over_temporary_files_go_but_not_another_prefixs(tmp_path):
    mine = ["a-0001.params", "a-0001-optimizer.params", "a-0001.json", "a-symbol.json"]
    mine += ["a-partial-12345.params", "a-partial-symbol.json", "a-config.json"]
    theirs = ["a-b-0001.params", "a-b-config.json", "b-0001.params", "aa-symbol.json"]
    theirs += ["a-b-partial-0001.json", "a-val.rec"]
    for name in mine + theirs:
        (tmp_path / f"{name}.tmp123").touch()
    # Of 1 no record came to be, only its temporary file: the kill came in the middle of the set.
    whole = ["a-0002.params", "a-0003.params", "a-0003.json", "a-0003.json.tmp5"]
    for name in ["a-0001.params", "a-0001-optimizer.params", *whole]:
        (tmp_path / name).touch()
    with lock(str(tmp_path / "a")):
        pass
    left = sorted(os.listdir(tmp_path))
    assert left == sorted([*(f"{name}.tmp123" for name in theirs), *whole[:-1]])
