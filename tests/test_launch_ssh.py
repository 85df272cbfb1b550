"""Jobs over ssh: a real sshd on two loopback addresses, and the launcher's own ssh command."""

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time

import pytest
from conftest import LENET, ROOT, run_script, train
from test_distributed import assert_close, command, start, wait_for
from test_launch_killed import LIMIT, is_left

ADDRESSES = {"one": "127.0.0.1", "two": "127.0.0.2", "elsewhere": "127.0.0.3"}
# On 127.0.0.3, and nowhere else, the folder of this project has another name.
SERVER = """
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
StrictModes no
UsePAM no
PidFile none
Match LocalAddress 127.0.0.3
    ForceCommand sh -c "$(echo "$SSH_ORIGINAL_COMMAND" | sed 's|^cd [^ ]*|cd /moved|')"
"""
CLIENT = """
Host one two elsewhere
    IdentityFile {folder}/key
Host stranger
    HostName 127.0.0.1
    IdentityFile {folder}/host_key
Host *
    Port {port}
    IdentitiesOnly yes
    IdentityAgent none
    UserKnownHostsFile {folder}/known_hosts
"""


@pytest.fixture(scope="module")
def sshd(tmp_path_factory):
    """The folder of a running sshd; ``ssh`` in its folder bin reaches ADDRESSES by name."""
    program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("there is no sshd (apt-get install openssh-server)")
    folder = tmp_path_factory.mktemp("sshd")
    for name in ("key", "host_key"):
        make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name]
        subprocess.run(make, check=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    host_key = (folder / "host_key.pub").read_text()
    known = [f"[{address}]:{port} {host_key}" for address in ADDRESSES.values()]
    (folder / "known_hosts").write_text("".join(known))
    listen = "".join(f"ListenAddress {one}:{port}\n" for one in ADDRESSES.values())
    (folder / "sshd_config").write_text(listen + SERVER.format(folder=folder))
    client = "".join(f"Host {name}\n    HostName {one}\n" for name, one in ADDRESSES.items())
    client += CLIENT.format(folder=folder, port=port)
    (folder / "config").write_text(client)
    (folder / "bin").mkdir()
    wrapper = f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/config "$@"\n'
    (folder / "bin" / "ssh").write_text(wrapper)
    (folder / "bin" / "ssh").chmod(0o755)
    if os.geteuid() == 0:
        os.makedirs("/run/sshd", exist_ok=True)  # as the service does: sshd asks for it
    process = subprocess.Popen([program, "-D", "-f", folder / "sshd_config"])
    try:
        wait_for(lambda: can_connect(port) or process.poll() is not None)
        login = [folder / "bin" / "ssh", "-o", "BatchMode=yes", "two", "true"]
        done = subprocess.run(login, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"nobody can log in here: {done.stderr.strip()}")
        yield folder
    finally:
        process.kill()
        process.wait()


def can_connect(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


@pytest.fixture
def job_on(sshd, tmp_path, monkeypatch):
    """Flags for launch.py by the names of hosts."""
    monkeypatch.setenv("PATH", f"{sshd / 'bin'}:{os.environ['PATH']}")

    def flags(*names):
        lines = [f"{name} {ADDRESSES.get(name, '127.0.0.1')}\n" for name in names]
        (tmp_path / "hosts").write_text("".join(lines).replace("one ", f"{getpass.getuser()}@one "))
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        return ["--hosts", tmp_path / "hosts", "--port", port, "--stall-seconds", 10]

    return flags


FAILURES = [
    (
        "stranger",
        255,
        "cannot be reached: ssh ended with exit code 255",
        "Permission denied (publickey",
    ),
    ("nowhere.invalid", 255, "cannot be reached: ssh ended with", "Could not resolve hostname"),
    ("elsewhere", 2, "ended with exit code 2", "can't cd to /moved"),
    ("two", 3, "ended with exit code 3", "that was all"),
]
# One quick case is in the ordinary suite.
FAILURES[1:] = [pytest.param(*case, marks=pytest.mark.slow) for case in FAILURES[1:]]


@pytest.mark.parametrize("host, code, cause, last_line", FAILURES)
def test_what_fails_on_a_host_is_named(job_on, tmp_path, host, code, cause, last_line):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys, time\n"
        "if os.environ['LAUNCH_WORKER'] == '1':\n"
        "    sys.exit(print('that was all') or 3)\n"
        "time.sleep(600)\n"
    )
    options = ["-n", 2, *job_on("one", host), "--log-dir", tmp_path / "logs"]
    began = time.monotonic()
    result = run_script("launch.py", *options, "--", script)
    assert time.monotonic() - began < LIMIT
    assert result.returncode == code, result.stderr
    assert f" on {host} {cause}" in result.stderr
    assert last_line in result.stderr


@pytest.fixture
def lenet(small):
    return [*LENET, "--batch-size", 12, "--data-train", small.train, "--data-val", small.val]


@pytest.mark.slow
def test_two_hosts_train_as_one_process_does(lenet, job_on, tmp_path):
    assert train(*lenet, "--model-prefix", tmp_path / "whole").returncode == 0
    flags = [*lenet, "--model-prefix", tmp_path / "x"]
    result = run_script(*command(tmp_path, 2, *flags, options=job_on("one", "two")))
    assert result.returncode == 0, result.stderr
    assert_close(tmp_path / "x", tmp_path / "whole")


def numbers(words, port):
    """The processes whose commands have these words, and this port there or as a variable."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            texts = []
            for kind in ("cmdline", "environ"):
                with open(f"/proc/{name}/{kind}", errors="replace") as file:
                    texts.append(file.read().replace("\0", " "))
            if words in texts[0] and f"DMLC_PS_ROOT_PORT={port} " in "".join(texts):
                found.append(int(name))
    return found


def parent(process):
    with open(f"/proc/{process}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])


def victim(role, launcher, port):
    """The process of a job that plays this part, for worker 1, which is on the second host."""
    if role == "launcher":
        return launcher
    (client,) = (p for p in numbers("LAUNCH_WORKER=1", port) if parent(p) == launcher)
    if role == "ssh":
        return client
    leashes = numbers("common.io.leash", port)
    workers = [p for p in numbers(f"{ROOT}/train_imagenet.py", port) if parent(p) in leashes]
    (worker,) = (p for p in workers if variable(p, "LAUNCH_WORKER") == "1")
    steps = {"worker": 0, "leash": 1, "session": 2}[role]
    for _ in range(steps):
        worker = parent(worker)
    return worker


def variable(process, name):
    with open(f"/proc/{process}/environ") as file:
        return dict(item.partition("=")[::2] for item in file.read().split("\0")).get(name)


KILLED = [
    ("worker", "worker 1 on two was killed by SIGKILL", 137),
    ("leash", "worker 1 on two cannot be reached: ssh ended with exit code 255", 255),
    ("session", "worker 1 on two cannot be reached: ssh ended with exit code 255", 255),
    ("ssh", "worker 1 on two cannot be reached: ssh was killed by SIGKILL", 137),
    ("launcher", None, -9),
]


@pytest.mark.slow
@pytest.mark.parametrize("role, said, code", KILLED)
def test_what_is_killed_is_named_and_no_process_is_left(lenet, job_on, tmp_path, role, said, code):
    options = job_on("one", "two")
    job = start(tmp_path, 2, *lenet, "--num-epochs", 10000, options=options)
    output = tmp_path / "logs" / "worker-0.log"
    wait_for(lambda: output.exists() and "epoch 1/" in output.read_text())
    port = options[options.index("--port") + 1]
    processes = numbers("", port)
    assert len(processes) >= 8  # a leash and what it started, for each of four
    os.kill(victim(role, job.pid, port), signal.SIGKILL)
    began = time.monotonic()
    assert job.wait(timeout=LIMIT) == code
    wait_for(lambda: not any(map(is_left, processes)), LIMIT)
    assert time.monotonic() - began < LIMIT
    if said:
        assert said in job.stderr.read()
