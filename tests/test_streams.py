"""Output that cannot be written ends nothing; the exit code and the log tell of it."""

import json
import os
import pty
import subprocess
import sys

import pytest
from conftest import ROOT, assert_refused, run_script

from common.checkpoint import store
from common.cli import OUTPUT_LOST

JOB = """
import sys
from common import cli
from common.io.log import RunLog

def main():
    log = RunLog({log!r})
    for number in range(3):
        log.say("said")
        print("printed \\udcff")
        print("warned", file=sys.stderr)
    open({done!r}, "w").close()

cli.run(main)
"""


def shell(command, *arguments, **environment):
    """Run a shell command in which $PY is Python and "$@" are ``arguments``."""
    return subprocess.run(
        ["sh", "-c", command, "sh", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": ROOT, "PY": sys.executable, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=300,
    )


@pytest.fixture
def job(tmp_path):
    """A script that says something and then makes the file ``done``."""
    path = tmp_path / "job.py"
    names = {name: str(tmp_path / name) for name in ("log", "done")}
    path.write_text(JOB.format(**names))
    return path


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "redirection, code, said",
    [
        ("", 0, "warned"),
        (">/dev/full", OUTPUT_LOST, "job.py: output was lost: stdout: No space left on device"),
        ("2>/dev/full", OUTPUT_LOST, ""),
        (">/dev/full 2>/dev/full", OUTPUT_LOST, ""),
        (">&-", 0, "warned"),
        ("2>&-", 0, ""),
        (">&- 2>&- <&-", 0, ""),
    ],
)
def test_a_job_is_done_whatever_becomes_of_its_output(job, redirection, code, said, unbuffered):
    result = shell(f'"$PY" "$1" {redirection}', job, PYTHONUNBUFFERED=unbuffered)
    assert result.returncode == code, result.stderr
    assert (job.parent / "done").exists()
    lines = result.stderr.splitlines()
    assert lines[-1:] == [said] * bool(said) and "Traceback" not in result.stderr
    logged = [json.loads(line) for line in (job.parent / "log").read_text().splitlines()]
    told = [event["lost"] for event in logged if event["event"] == "output"]
    assert len(told) == (code == OUTPUT_LOST)


TRAIN = ["train_imagenet.py", "--network", "lenet", "--dataset", "mnist", "--batch-size", 16]


def test_training_goes_on_when_its_terminal_is_gone(small, tmp_path):
    prefix = tmp_path / "x"
    flags = ["--data-train", small.train, "--model-prefix", prefix, "--num-epochs", 2]
    terminal, end = pty.openpty()
    command = [sys.executable, *TRAIN, *flags, "--disp-batches", 1]
    job = subprocess.Popen(list(map(str, command)), cwd=ROOT, stdout=end, stderr=end)
    os.close(end)
    os.read(terminal, 1)  # it has begun to say what it will do
    os.close(terminal)
    assert job.wait(timeout=300) == OUTPUT_LOST
    assert store.newest(str(prefix)) == ((str(prefix), 2), [])
    with open(f"{prefix}-log.jsonl") as file:
        events = [json.loads(line)["event"] for line in file]
    assert events.count("output") == 1 and events.count("epoch") == 2


def test_training_goes_on_when_the_disk_of_its_output_is_full(small, tmp_path):
    prefix = tmp_path / "x"
    flags = ["--data-train", small.train, "--model-prefix", prefix, "--num-epochs", 1]
    result = shell('"$PY" "$@" >/dev/full', *TRAIN, *flags)
    assert result.returncode == OUTPUT_LOST
    assert result.stderr.count("\n") == 1 and "stdout: No space left" in result.stderr
    assert store.newest(str(prefix)) == ((str(prefix), 1), [])


@pytest.mark.parametrize("module", ["folder", "imagenet", "check", "cifar10", "mnist"])
def test_packing_needs_no_docstrings(module):
    result = run_script("-m", f"data.{module}", "--help", PYTHONOPTIMIZE="2")
    assert result.returncode == 0 and "--help" in result.stdout, result.stderr


@pytest.mark.parametrize("script", ["train_imagenet.py", "predict.py", "score.py"])
def test_without_docstrings_mxnet_is_refused_in_one_line(script):
    assert_refused(run_script(script, "--help", PYTHONOPTIMIZE="2"), "PYTHONOPTIMIZE=2")


def test_a_terminal_of_ascii_gets_bytes_of_paths_and_escaped_letters():
    code = "from common import cli; cli.run(lambda: print('d\\udce9j\\xe0 \\u732b'))"
    ascii_only = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": ROOT, **ascii_only},
        capture_output=True,
    )
    assert result.stdout == b"d\xe9j\\xe0 \\u732b\n" and result.returncode == 0
