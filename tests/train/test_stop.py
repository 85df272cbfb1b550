"""Signals: what they do to a loop, and to a real training run in each of its phases."""

import fcntl
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time

import pytest
from conftest import ROOT, assert_same_arrays, logged, run_script, train

from common.checkpoint import store

LOOP = """
import os, signal, sys
from common.io.signals import Stop

TERM, INT, HUP, USR1 = signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1
send = lambda number: os.kill(os.getpid(), number)
with Stop(print) as stop:
    {body}
print("left", flush=True)
send(TERM)
"""


def stopped(body):
    """Exit code and output of a process that does ``body`` with a Stop."""
    result = run_script("-c", LOOP.format(body=body))
    assert result.stderr == ""
    return result.returncode, result.stdout.splitlines()


@pytest.mark.parametrize("name, code", [("TERM", 143), ("INT", 130), ("HUP", 129), ("USR1", 138)])
def test_with_nothing_unsaved_the_first_signal_ends_at_once(name, code):
    exit_code, said = stopped(f"send({name}); print('went on')")
    assert exit_code == code
    assert said == [f"SIG{name}: nothing to save"]


@pytest.mark.parametrize("name, code", [("TERM", 143), ("INT", 130), ("HUP", 129), ("USR1", 138)])
def test_with_something_unsaved_the_first_signal_asks_for_a_save(name, code):
    exit_code, said = stopped(
        f"stop.unsaved = True; send({name}); assert stop.requested == {name};"
        " print('saved'); stop.leave(); print('went on')"
    )
    assert exit_code == code
    assert said == [f"SIG{name}: saving after this batch; send it again to stop now", "saved"]


@pytest.mark.parametrize("first, second, code", [("TERM", "INT", 130), ("INT", "TERM", 143)])
def test_the_second_signal_ends_at_once(first, second, code):
    exit_code, said = stopped(
        f"stop.unsaved = True; send({first}); send({second}); print('went on')"
    )
    assert exit_code == code
    assert len(said) == 1


def test_what_was_saved_meanwhile_need_not_be_saved_again():
    exit_code, said = stopped("stop.unsaved = True; stop.unsaved = False; send(TERM)")
    assert exit_code == 143 and said == ["SIGTERM: nothing to save"]


def test_outside_of_it_signals_are_what_they_were():
    exit_code, said = stopped("pass")
    assert exit_code == -signal.SIGTERM and said == ["left"]


BLOCKED = """
import sys
from common.io.log import RunLog
from common.io.signals import Stop

log = RunLog()
with Stop(log.say) as stop:
    stop.unsaved = True
    while not stop.requested:
        log.say(60 * "x")
    log.say("saved")
    stop.leave()
"""


def test_a_signal_while_nobody_reads_the_output_is_no_crash():
    environment = {**os.environ, "PYTHONPATH": ROOT}
    environment.pop("PYTHONUNBUFFERED", None)
    reader, writer = os.pipe()
    command = [sys.executable, "-c", BLOCKED]
    process = subprocess.Popen(command, env=environment, stdout=writer, stderr=subprocess.PIPE)
    with process, open(reader, "rb") as output:
        try:
            wait_until_blocked(process, writer)
            process.send_signal(signal.SIGTERM)
        finally:
            os.close(writer)  # the process has the other copy
        out, err = output.read(), process.stderr.read()
    assert b"Traceback" not in err
    assert process.returncode == 143
    assert out.splitlines()[-1] == b"saved"


def wait_until_blocked(process, pipe):
    """Until ``process``, which only prints into ``pipe``, sleeps because the pipe is full."""
    while process.poll() is None:
        full = not select.select([], [pipe], [], 0)[1]
        with open(f"/proc/{process.pid}/stat") as file:
            asleep = file.read().rpartition(")")[2].split()[0] == "S"
        if full and asleep:
            return
        time.sleep(0.001)
    pytest.fail("it ended before the pipe was full")


# Signals are sent from within, so that they hit the very moment.
RUN = """
import common.runtime.mxnet
import os, signal
import mxnet as mx
import train_imagenet
from common import cli
from common.input import pipeline
from common.train import loop

TERM, INT, KILL, USR1 = signal.SIGTERM, signal.SIGINT, signal.SIGKILL, signal.SIGUSR1


def first_do(owner, name, action, call=0):
    # Before one call of owner.name, counted from 0.
    function, calls = getattr(owner, name), []

    def wrapped(*args, **kwargs):
        calls.append(1)
        if len(calls) == call + 1:
            action()
        return function(*args, **kwargs)

    setattr(owner, name, wrapped)


def send(*numbers):
    return lambda: [os.kill(os.getpid(), number) for number in numbers]


{hook}
cli.run(train_imagenet.main)
"""
CHECK = "first_do(pipeline, 'checked_records', send({}))"
BATCH = "first_do(loop.Run, '_step', send({}), call=9)"  # the third of the second epoch
VALIDATION = "first_do(pipeline, 'evaluation_batches', send({}), call=1)"
SAVE = "first_do(mx.nd, 'save', send({}), call=3)"  # the second epoch's optimizer state


