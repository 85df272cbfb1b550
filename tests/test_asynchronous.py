"""Training with --kv-store dist_async: real processes of launch.py, and what a server computes."""

import hashlib
import json
import os
import pickle
import shutil
import signal
import time
from argparse import Namespace

import mxnet as mx
import numpy as np
import pytest
from conftest import LENET, ROOT, logged, run_script, train
from test_distributed import WORKER, assert_close, command, launch, start, wait_for
from test_launch_killed import processes

from common.cli import UserError
from common.train import asynchronous, cluster

STORE = {"store": "dist_async"}
TRAINED = 0.1  # a validation loss; that of guessing is 1.1, and 18 such runs ended below .005


@pytest.fixture
def lenet(small):
    """Flags for 1 to 3 workers: a batch of 12, epochs of 100 images."""
    flags = [flag for flag in LENET if flag != "--deterministic"]
    return [*flags, "--batch-size", 12, "--data-train", small.train, "--data-val", small.val]


def losses(prefix):
    """The validation loss of each epoch."""
    return [line["val"]["loss"] for line in logged(prefix) if line["event"] == "epoch"]


def arrays(path):
    return {name: array.asnumpy() for name, array in mx.nd.load(str(path)).items()}


@pytest.mark.parametrize(
    "name, value, why",
    [
        ("deterministic", True, "--deterministic: is not for .*: gradients count as they arrive"),
        ("skip_nonfinite", 1, "--skip-nonfinite: is not for .*: the others have trained on"),
        ("save_minutes", 5.0, "--save-minutes: is not for .*: within an epoch no two workers"),
        ("optimizer", "adadelta", "--optimizer adadelta: is not for .*: its steps do not follow"),
        ("dtype", "float16", "--dtype float16: is not for several workers"),
        ("draw", "balanced", "--draw balanced: is not for several workers"),
    ],
)
def test_what_it_cannot_do_is_refused(name, value, why, monkeypatch):
    for variable, number in WORKER.items():
        monkeypatch.setenv(variable, number)
    args = Namespace(kv_store="dist_async", batch_size=12, gpus=None, cpus=1, optimizer="sgd")
    vars(args).update(draw="all", data_backend="mxnet", dtype="float32")
    vars(args).update(deterministic=False, skip_nonfinite=0, save_minutes=None)
    cluster.check(args)
    setattr(args, name, value)
    with pytest.raises(UserError, match=why):
        cluster.check(args)


def test_batch_norm_is_refused():
    net = mx.sym.BatchNorm(mx.sym.Variable("data"), name="bn")
    with pytest.raises(UserError, match="bn_moving_mean, is not for several workers"):
        cluster.check_network(net, "dist_async")


def test_the_workers_pushes_make_one_update_of_the_schedule():
    schedule = mx.lr_scheduler.MultiFactorScheduler([2, 4], 0.1, base_lr=3.0)
    rate = asynchronous.Rate(schedule, 3)
    rates = [rate(push) for push in range(1, 16)]
    assert rates == pytest.approx([1] * 6 + [0.1] * 6 + [0.01] * 3)


def served(optimizer, workers, gradients):
    """A weight of 1 after ``gradients``, each pushed in turn to a server for so many workers."""
    optimizer.rescale_grad *= workers
    constant = mx.lr_scheduler.MultiFactorScheduler([10**6], base_lr=optimizer.lr)
    optimizer.lr_scheduler = asynchronous.Rate(constant, workers)
    optimizer.idx2name = {4: "fc_weight"}
    kept = optimizer.create_state(4, mx.nd.ones(5))
    count = len(kept) if isinstance(kept, tuple) else int(kept is not None)
    states = {4: list(range(7, 7 + count))}
    server = pickle.loads(pickle.dumps(asynchronous.Server(optimizer, states), 0))
    update = mx.optimizer.get_updater(server)  # as MXNet has it on a server
    for number in states[4]:
        update(number, mx.nd.ones(5), mx.nd.zeros(5))
    weight = mx.nd.ones(5)
    for gradient in gradients:
        update(4, mx.nd.full(5, gradient), weight)
    return weight.asnumpy()


@pytest.mark.parametrize(
    "name, options",
    [
        ("sgd", {}),
        ("sgd", {"momentum": 0.9}),
        ("nag", {"momentum": 0.9}),
        ("adam", {}),
        ("rmsprop", {}),
    ],
)
def test_small_steps_move_a_weight_as_far_as_large_ones(name, options):
    batches, images = 400, 6  # the gradient of each image is .3
    options = {"learning_rate": 1e-4, "wd": 0.5, "rescale_grad": 1 / images, **options}
    moved = []
    for workers in (1, 3):
        optimizer = mx.optimizer.create(name, **options)
        pushes = [0.3 * images / workers] * (batches * workers)
        moved.append(1 - served(optimizer, workers, pushes))
    assert moved[0].min() > 0.005
    np.testing.assert_allclose(moved[1], moved[0], rtol=0.03)


