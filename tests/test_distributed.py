"""Training with several workers: real processes of launch.py, scheduler and servers included."""

import json
import shutil
import signal
import subprocess
import sys
import time
from argparse import Namespace

import mxnet as mx
import numpy as np
import pytest
from conftest import (
    LENET,
    ROOT,
    assert_refused,
    assert_same_run,
    bands,
    before_batch,
    logged,
    run_script,
    terminate,
    train,
    write_records,
)

from common.cli import UserError
from common.train import cluster


def command(folder, count, *flags, servers=1, store="dist_sync", options=()):
    """Arguments of Python for launch.py with train_imagenet.py; its logs are in ``folder``/logs."""
    start = ["-n", count, "-s", servers, "--log-dir", folder / "logs", *options]
    script = ["--", f"{ROOT}/train_imagenet.py", *flags, "--kv-store", store]
    return list(map(str, ["launch.py", *start, *script]))


def launch(*args, **options):
    """The result of a job."""
    return run_script(*command(*args, **options))


def start(*args, **options):
    """A job that runs on."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *command(*args, **options)], cwd=ROOT, **quiet)


def wait_for(condition, seconds=120):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def assert_close(prefix, other, epoch=2, within=1e-6):
    """Weights and the optimizer's state of two checkpoints differ by rounding."""
    for kind in ("", "-optimizer"):
        arrays, others = (mx.nd.load(f"{p}-{epoch:04d}{kind}.params") for p in (prefix, other))
        assert arrays.keys() == others.keys()
        for name, array in arrays.items():
            assert np.abs(array.asnumpy() - others[name].asnumpy()).max() < within, name


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
        ({}, ["--kv-store", "dist_async"], "start it with launch.py"),
        ({}, ["--gc-type", "2bit"], "--gc-type 2bit: needs --kv-store dist_sync"),
        (WORKER, [], "--kv-store device: is of one process"),
        (WORKER, ["--kv-store", "dist_sync"], "--batch-size 16: is of all 3 workers"),
    ],
)
def test_what_does_not_fit_a_job_is_refused(small, environment, flags, word, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert_refused(train(*LENET, "--data-train", small.train, *flags), word)


@pytest.mark.parametrize("flag, value, why", cluster._OF_ONE_PROCESS)
def test_what_is_not_divided_among_workers_is_refused(flag, value, why, monkeypatch):
    for name, number in WORKER.items():
        monkeypatch.setenv(name, number)
    args = Namespace(kv_store="dist_sync", batch_size=12, gpus=None, cpus=1)
    vars(args).update(draw="all", data_backend="mxnet", dtype="float32")
    cluster.check(args)
    setattr(args, flag[2:].replace("-", "_"), value)
    with pytest.raises(UserError, match=f"{flag} {value}: is not for several workers .*: {why}"):
        cluster.check(args)


def test_batch_norm_is_refused():
    net = mx.sym.BatchNorm(mx.sym.Variable("data"), name="bn")
    cluster.check_network(net, "device")
    with pytest.raises(UserError, match="bn_moving_mean, is not for several workers"):
        cluster.check_network(net, "dist_sync")


@pytest.fixture
def lenet(small, tmp_path):
    """Flags for 2 and 3 workers: a batch of 12, epochs of 100 images."""
    return [*LENET, "--batch-size", 12, "--data-train", small.train, "--data-val", small.val]


@pytest.fixture
def whole(lenet, tmp_path):
    """The prefix of one process's run."""
    assert train(*lenet, "--model-prefix", tmp_path / "whole").returncode == 0
    return tmp_path / "whole"


@pytest.mark.slow
@pytest.mark.parametrize("store", ["dist_sync", "dist_device_sync"])
@pytest.mark.parametrize("workers, servers, more", [(3, 2, ["--cpus", 2]), (2, 2, []), (1, 1, [])])
def test_more_workers_devices_and_servers(lenet, whole, tmp_path, workers, servers, more, store):
    flags = [*lenet, *more, "--model-prefix", tmp_path / "x"]
    result = launch(tmp_path, workers, *flags, servers=servers, store=store)
    assert result.returncode == 0, result.stderr
    assert_close(tmp_path / "x", whole)


IN_TURN = """
import os, sys, time
sys.path[:0] = [{!r}]
import train_imagenet
from common import cli
from common.runtime.mxnet import mx
from common.train.cluster import Cluster
update = Cluster.update
def late(cluster, module):
    mx.nd.waitall()
    time.sleep(0.1 * {!r}.index(cluster.share.rank))
    update(cluster, module)
Cluster.update = late
cli.run(train_imagenet.main)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "count, more",
    [(2, []), (3, []), (3, ["--cpus", 2, "--gc-type", "2bit", "--gc-threshold", 0.01])],
)
def test_the_order_of_the_workers_changes_no_bit(lenet, tmp_path, count, more):
    ranks = list(range(count))
    for name, order in (("x", ranks), ("y", ranks[::-1])):
        script = tmp_path / "script.py"
        script.write_text(IN_TURN.format(ROOT, order))
        flags = [*lenet, *more, "--model-prefix", tmp_path / name]
        arguments = command(tmp_path, count, *flags, servers=2)
        arguments[arguments.index("--") + 1] = str(script)
        result = run_script(*arguments)
        assert result.returncode == 0, result.stderr
    assert_same_run(tmp_path / "x", tmp_path / "y")


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimizer, within",
    [("sgd", 1e-6), ("adam", 1e-5)],  # Adam divides by the gradient's size, and its rounding grows
)
def test_the_parts_of_a_batch_are_added_too(lenet, tmp_path, optimizer, within):
    flags = [*lenet, "--batch-size", 6, "--accumulate", 2, "--optimizer", optimizer, "--lr", 0.001]
    assert train(*flags, "--model-prefix", tmp_path / "whole").returncode == 0
    assert launch(tmp_path, 3, *flags, "--model-prefix", tmp_path / "x").returncode == 0
    assert_close(tmp_path / "x", tmp_path / "whole", within=within)


@pytest.mark.slow
def test_another_number_of_workers_resumes_in_mid_epoch(lenet, whole, tmp_path):
    prefix = ["--model-prefix", tmp_path / "x"]
    with before_batch(11, terminate):
        assert train(*lenet, *prefix).returncode == 143
    for workers in (2, 3):
        shutil.rmtree(tmp_path / "part", ignore_errors=True)
        (tmp_path / "part").mkdir()
        for path in tmp_path.glob("x-*"):
            shutil.copy(path, tmp_path / "part")
        resumed = [*lenet, "--model-prefix", tmp_path / "part" / "x", "--resume"]
        result = launch(tmp_path, workers, *resumed)
        assert result.returncode == 0, result.stderr
        assert_close(tmp_path / "part" / "x", whole)


@pytest.mark.slow
def test_a_signal_to_the_launcher_saves_and_one_process_resumes(lenet, tmp_path):
    flags = [*lenet, "--batch-size", 2, "--lr-schedule", "step", "--model-prefix"]
    process = start(tmp_path, 2, *flags, tmp_path / "x", "--num-epochs", 300)
    output = tmp_path / "logs" / "worker-0.log"
    wait_for(lambda: output.exists() and "epoch 2/300  10/100" in output.read_text())
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 143
    assert "saved; --resume continues" in output.read_text()
    (partial,) = tmp_path.glob("x-partial-*[0-9].json")
    epochs = json.loads(partial.read_text())["batches"] // 50 + 1
    assert train(*flags, tmp_path / "y", "--num-epochs", epochs).returncode == 0
    resumed = [tmp_path / "x", "--num-epochs", epochs, "--resume"]
    assert train(*flags, *resumed).returncode == 0
    assert_close(tmp_path / "x", tmp_path / "y", epochs)


@pytest.mark.slow
def test_compressed_gradients_train(lenet, tmp_path):
    pytest.importorskip("tensorboardX")
    flags = [*lenet, "--gc-type", "2bit", "--gc-threshold", 0.01, "--num-epochs", 6]
    flags += ["--tensorboard", tmp_path / "events"]
    result = launch(tmp_path, 2, *flags, "--model-prefix", tmp_path / "x", servers=2)
    assert result.returncode == 0, result.stderr
    assert len(list((tmp_path / "events").iterdir())) == 1  # worker 0's
    last = logged(tmp_path / "x")[-1]
    assert last["val"]["top-1"] > 0.9
    assert last["val"]["loss"] == pytest.approx(0, abs=0.5)


OTHER_RECORDS = """
import os, sys
if os.environ["LAUNCH_WORKER"] == "1":
    sys.argv[sys.argv.index("--data-train") + 1] = {!r}
sys.path[:0] = [{!r}]
import train_imagenet
from common import cli
cli.run(train_imagenet.main)
"""


@pytest.mark.slow
def test_other_records_are_refused(lenet, tmp_path):
    other = write_records(tmp_path / "other", *bands(100, seed=7))
    script = tmp_path / "script.py"
    script.write_text(OTHER_RECORDS.format(other, ROOT))
    flags = ["--", script, *lenet, "--kv-store", "dist_sync", "--model-prefix", tmp_path / "x"]
    result = run_script("launch.py", "-n", 2, "--log-dir", tmp_path / "logs", *flags)
    assert result.returncode == 2
    assert "worker 1: its training records are not those of worker 0" in result.stderr
    assert list(tmp_path.glob("x*")) == []
