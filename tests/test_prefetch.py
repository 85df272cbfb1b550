"""The thread that prepares training batches, in processes that end while it works."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, write_records


@pytest.mark.parametrize("ending", ["pass", "raise ValueError", "sys.exit(0)"])
def test_a_reader_at_work_does_not_keep_the_program_from_ending(tmp_path, ending):
    code = "it = data.training_iterator(args, mx.cpu(), 64); next(it); " + ending
    process, _ = started(tmp_path, code)
    assert process.wait(30) == (ending == "raise ValueError"), process.stderr.read()


def test_ctrl_c_ends_training_at_once(tmp_path):
    code = "it = data.training_iterator(args, mx.cpu(), 64); print(next(it).label, flush=True)\n"
    code += "for _ in it: pass"
    process, first = started(tmp_path, code)
    assert first  # it reads
    process.send_signal(signal.SIGINT)
    since = time.monotonic()
    assert process.wait(30) != 0
    assert time.monotonic() - since < 5
    assert "KeyboardInterrupt" in process.stderr.read()


def started(folder, code):
    """A process that runs ``code`` on real records, and the first line it prints."""
    images = [np.random.RandomState(i).randint(0, 255, (300, 300, 3), np.uint8) for i in range(64)]
    path = write_records(folder / "x", images, range(64))
    arguments = f"arguments(path={path!r}, shape=(3, 227, 227), batch_size=32)"
    code = f"import mxnet as mx, sys; from common import data; args = {arguments}; {code}"
    process = subprocess.Popen(
        [sys.executable, "-c", "import common; from test_data import arguments; " + code],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/tests"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return process, process.stdout.readline()
