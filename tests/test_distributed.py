"""Training with several workers: real processes of launch.py, scheduler and servers included."""

import mxnet as mx
import numpy as np
import pytest
from conftest import LENET, ROOT, assert_refused, logged, run_script, train


def launch(folder, count, *flags, servers=1, store="dist_sync", options=(), **environment):
    """``launch.py`` with train_imagenet.py's flags; its logs are in ``folder``/logs."""
    start = ["-n", count, "-s", servers, "--log-dir", folder / "logs", *options]
    script = ["--", f"{ROOT}/train_imagenet.py", *flags, "--kv-store", store]
    return run_script("launch.py", *start, *script, **environment)


def assert_close(prefix, other, epoch=2):
    """Weights and the optimizer's state of two checkpoints differ by rounding."""
    for kind in ("", "-optimizer"):
        arrays, others = (mx.nd.load(f"{p}-{epoch:04d}{kind}.params") for p in (prefix, other))
        assert arrays.keys() == others.keys()
        for name, array in arrays.items():
            assert np.abs(array.asnumpy() - others[name].asnumpy()).max() < 1e-6, name


def test_two_workers_train_as_one_process_does(flags, finished, tmp_path):
    prefix = tmp_path / "x"
    result = launch(tmp_path, 2, *flags, "--model-prefix", prefix)
    assert result.returncode == 0, result.stderr
    assert_close(prefix, finished)
    for line, expected in zip(logged(prefix), logged(finished)):
        assert line.keys() == expected.keys()
        for part in ("train", "val") if line["event"] == "epoch" else ():
            assert line[part] == pytest.approx(expected[part], abs=1e-5)
    lines = result.stdout.splitlines()
    assert lines and all(line.startswith("[worker 0] ") for line in lines)
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == [
        "scheduler.log",
        "server-0.log",
        "worker-0.log",
        "worker-1.log",
    ]


WORKER = {"DMLC_ROLE": "worker", "DMLC_NUM_WORKER": "3"}


@pytest.mark.parametrize(
    "environment, flags, word",
    [
        ({}, ["--kv-store", "dist_sync"], "start it with launch.py"),
        ({}, ["--gc-type", "2bit"], "--gc-type 2bit: needs --kv-store dist_sync"),
        (WORKER, [], "--kv-store device: is of one process"),
        (WORKER, ["--kv-store", "dist_sync"], "--batch-size 16: is of all 3 workers"),
        (
            {**WORKER, "DMLC_NUM_WORKER": "2"},
            ["--kv-store", "dist_sync", "--draw", "balanced"],
            "--draw balanced: is not for several workers",
        ),
    ],
)
def test_what_does_not_fit_a_job_is_refused(small, environment, flags, word, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert_refused(train(*LENET, "--data-train", small.train, *flags), word)
