"""Going on with training is as if it had never stopped."""

import itertools
import os
from unittest import mock

import mxnet as mx
import numpy as np
import pytest
from conftest import (
    LENET,
    assert_refused,
    assert_same_arrays,
    assert_same_run,
    bands,
    before_batch,
    logged,
    terminate,
    train,
    write_records,
)

import symbols
from common.checkpoint import store
from common.evaluate.evaluator import Evaluator
from common.input.share import Share
from common.train import loop
from common.train.checkpoints import Checkpoints
from common.train.cluster import Cluster
from common.train.resume import seed_dropout

EPOCH = 7  # batches
_UPDATE = mx.mod.Module.update


def count_updates():
    """Within it, a mock whose call_count is how many batches were trained."""
    return mock.patch.object(mx.mod.Module, "update", autospec=True, side_effect=_UPDATE)


def dropout_net(num_classes):
    net = mx.sym.Convolution(mx.sym.Variable("data"), name="c1", num_filter=4, kernel=(5, 5))
    net = mx.sym.Activation(net, act_type="relu", name="relu1")
    net = mx.sym.Dropout(mx.sym.Flatten(net, name="flat"), p=0.5, name="drop")
    net = mx.sym.FullyConnected(net, name="fc", num_hidden=num_classes)
    return mx.sym.SoftmaxOutput(net, name="softmax")


@pytest.fixture
def augmented(tmp_path, monkeypatch):
    """Flags of runs with all that is drawn at random: dropout, crops, mirrors, lighting."""
    monkeypatch.setitem(symbols.NETWORKS, "lenet", dropout_net)
    path = write_records(tmp_path / "colour", *bands(50, seed=1, size=24, channels=3))
    random = ["--random-crop", 1, "--random-mirror", 1, "--pca-noise", 0.5, "--num-epochs", 3]
    shape = ["--image-shape", "3,20,20", "--resize", 24, "--rgb-mean", "90,90,90"]
    deviation = ["--rgb-std", "60,60,60", "--lr", 0.01]
    return [*LENET, *random, *shape, *deviation, "--data-train", path, "--data-val", path]


def test_stopped_after_every_batch_it_is_the_uninterrupted_run_bit_for_bit(augmented, tmp_path):
    whole, prefix = tmp_path / "whole", tmp_path / "x"
    assert train(*augmented, "--model-prefix", whole).returncode == 0
    stops = 0
    for _ in range(30):
        with mock.patch.object(Checkpoints, "is_due", stop_now):
            result = train(*augmented, "--model-prefix", prefix, "--resume")
        stops += result.returncode == 143
        if result.returncode == 0:
            break
    assert stops == 7  # ten batches: in three of them an epoch ends, and is saved anyway
    assert_same_run(prefix, whole, epochs=3)


def stop_now(run):
    """In place of Checkpoints.is_due: a signal after each batch."""
    terminate()
    return True


@pytest.mark.parametrize("flag", ["--seed", "--random-mirror", "--random-crop", "--pca-noise"])
def test_what_is_random_tells_in_the_result(augmented, tmp_path, flag):
    """Or bit-equal runs above would say nothing about it."""
    losses = []
    for value in (0, 1):
        result = train(
            *augmented, "--num-epochs", 1, "--model-prefix", tmp_path / str(value), flag, value
        )
        assert result.returncode == 0, result.stderr
        losses.append(logged(tmp_path / str(value))[-1]["train"]["loss"])
    assert losses[0] != losses[1]


def test_dropout_of_each_seed_and_batch_is_its_own():
    drawn = set()
    for seed, batch in itertools.product((0, 1, 2, 11), repeat=2):
        seed_dropout(seed, batch)
        drawn.add(mx.nd.random.uniform(shape=4).asnumpy().tobytes())
    assert len(drawn) == 16


def test_dropout_of_each_worker_is_its_own(augmented, monkeypatch):
    drawn = []
    for rank in (0, 1):
        cluster, seeds = Cluster(), set()
        cluster.share = Share(rank, 2)
        monkeypatch.setattr(Cluster, "from_args", lambda _, cluster=cluster: cluster)
        monkeypatch.setattr(loop, "seed_dropout", lambda *given, seeds=seeds: seeds.add(given))
        assert train(*augmented, "--num-epochs", 1).returncode == 0
        drawn.append(seeds)
    assert len(drawn[0]) == len(drawn[1]) > 2
    assert drawn[0].isdisjoint(drawn[1])


