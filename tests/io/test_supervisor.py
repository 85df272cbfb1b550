"""A job's processes end together: whichever fails first is named, and none is left."""

import io
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT

from common.io.heartbeat import mark
from common.io.supervisor import Job, Task

BEAT = """
from common.io.heartbeat import mark
for n in range(10**6):
    mark(str(n))
    time.sleep(0.05)
"""
ENDS = {  # what a process does after a moment, what is said of it, the exit code
    "sys.exit(3)": ("ended with exit code 3", 3),
    "raise ValueError('no such thing')": ("ended with exit code 1", 1),
    "os.kill(os.getpid(), signal.SIGKILL)": ("was killed by SIGKILL", 137),
    "os.kill(os.getpid(), signal.SIGSTOP)": ("is stopped by a signal", 1),
    "time.sleep(1000)": ("has done nothing for 1 seconds", 1),
}


def task(name, body):
    script = f"import os, signal, subprocess, sys, time\nprint(os.getpid(), flush=True)\n{body}"
    return Task(name, "here", [sys.executable, "-S", "-c", script], {})


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def pids(folder):
    """Of the processes that have said anything."""
    said = [path.read_text().split() for path in folder.glob("*.log")]
    return [int(words[0]) for words in said if words]


def wait_for(condition, seconds=20):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_job_ends_when_all_workers_have(tmp_path, capsys):
    tasks = [task("server 0", "time.sleep(0.3)"), task("worker 0", "print('one\\ntwo', end='')")]
    assert Job(tasks, str(tmp_path), stall=10).run() is None
    assert (tmp_path / "worker-0.log").read_text().splitlines()[1:] == ["one", "two"]
    shown = capsys.readouterr().out.splitlines()
    assert shown[1:] == ["[worker 0] one", "[worker 0] two"]


@pytest.mark.parametrize(
    "name, end",
    [
        (name, end)
        for name in ("scheduler", "server 0", "worker 1")
        for end in ENDS
        if name == "worker 1" or "sleep" not in end  # only workers say what they do
    ],
)
def test_the_first_that_fails_ends_the_job_and_is_named(tmp_path, name, end):
    said, code = ENDS[end]
    bodies = dict.fromkeys(["scheduler", "server 0", "worker 0", "worker 1"], BEAT)
    once = "print('\\x1e1', flush=True)\n"  # a batch
    bodies[name] = f"{once}print('the last word', flush=True)\ntime.sleep(0.2)\n{end}"
    failure = Job([task(*item) for item in bodies.items()], str(tmp_path), stall=1).run()
    assert f"{name} on here {said}" in failure.text
    assert "the last word" in failure.text
    assert failure.code == code
    assert [pid for pid in pids(tmp_path) if is_alive(pid)] == []


def test_a_worker_may_take_longer_until_its_first_batch(tmp_path):
    tasks = [task("worker 0", "time.sleep(1.5)")]
    assert Job(tasks, str(tmp_path), stall=0.5).run() is None


def test_what_a_process_has_started_ends_with_the_job(tmp_path):
    start = "child = subprocess.Popen(['sleep', '1000']).pid\nprint('child', child, flush=True)"
    tasks = [task("worker 0", start + BEAT), task("worker 1", "time.sleep(0.5)\nsys.exit(1)")]
    assert Job(tasks, str(tmp_path), stall=10).run().code == 1
    child = int((tmp_path / "worker-0.log").read_text().split()[2])
    wait_for(lambda: not is_alive(child))


SAVES = """
signal.signal(15, lambda *_: (os.write(1, b'saved\\n'), os._exit(143)))  # print may be under way
print('ready', flush=True)
"""
TASKS = [
    task("scheduler", "time.sleep(1000)"),
    task("worker 0", SAVES + BEAT),
    task("worker 1", BEAT),
]
LAUNCHER = f"""
import sys
from common.io.supervisor import Job, Task
failure = Job([Task(*task) for task in {[tuple(one) for one in TASKS]}], sys.argv[1], 10).run()
print(failure.text, file=sys.stderr)
sys.exit(failure.code)
"""


def launcher(folder, *before):
    command = [*before, sys.executable, "-c", LAUNCHER, folder]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, cwd=ROOT, text=True, **pipes)
    wait_for(lambda: len(list(folder.glob("*.log"))) == 3)
    wait_for(lambda: all(path.stat().st_size for path in folder.glob("*.log")))
    wait_for(lambda: "ready" in (folder / "worker-0.log").read_text())
    return process


def test_a_signal_to_the_launcher_lets_worker_0_save(tmp_path):
    process = launcher(tmp_path)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 143
    assert "stopped by SIGTERM" in process.stderr.read()
    assert (tmp_path / "worker-0.log").read_text().endswith("saved\n")
    assert [pid for pid in pids(tmp_path) if is_alive(pid)] == []


def test_nohup_keeps_a_job_from_hanging_up(tmp_path):
    process = launcher(tmp_path, "nohup")
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 143
    assert [pid for pid in pids(tmp_path) if is_alive(pid)] == []


def test_a_sign_of_life_is_written_in_one_piece(monkeypatch):
    """What a signal's handler prints must not come between it and its line's end."""
    pieces = []

    class Unbuffered(io.RawIOBase):
        def writable(self):
            return True

        def write(self, data):
            pieces.append(bytes(data))
            return len(data)

    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(Unbuffered(), write_through=True))
    mark("7")
    assert pieces == [b"\x1e7\n"]


def test_no_process_outlives_a_killed_launcher(tmp_path):
    process = launcher(tmp_path)
    process.kill()
    process.wait()
    wait_for(lambda: not any(map(is_alive, pids(tmp_path))))
