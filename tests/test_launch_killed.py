"""A real job whose processes are killed or stopped ends within 30 s, and leaves none behind."""

import contextlib
import os
import random
import signal
import time

import pytest
from conftest import LENET, ROOT, run_script, train
from test_distributed import assert_close, command, start, wait_for

pytestmark = pytest.mark.slow
LIMIT = 30  # seconds
BOTH = (signal.SIGKILL, signal.SIGSTOP)
ROLES = ("worker 0", "worker 1", "server", "scheduler")
CASES = [(role, number) for role in ROLES for number in BOTH] + [("launcher", signal.SIGKILL)]


@pytest.fixture
def lenet(small):
    return [*LENET, "--batch-size", 12, "--data-train", small.train, "--data-val", small.val]


def processes(launcher):
    """The processes of a job: their roles -> their numbers."""
    found = {"launcher": launcher}
    with open(f"/proc/{launcher}/task/{launcher}/children") as file:
        children = file.read().split()
    for child in map(int, children):
        with contextlib.suppress(OSError), open(f"/proc/{child}/environ") as file:
            environment = dict(item.partition("=")[::2] for item in file.read().split("\0"))
            role = environment.get("DMLC_ROLE", "")
            found[f"{role} {environment.get('LAUNCH_WORKER', '')}".strip()] = child
    return found


def is_left(process):
    """Whether a process is there; a zombie is not."""
    with contextlib.suppress(FileNotFoundError), open(f"/proc/{process}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] != "Z"
    return False


def running(folder, *flags, options=(), store="dist_sync"):
    """A job of two workers that trains, and its processes."""
    job = start(folder, 2, *flags, options=options, store=store)
    output = folder / "logs" / "worker-0.log"
    wait_for(lambda: output.exists() and "epoch 1/" in output.read_text())
    return job, processes(job.pid)


@pytest.mark.parametrize("store", ["dist_sync", "dist_async"])
@pytest.mark.parametrize("role, number", CASES)
@pytest.mark.parametrize("attempt", range(int(os.environ.get("ATTEMPTS", "1"))))
def test_the_job_ends_and_no_process_is_left(lenet, tmp_path, role, number, attempt, store):
    how = {"options": ["--stall-seconds", 8], "store": store}
    flags = [flag for flag in lenet if store == "dist_sync" or flag != "--deterministic"]
    job, found = running(tmp_path, *flags, "--num-epochs", 10000, **how)
    assert found.keys() == {*ROLES, "launcher"}
    time.sleep(random.uniform(0, 2))
    os.kill(found[role], number)
    began = time.monotonic()
    job.wait(timeout=LIMIT)
    wait_for(lambda: not any(map(is_left, found.values())), LIMIT)
    assert time.monotonic() - began < LIMIT
    if role != "launcher":
        said = "was killed by SIGKILL" if number == signal.SIGKILL else "is stopped by a signal"
        error = job.stderr.read()
        assert f"{role.replace('server', 'server 0')} on " in error
        assert said in error
        assert job.returncode == (137 if number == signal.SIGKILL else 1)


def listening(process):
    """The local addresses at which a process listens, as /proc/net/tcp has them."""
    sockets = set()
    for name in os.listdir(f"/proc/{process}/fd"):
        with contextlib.suppress(OSError):
            sockets.add(os.readlink(f"/proc/{process}/fd/{name}"))
    for kind in ("tcp", "tcp6"):
        with open(f"/proc/net/{kind}") as file:
            for line in file.readlines()[1:]:
                _, address, _, state, *_, inode = line.split()[:10]
                if state == "0A" and f"socket:[{inode}]" in sockets:
                    yield address.partition(":")[0]


def test_local_jobs_listen_on_loopback_only(lenet, tmp_path):
    job, found = running(tmp_path, *lenet, "--num-epochs", 10000)
    try:
        addresses = {role: set(listening(number)) for role, number in found.items()}
    finally:
        job.kill()
        job.wait()
    assert addresses.pop("launcher") == set()
    assert set(addresses) == set(ROLES)
    assert all(own == {"0100007F"} for own in addresses.values()), addresses  # 127.0.0.1


@pytest.mark.parametrize("role", ["worker 0", "worker 1", "server"])
def test_restarts_end_as_an_undisturbed_run(lenet, tmp_path, role):
    flags = [*lenet, "--num-epochs", 30, "--model-prefix"]
    assert train(*flags, tmp_path / "whole").returncode == 0
    options = ["--max-restarts", 2]
    job, found = running(tmp_path, *flags, tmp_path / "x", options=options)
    wait_for(lambda: list(tmp_path.glob("x-0002.json")))
    os.kill(found[role], signal.SIGKILL)
    assert job.wait(timeout=200) == 0
    assert "all start again; 1 restarts are left" in job.stderr.read()
    assert_close(tmp_path / "x", tmp_path / "whole", 30, within=1e-5)


FAILING = f"""
import os, sys
sys.path[:0] = [{ROOT!r}]
import train_imagenet
from common import cli
from common.train import loop
step = loop.Run._step
def failing(run, *given):
    if run.state.batches == 20 and os.environ["LAUNCH_WORKER"] == "1":
        raise RuntimeError("no more")
    step(run, *given)
loop.Run._step = failing
cli.run(train_imagenet.main)
"""


def test_an_exception_in_a_worker_ends_the_job(lenet, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(FAILING)
    began = time.monotonic()
    flags = [*lenet, "--num-epochs", 10000]
    arguments = command(tmp_path, 2, *flags)
    arguments[arguments.index("--") + 1] = str(script)
    result = run_script(*arguments)
    assert result.returncode == 1
    assert "worker 1 on" in result.stderr
    assert "RuntimeError: no more" in result.stderr
    assert time.monotonic() - began < 4 * LIMIT
