"""launch.py refuses before it starts anything; restarts continue."""

import re
import socket

import pytest
from conftest import assert_refused, run_here

import launch
from common.io.supervisor import Failure


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "script.py"
    path.write_text("")
    return path


@pytest.mark.parametrize(
    "flags, word",
    [
        (["-n", 2], "-- SCRIPT.py"),
        (["--", "SCRIPT"], "required: -n/--num-workers"),
        (["-n", 2, "--", "nowhere.py"], "nowhere.py: no such script"),
        (["-n", 0, "--", "SCRIPT"], "-n/--num-workers"),
        (["-n", 2, "--max-restarts", 1, "--", "SCRIPT"], "--model-prefix"),
        (["-n", 2, "--stall-seconds", 0, "--", "SCRIPT"], "--stall-seconds"),
    ],
)
def test_a_mistake_is_refused(flags, word, script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = [str(script) if flag == "SCRIPT" else flag for flag in flags]
    assert_refused(run_here(launch.main, *flags), word)
    assert list(tmp_path.iterdir()) == [script]


@pytest.mark.parametrize("own", [None, "5"])
def test_workers_share_the_cores_unless_the_environment_says_how_many_threads(
    own, script, monkeypatch
):
    monkeypatch.setattr(launch.cpus, "available", lambda: 7)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if own:
        monkeypatch.setenv("OMP_NUM_THREADS", own)
    monkeypatch.setattr("sys.argv", ["launch.py", "-n", "3", "--", str(script)])
    args = launch.parse_args()
    given = {task.environment.get("OMP_NUM_THREADS") for task in launch.tasks(args, args.command)}
    assert given == {None if own else "2"}


def test_a_port_in_use_is_refused(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = run_here(launch.main, "-n", 2, "--port", port, "--", script)
    assert_refused(result, f"--port {port}", "in use")
    assert list(tmp_path.iterdir()) == [script]


@pytest.mark.parametrize(
    "lines, word",
    [
        ("# none", "lists no machine"),
        ("nowhere.invalid", "nowhere.invalid: .*; write HOST ADDRESS"),
        ("one 127.0.0.1\nnowhere.invalid", "nowhere.invalid: "),
        ("me@one 127.0.1.1\ntwo 10.0.0.2", "me@one: 127.0.1.1 is its address for itself alone"),
    ],
)
def test_a_wrong_list_of_hosts_is_refused(lines, word, script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hosts").write_text(lines)
    result = run_here(launch.main, "-n", 2, "--hosts", "hosts", "--", script)
    assert_refused(result, "hosts: ")
    assert re.search(word, result.stderr)
    assert not (tmp_path / "launch-logs").exists()
    assert_refused(run_here(launch.main, "-n", 2, "--hosts", "no", "--", script), "no: No such")


def test_a_machine_that_cannot_be_reached_ends_the_job(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hosts").write_text("gone 127.0.0.1")
    rsh = "sh -c 'echo no route to $0; exit 255'"
    result = run_here(launch.main, "-n", 2, "--hosts", "hosts", "--rsh", rsh, "--", script)
    assert result.returncode == 255
    assert "on gone cannot be reached: sh ended with exit code 255" in result.stderr
    assert "no route to gone" in result.stderr


def run(script, failures, monkeypatch, *flags):
    """launch.py with jobs that fail so; its result, and the worker's command of each attempt."""
    commands, left = [], iter(failures)

    class Job:
        def __init__(self, tasks, folder, stall):
            commands.append(tasks[-1].command[2:])

        def run(self):
            return next(left)

    monkeypatch.setattr(launch, "Job", Job)
    monkeypatch.chdir(script.parent)
    flags = ["-n", 2, "--max-restarts", 2, "--", script, "--model-prefix", "x", *flags]
    return run_here(launch.main, *flags), commands


KILLED = Failure("worker 1 on here was killed", 137)


def test_a_restart_continues_from_the_newest_checkpoint(script, monkeypatch):
    flags = ["--load-epoch", "3", "--overwrite"]
    result, commands = run(script, [KILLED, None], monkeypatch, *flags)
    assert result.returncode == 0
    assert commands == [["--model-prefix", "x", *flags], ["--model-prefix", "x", "--resume"]]
    assert "worker 1 on here was killed" in result.stderr


def test_restarts_have_a_limit(script, monkeypatch):
    result, commands = run(script, [KILLED] * 3, monkeypatch)
    assert (result.returncode, len(commands)) == (137, 3)


@pytest.mark.parametrize("code", [2, 143])
def test_a_mistake_and_a_signal_restart_nothing(code, script, monkeypatch):
    result, commands = run(script, [Failure("so", code, is_final=True)], monkeypatch)
    assert (result.returncode, len(commands)) == (code, 1)