def test_a_server_keeps_the_rest_as_it_arrives():
    update = mx.optimizer.get_updater(pickle.loads(pickle.dumps(asynchronous.Server(), 0)))
    stored = mx.nd.zeros(3)
    for value in (2, 1):
        update(0, mx.nd.full(3, value), stored)
        assert stored.asnumpy().tolist() == [value] * 3


def test_one_worker_trains_as_one_process_does(lenet, tmp_path):
    assert train(*lenet, "--model-prefix", tmp_path / "whole").returncode == 0
    prefix = ["--model-prefix", tmp_path / "x"]
    result = launch(tmp_path, 1, *lenet, *prefix, servers=2, **STORE)
    assert result.returncode == 0, result.stderr
    assert_close(tmp_path / "x", tmp_path / "whole")
    assert losses(tmp_path / "x") == pytest.approx(losses(tmp_path / "whole"), abs=1e-5)


SCRIPT = """
import hashlib, json, os, sys
sys.path[:0] = [{!r}]
import train_imagenet
from common import cli
from common.train import asynchronous, loop
{}
cli.run(train_imagenet.main)
"""


def run_job(change, folder, count, *flags, environment=(), **options):
    """The result of a job whose script has been changed by ``change``."""
    script = folder / "script.py"
    script.write_text(SCRIPT.format(ROOT, change))
    arguments = command(folder, count, *flags, **options, **STORE)
    arguments[arguments.index("--") + 1] = str(script)
    return run_script(*arguments, **dict(environment))


WATCHED = """
step, train, read = loop.Run._step, loop.Run.train, []
def watched(run, batch, title):
    rows = batch.data[0].asnumpy()
    read.append([run.state.batches, [hashlib.md5(row.tobytes()).hexdigest() for row in rows]])
    step(run, batch, title)
def whole(run, *given):
    trained = train(run, *given)
    lists = zip(run.module._exec_group.param_names, run.module._exec_group.param_arrays)
    digests = {{n: hashlib.md5(a[0].asnumpy().tobytes()).hexdigest() for n, a in lists}}
    name = "{folder}/" + os.environ["LAUNCH_WORKER"] + ".json"
    open(name, "w").write(json.dumps([read, digests]))
    return trained
loop.Run._step, loop.Run.train = watched, whole
"""


def watched(folder, count, *flags, environment=(), **options):
    """For each worker, the images that it reads in a job and the weights that it ends with."""
    text = WATCHED.format(folder=folder)
    result = run_job(text, folder, count, *flags, environment=environment, **options)
    assert result.returncode == 0, result.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(count)]


def check_job(lenet, folder, workers, **options):
    """A job of 3 epochs reads each image once an epoch, and ends with one set of weights.

    Its validation losses are returned.
    """
    prefix = folder / "x"
    flags = [*lenet, "--batch-size", 6, "--num-epochs", 3, "--num-examples", 90]
    seen = watched(folder, workers, *flags, "--model-prefix", prefix, **options)
    for epoch in range(3):
        own = range(15 * epoch, 15 * epoch + 15)  # the batches of the epoch
        read = [image for had, _ in seen for n, part in had if n in own for image in part]
        assert len(read) == len(set(read)) == 90
    saved = arrays(f"{prefix}-0003.params")
    for _, digests in seen:
        assert digests.keys() == {name.partition(":")[2] for name in saved}
        for name, array in saved.items():
            assert hashlib.md5(array.tobytes()).hexdigest() == digests[name.partition(":")[2]]
    state = arrays(f"{prefix}-0003-optimizer.params")
    assert all(np.abs(array).max() > 0 for array in state.values())
    return losses(prefix)


def test_two_workers_train(lenet, tmp_path):
    assert check_job(lenet, tmp_path, 2)[-1] < TRAINED


SLICED = {"MXNET_KVSTORE_BIGARRAY_BOUND": "200"}  # most of LeNet's weights lie on all servers


@pytest.mark.slow
@pytest.mark.parametrize(
    "workers, servers, environment, more",
    [
        (2, 2, {}, []),
        (3, 1, {}, []),
        (3, 2, SLICED, []),
        (2, 3, SLICED, ["--cpus", 2]),
        (2, 1, {}, ["--gc-type", "2bit", "--gc-threshold", 0.01]),
        (2, 2, SLICED, ["--gc-type", "2bit", "--gc-threshold", 0.01]),
        (3, 2, {}, ["--optimizer", "adam", "--lr", 0.002]),
        (2, 2, {}, ["--optimizer", "nag"]),
        (2, 1, {}, ["--optimizer", "rmsprop", "--lr", 0.001]),
        (2, 1, {}, ["--optimizer", "adagrad", "--lr", 0.02]),
        (2, 1, {}, ["--lr-schedule", "plateau", "--lr-patience", 1]),
    ],
)
def test_more_workers_and_servers_train(lenet, tmp_path, workers, servers, environment, more):
    options = {"servers": servers, "environment": environment}
    assert check_job([*lenet, *more], tmp_path, workers, **options)[-1] < TRAINED


