"""SIGTERM and SIGINT: what they do to a loop, and to a real training run in each of its phases."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, assert_same_arrays, logged, run_script, train

from common.checkpoint import store

LOOP = """
import os, signal, sys
from common.io.signals import Stop

TERM, INT = signal.SIGTERM, signal.SIGINT
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


@pytest.mark.parametrize("name, code", [("TERM", 143), ("INT", 130)])
def test_with_nothing_unsaved_the_first_signal_ends_at_once(name, code):
    exit_code, said = stopped(f"send({name}); print('went on')")
    assert exit_code == code
    assert said == [f"SIG{name}: nothing to save"]


@pytest.mark.parametrize("name, code", [("TERM", 143), ("INT", 130)])
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
    process = subprocess.Popen(
        [sys.executable, "-c", BLOCKED],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        first = process.stdout.read(1)  # it has begun, and is about to fill the pipe
        wait_until_blocked(process.pid)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert first == b"x"
    assert b"Traceback" not in err
    assert process.returncode == 143
    assert out.splitlines()[-1] == b"saved"


def wait_until_blocked(pid):
    """Until the process, which has but to print, has slept at 20 looks in a row, or is dead."""
    asleep = 0
    while asleep < 20:
        with open(f"/proc/{pid}/stat") as file:
            asleep = asleep + 1 if file.read().rpartition(")")[2].split()[0] in "SZ" else 0
        time.sleep(0.01)


# Signals are sent from within, so that they hit the very moment.
RUN = """
import common.runtime.mxnet
import os, signal
import mxnet as mx
import train_imagenet
from common import cli
from common.input import pipeline
from common.train import loop

TERM, INT, KILL = signal.SIGTERM, signal.SIGINT, signal.SIGKILL


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
        (BATCH.format("KILL"), -9, ("", 1), ""),
        (VALIDATION.format("TERM"), 143, ("", 2), "SIGTERM: nothing to save"),
        (SAVE.format("TERM"), 143, ("", 2), "stopped after batch 13, saved"),
        (SAVE.format("TERM, TERM"), 143, ("", 1), "send it again to stop now"),
        (SAVE.format("KILL"), -9, ("", 1), ""),
    ],
    ids=[
        *("check-TERM", "check-INT", "batch-TERM", "batch-KILL"),
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
    if code == 143 and "send it again" not in words:  # nothing is there twice, either
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


def test_a_signal_while_it_starts_is_plain_death(flags, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "train_imagenet.py", *map(str, flags), "--model-prefix", tmp_path / "x"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
    )
    with process:
        time.sleep(0.1)
        process.terminate()
        _, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM
    assert err == b"" and os.listdir(tmp_path) == []