def test_on_other_devices_it_goes_on_to_the_same_result(flags, finished, tmp_path):
    prefix = tmp_path / "x"
    flags = [*flags, "--model-prefix", prefix]
    with before_batch(4, terminate):
        assert train(*flags, "--cpus", 2).returncode == 143
    with before_batch(9, terminate):
        assert train(*flags, "--cpus", 3, "--resume").returncode == 143
    assert train(*flags, "--resume").returncode == 0
    found, expected = (mx.nd.load(f"{path}-0002.params") for path in (prefix, finished))
    for name in expected:
        np.testing.assert_allclose(
            found[name].asnumpy(), expected[name].asnumpy(), rtol=1e-3, atol=1e-5
        )


def test_load_epoch_trains_again_from_there(flags, finished, copied):
    flags = [*flags, "--model-prefix", copied, "--load-epoch", 1]
    assert_refused(train(*flags), f"{copied}-0002.params", "--overwrite")
    store.verify(str(copied), 2)
    result = train(*flags, "--overwrite")
    assert result.returncode == 0, result.stderr
    assert f"resuming from {copied}-0001.params" in result.stdout
    assert logged(copied) == logged(finished) + logged(finished)[EPOCH + 1 :]
    assert_same_arrays(f"{copied}-0002.params", f"{finished}-0002.params")
    assert_refused(train(*flags[:-1], 7), f"{copied}-0007")


def test_resume_with_nothing_there_begins_anew_and_says_so(flags, finished, tmp_path):
    result = train(*flags, "--model-prefix", tmp_path / "x", "--resume")
    assert result.returncode == 0
    assert f"no checkpoint at {tmp_path / 'x'} yet: starting afresh" in result.stdout
    assert_same_run(tmp_path / "x", finished)


def test_resume_with_everything_trained_says_so_and_changes_no_weight(flags, finished, copied):
    with count_updates() as updates:
        result = train(*flags, "--model-prefix", copied, "--resume")
    assert result.returncode == 0 and result.stderr == ""
    assert "the checkpoint has 2 epochs already; --num-epochs asks for no more" in result.stdout
    assert updates.call_count == 0
    assert_same_run(copied, finished)


def test_checksums_are_computed_once(flags, copied):
    with mock.patch.object(store, "sha256", side_effect=store.sha256) as computed:
        assert train(*flags, "--model-prefix", copied, "--resume").returncode == 0
    names = sorted(os.path.basename(call[0][0]) for call in computed.call_args_list)
    assert names == ["x-0002-optimizer.params", "x-0002.params", "x-symbol.json"]


def test_more_epochs_than_before_go_on_and_the_change_is_printed(flags, copied):
    flags = [*flags, "--model-prefix", copied, "--resume", "--num-epochs", 3, "--lr", 0.01]
    with count_updates() as updates:
        result = train(*flags)
    assert result.returncode == 0
    changed = result.stdout.split("; changed: ")[1].splitlines()[0]
    assert changed.split(", ")[:2] == ["num_epochs 2 -> 3", "lr 0.05 -> 0.01"]
    assert updates.call_count == 19 - 13
    assert [line["epoch"] for line in logged(copied) if line["event"] == "epoch"] == [1, 2, 3]


@pytest.mark.parametrize("epoch", [1, 2])
def test_stopped_while_it_validates_it_validates_and_trains_nothing_twice(
    flags, finished, tmp_path, epoch
):
    flags = [*flags, "--model-prefix", tmp_path / "x"]
    with validations_that_stop_at(epoch):
        result = train(*flags)
    assert result.returncode == 143 and "nothing to save" in result.stdout
    assert sum(line["event"] == "epoch" for line in logged(tmp_path / "x")) == epoch - 1
    with count_updates() as updates:
        assert train(*flags, "--resume").returncode == 0
    assert updates.call_count == (13 - EPOCH if epoch == 1 else 0)
    assert_same_run(tmp_path / "x", finished)


def validations_that_stop_at(epoch):
    evaluate, calls = Evaluator.evaluate, []

    def stopping(evaluator, *given):
        calls.append(1)
        if len(calls) == epoch:
            terminate()
        return evaluate(evaluator, *given)

    return mock.patch.object(Evaluator, "evaluate", stopping)