@pytest.mark.slow
@pytest.mark.parametrize(
    "more, within",
    [
        (["--optimizer", "adam", "--lr", 0.001], 1e-5),
        (["--optimizer", "nag", "--lr", 0.001, "--accumulate", 2], 1e-6),
        (["--optimizer", "rmsprop", "--lr", 0.001], 1e-5),
        (["--optimizer", "adagrad", "--lr", 0.01], 1e-5),
        (["--lr-schedule", "plateau", "--lr-patience", 1], 1e-6),
        (["--lr-schedule", "step", "--lr-step-epochs", "1,2", "--warmup-epochs", 0.5], 1e-6),
    ],
)
def test_one_worker_with_other_optimizers_and_rates(lenet, tmp_path, more, within):
    flags = [*lenet, *more, "--wd", 0.01, "--num-epochs", 3, "--model-prefix"]
    assert train(*flags, tmp_path / "whole").returncode == 0
    result = launch(tmp_path, 1, *flags, tmp_path / "x", servers=2, **STORE)
    assert result.returncode == 0, result.stderr
    assert ("learning rate 0.005 from here" in result.stdout) == ("plateau" in more)
    assert_close(tmp_path / "x", tmp_path / "whole", 3, within)


@pytest.mark.slow
def test_tensorboard_has_no_gradients(lenet, tmp_path):
    pytest.importorskip("tensorboardX")
    events = tmp_path / "events"
    result = launch(tmp_path, 2, *lenet, "--tensorboard", events, **STORE)
    assert result.returncode == 0, result.stderr
    (path,) = events.iterdir()
    assert b"weights/" in path.read_bytes()
    assert b"gradients/" not in path.read_bytes()


SLOW = """
import time
step = loop.Run._step
def slow(run, *given):
    time.sleep(3 * int(os.environ["LAUNCH_WORKER"]))
    step(run, *given)
loop.Run._step = slow
"""


@pytest.mark.slow
def test_who_waits_for_a_slow_worker_has_not_stalled(lenet, tmp_path):
    options = {"options": ["--stall-seconds", 20]}  # worker 1 takes 3 s for each of 9 batches
    result = run_job(SLOW, tmp_path, 2, *lenet, "--num-epochs", 1, **options)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_others_resume_from_its_checkpoint_and_it_from_theirs(lenet, tmp_path):
    first = [*lenet, "--model-prefix", tmp_path / "x"]
    assert launch(tmp_path, 2, *first, servers=2, **STORE).returncode == 0
    for name in ("process", "one", "three", "sync"):
        (tmp_path / name).mkdir()
        for path in tmp_path.glob("x*"):
            shutil.copy(path, tmp_path / name)
    more = [*lenet, "--num-epochs", 3, "--resume", "--model-prefix"]
    assert train(*more, tmp_path / "process" / "x").returncode == 0
    for name, count, store in (
        ("one", 1, "dist_async"),
        ("three", 3, "dist_async"),
        ("sync", 2, "dist_sync"),
    ):
        result = launch(tmp_path, count, *more, tmp_path / name / "x", store=store)
        assert result.returncode == 0, result.stderr
        assert losses(tmp_path / name / "x")[-1] < TRAINED
    assert_close(tmp_path / "one" / "x", tmp_path / "process" / "x", 3)
    assert_close(tmp_path / "sync" / "x", tmp_path / "process" / "x", 3)
    with pytest.raises(AssertionError):  # what the comparison is worth
        assert_close(tmp_path / "three" / "x", tmp_path / "process" / "x", 3)


@pytest.fixture
def long(grey):
    """Flags for 2 workers: 300 batches an epoch, for many epochs."""
    flags = [flag for flag in LENET if flag != "--deterministic"]
    flags += ["--batch-size", 2, "--num-epochs", 300, "--lr-schedule", "step", "--lr", 0.005]
    return [*flags, "--data-train", grey.train, "--data-val", grey.val]


def running(folder, *flags, store="dist_async"):
    """A job of two workers that trains, its processes, and how many batches worker 0 has done."""
    job, output = start(folder, 2, *flags, store=store), folder / "logs" / "worker-0.log"

    def batches():
        return output.read_text().count(" img/s  ") if output.exists() else 0

    wait_for(lambda: batches() > 20)
    return job, processes(job.pid), batches