@pytest.fixture(scope="module")
def flags(small):
    recipe = ["--network", "lenet", "--dataset", "mnist", "--batch-size", 16, "--num-epochs", 3]
    data = ["--data-train", small.train, "--data-val", small.val]
    return [*recipe, *data, "--deterministic", "--disp-batches", 2]


@pytest.fixture(scope="module")
def uninterrupted(flags, tmp_path_factory):
    prefix = tmp_path_factory.mktemp("uninterrupted") / "x"
    assert train(*flags, "--model-prefix", prefix).returncode == 0
    return prefix


@pytest.mark.parametrize(
    "hook, code, place, words",
    [
        (CHECK.format("TERM"), -15, None, ""),
        (CHECK.format("INT"), 130, None, ""),
        (BATCH.format("TERM"), 143, ("-partial", 10), "stopped after batch 10, saved"),
        (BATCH.format("USR1"), 138, ("-partial", 10), "SIGUSR1: saving after this batch"),
        (BATCH.format("KILL"), -9, ("", 1), ""),
        (VALIDATION.format("TERM"), 143, ("", 2), "SIGTERM: nothing to save"),
        (SAVE.format("TERM"), 143, ("", 2), "stopped after batch 13, saved"),
        (SAVE.format("TERM, TERM"), 143, ("", 1), "send it again to stop now"),
        (SAVE.format("KILL"), -9, ("", 1), ""),
    ],
    ids=[
        *("check-TERM", "check-INT", "batch-TERM", "batch-USR1", "batch-KILL"),
        *("validation-TERM", "save-TERM", "save-twice", "save-KILL"),
    ],
)
def test_resume_is_bit_exact_from_wherever_it_was_stopped(
    flags, uninterrupted, tmp_path, hook, code, place, words
):
    prefix = tmp_path / "x"
    flags = [*flags, "--model-prefix", prefix]
    result = run_script("-c", RUN.format(hook=hook), *flags)
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    assert words in result.stdout
    expected = place and (f"{prefix}{place[0]}", place[1])
    assert store.newest(str(prefix)) == (expected, [])

    resumed = train(*flags, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert not re.search(r"\.tmp|partial|lock", " ".join(os.listdir(tmp_path)))
    for number in (1, 2, 3):
        for kind in ("", "-optimizer"):
            name = f"-{number:04d}{kind}.params"
            assert_same_arrays(f"{prefix}{name}", f"{uninterrupted}{name}")
    epochs = [line for line in logged(prefix) if line["event"] == "epoch"]
    assert epochs == [line for line in logged(uninterrupted) if line["event"] == "epoch"]
    if code in (143, 138) and "send it again" not in words:  # nothing is there twice, either
        assert logged(prefix) == logged(uninterrupted)


READER_GONE = """
def cut_off():
    reader, writer = os.pipe()
    os.dup2(writer, 1)
    os.close(reader)
    send(INT)()

first_do(loop.Run, '_step', cut_off, call=9)
"""


def test_ctrl_c_saves_though_it_ended_the_reader_of_the_output_too(flags, tmp_path):
    prefix = str(tmp_path / "x")  # as in: train_imagenet.py ... | tee log
    flags = [*flags, "--model-prefix", prefix, "--disp-batches", 1]
    result = run_script("-c", RUN.format(hook=READER_GONE), *flags)
    assert result.returncode == 130, result.stderr
    assert "Traceback" not in result.stderr
    assert store.newest(prefix) == ((store.partial(prefix), 10), [])


def test_a_terminal_that_hangs_up_saves_what_it_ran(flags, tmp_path):
    prefix = str(tmp_path / "x")
    terminal, end = pty.openpty()
    command = [sys.executable, "train_imagenet.py", *flags, "--model-prefix", prefix]
    process = subprocess.Popen(
        [*map(str, command), "--num-epochs", "500", "--disp-batches", "1"],
        cwd=ROOT,
        stdin=end,
        stdout=end,
        stderr=end,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that it gets the SIGHUP
    )
    os.close(end)
    with open(terminal, "rb", buffering=0) as screen:
        said = b""
        while b"epoch 1/500" not in said:
            said += screen.read(4096)
    assert process.wait(timeout=60) == 129
    assert store.newest(prefix)[0] is not None


def test_nohup_keeps_a_run_from_hanging_up():
    result = subprocess.run(
        ["nohup", sys.executable, "-c", LOOP.format(body="stop.unsaved = True; send(HUP)")],
        env={**os.environ, "PYTHONPATH": ROOT},
        capture_output=True,
        text=True,
    )
    assert result.stdout.splitlines() == ["left"]


STARTING = """
import os, runpy, signal, sys


class Interrupted:  # an entry of sys.meta_path, which is asked for each module
    def find_spec(self, name, *_others):
        if name == MODULE:
            os.kill(os.getpid(), signal.SIGTERM)


MODULE = sys.argv.pop(1)
sys.meta_path.insert(0, Interrupted())
runpy.run_path("train_imagenet.py", run_name="__main__")
"""


@pytest.mark.parametrize("module", ["symbols", "mxnet", "common.train.loop"])
def test_a_signal_while_it_starts_is_plain_death(flags, tmp_path, module):
    result = run_script("-c", STARTING, module, *flags, "--model-prefix", tmp_path / "x")
    assert result.returncode == -signal.SIGTERM
    assert result.stderr == "" and os.listdir(tmp_path) == []
