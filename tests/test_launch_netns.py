"""Jobs across two machines: network namespaces that a cable (veth) joins."""

import contextlib
import os
import signal
import subprocess
import time

import pytest
from conftest import LENET, run_script, train
from test_distributed import assert_close, command, start, wait_for
from test_launch_killed import LIMIT, is_left

pytestmark = pytest.mark.netns
A, B = "alexnet-a", "alexnet-b"


def ip(*words, check=True):
    return subprocess.run(["ip", *words], check=check, capture_output=True, text=True)


@pytest.fixture
def machines(tmp_path):
    """Flags for launch.py: a job on both machines."""
    try:
        made = ip("netns", "add", A, check=False)
    except FileNotFoundError:
        pytest.skip("there is no command ip (apt-get install iproute2)")
    if made.returncode:
        pytest.skip(f"no network namespace can be made: {made.stderr.strip()}")
    try:
        ip("netns", "add", B)
        ip("link", "add", "one", "netns", A, "type", "veth", "peer", "name", "two", "netns", B)
        for name, link, address in ((A, "one", "10.77.0.1"), (B, "two", "10.77.0.2")):
            ip("-n", name, "address", "add", f"{address}/24", "dev", link)
            ip("-n", name, "link", "set", link, "up")
            ip("-n", name, "link", "set", "lo", "up")
        (tmp_path / "hosts").write_text(f"{A} 10.77.0.1  # the first\n\n{B} 10.77.0.2\n")
        (tmp_path / "rsh").write_text('#!/bin/sh\nname=$1; shift\nip netns exec $name sh -c "$*"\n')
        (tmp_path / "rsh").chmod(0o755)
        yield ["--hosts", tmp_path / "hosts", "--rsh", tmp_path / "rsh", "--stall-seconds", 10]
    finally:
        for name in (A, B):
            ip("netns", "delete", name, check=False)


@pytest.fixture
def lenet(small):
    return [*LENET, "--batch-size", 12, "--data-train", small.train, "--data-val", small.val]


def inside():
    """The processes in the namespaces."""
    return {int(word) for name in (A, B) for word in ip("netns", "pids", name).stdout.split()}


def running(folder, *flags, options):
    job = start(folder, 2, *flags, "--num-epochs", 10000, options=options)
    output = folder / "logs" / "worker-0.log"
    wait_for(lambda: output.exists() and "epoch 1/" in output.read_text())
    return job, inside()


def assert_ends(job, processes, began):
    job.wait(timeout=LIMIT)
    wait_for(lambda: not any(map(is_left, processes)), LIMIT)
    assert time.monotonic() - began < LIMIT


@pytest.mark.parametrize("delay", [[], ["delay", "20ms"]])
def test_two_machines_train_as_one_process_does(lenet, machines, tmp_path, delay):
    if delay:
        slow = ["tc", "-n", A, "qdisc", "add", "dev", "one", "root", "netem", *delay]
        done = subprocess.run(slow, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no slow cable can be made: {done.stderr.strip()}")
    assert train(*lenet, "--model-prefix", tmp_path / "whole").returncode == 0
    result = run_script(
        *command(tmp_path, 2, *lenet, "--model-prefix", tmp_path / "x", options=machines)
    )
    assert result.returncode == 0, result.stderr
    assert_close(tmp_path / "x", tmp_path / "whole")
    assert inside() == set()


def test_a_pulled_cable_ends_the_job(lenet, machines, tmp_path):
    job, processes = running(tmp_path, *lenet, options=machines)
    began = time.monotonic()
    ip("-n", A, "link", "set", "one", "down")
    assert_ends(job, processes, began)
    assert "has done nothing for" in job.stderr.read()
    assert job.returncode == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_fails_elsewhere_is_named(lenet, machines, tmp_path, number):
    job, processes = running(tmp_path, *lenet, options=machines)
    worker = next(one for one in processes if environment(one).get("LAUNCH_WORKER") == "1")
    began = time.monotonic()
    os.kill(worker, number)
    assert_ends(job, processes, began)
    said = "was killed by SIGKILL" if number == signal.SIGKILL else "is stopped by a signal"
    assert f"worker 1 on {B} {said}" in job.stderr.read()


def environment(process):
    """Of a worker itself, not of what has started it."""
    with contextlib.suppress(OSError), open(f"/proc/{process}/cmdline") as file:
        if "train_imagenet.py" in file.read().split("\0")[1]:
            with open(f"/proc/{process}/environ") as file:
                return dict(item.partition("=")[::2] for item in file.read().split("\0"))
    return {}


def test_no_process_outlives_a_killed_launcher(lenet, machines, tmp_path):
    job, processes = running(tmp_path, *lenet, options=machines)
    began = time.monotonic()
    job.kill()
    assert_ends(job, processes, began)


def test_a_signal_to_the_launcher_lets_worker_0_save(lenet, machines, tmp_path):
    job, _ = running(tmp_path, *lenet, "--model-prefix", tmp_path / "x", options=machines)
    job.terminate()
    assert job.wait(timeout=LIMIT) == 143
    output = (tmp_path / "logs" / "worker-0.log").read_text()
    assert "--resume continues" in output or "nothing to save" in output