@pytest.mark.slow
@pytest.mark.parametrize("store, goes_on", [("dist_async", True), ("dist_sync", False)])
def test_a_worker_that_is_held_up_holds_nobody_up(long, tmp_path, store, goes_on):
    job, found, batches = running(tmp_path, *long, store=store)
    try:
        os.kill(found["worker 1"], signal.SIGSTOP)
        time.sleep(0.5)  # for what had been sent by then
        before = batches()
        time.sleep(2)
        assert (batches() - before > 10) == goes_on
        os.kill(found["worker 1"], signal.SIGCONT)
        output = tmp_path / "logs" / "worker-0.log"
        wait_for(lambda: "epoch 1/300  train" in output.read_text())
    finally:
        job.kill()
        job.wait()


@pytest.mark.slow
def test_a_signal_saves_and_any_number_resumes(long, tmp_path):
    prefix = tmp_path / "x"
    job, found, batches = running(tmp_path, *long, "--model-prefix", prefix)
    os.kill(found["worker 1"], signal.SIGSTOP)  # for a while: the workers are then apart
    wait_for(lambda: batches() > 100)
    os.kill(found["worker 1"], signal.SIGCONT)
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=30) == 143
    assert "saved; --resume continues" in (tmp_path / "logs" / "worker-0.log").read_text()
    (partial,) = tmp_path.glob("x-partial-*[0-9].json")
    record = json.loads(partial.read_text())
    assert 0 < record["scores"][0] - 2 * record["batches"] < 2  # all images that were trained
    assert record["batches"] < batches()  # worker 1 has had fewer
    for count in (1, 2):
        shutil.copytree(tmp_path, tmp_path / f"{count}", ignore=shutil.ignore_patterns("logs"))
        more = [*long, "--num-epochs", 1, "--model-prefix", tmp_path / f"{count}" / "x", "--resume"]
        result = launch(tmp_path, 2, *more, **STORE) if count == 2 else train(*more)
        assert result.returncode == 0, result.stderr
        assert "resuming from" in result.stdout
        (epoch,) = [
            line for line in logged(tmp_path / f"{count}" / "x") if line["event"] == "epoch"
        ]
        assert epoch["val"]["loss"] < TRAINED


@pytest.mark.slow
def test_a_signal_while_worker_0_waits_for_the_others_saves(long, tmp_path):
    prefix = tmp_path / "x"
    flags = [*long, "--num-examples", 100, "--model-prefix", prefix]
    job, found, batches = running(tmp_path, *flags)
    os.kill(found["worker 1"], signal.SIGSTOP)
    done = -1
    while done != batches():  # worker 0 is at the end of its epoch
        done = batches()
        time.sleep(1)
    job.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    os.kill(found["worker 1"], signal.SIGCONT)
    assert job.wait(timeout=30) == 143
    assert "saved; --resume continues" in (tmp_path / "logs" / "worker-0.log").read_text()


@pytest.mark.slow
def test_a_restart_continues(lenet, tmp_path):
    prefix, options = tmp_path / "x", ["--max-restarts", 1]
    flags = [*lenet, "--num-epochs", 30, "--model-prefix", prefix]
    job = start(tmp_path, 2, *flags, options=options, **STORE)
    wait_for(lambda: list(tmp_path.glob("x-0002.json")))
    os.kill(processes(job.pid)["worker 1"], signal.SIGKILL)
    assert job.wait(timeout=200) == 0
    assert "all start again; 0 restarts are left" in job.stderr.read()
    assert len(losses(prefix)) == 30
    assert losses(prefix)[-1] < TRAINED


NOT_FINITE = """
step = loop.Run._step
def failing(run, batch, title):
    if run.state.batches == 12 and os.environ["LAUNCH_WORKER"] == "1":
        batch.data[0][:] = float("nan")
    step(run, batch, title)
loop.Run._step = failing
"""


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_the_job(lenet, tmp_path):
    result = run_job(NOT_FINITE, tmp_path, 2, *lenet, "--model-prefix", tmp_path / "x")
    assert result.returncode == 2
    assert "batch 12 of the run: the loss is not finite" in result.stderr
    assert "the last checkpoint is from before it" in result.stderr
    assert [path.name for path in tmp_path.glob("x-0*.json")] == ["x-0001.json"]


FAILING_SERVER = """
send = asynchronous.AsynchronousCluster._send
def broken(cluster, server):
    server._numbers = {number: [999] for number in server._numbers}
    send(cluster, server)
asynchronous.AsynchronousCluster._send = broken
"""


@pytest.mark.slow
def test_a_server_that_fails_ends_the_job(lenet, tmp_path):
    result = run_job(FAILING_SERVER, tmp_path, 2, *lenet)
    assert result.returncode == 1
    assert "server 0 on" in result.stderr
    assert "KeyError: 999" in result.stderr
