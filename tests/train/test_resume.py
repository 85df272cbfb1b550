"""Going on with training is as if it had never stopped; what does not fit is refused."""

import contextlib
import functools
import itertools
import os
import shutil
import signal
from types import SimpleNamespace
from unittest import mock

import cv2
import mxnet as mx
import numpy as np
import pytest
from conftest import (
    assert_refused,
    assert_same_arrays,
    bands,
    before_batch,
    logged,
    run_here,
    train,
    write_records,
)

import predict
import score
import symbols
import train_imagenet
from common.checkpoint import store
from common.evaluate.evaluator import Evaluator
from common.io.lock import lock
from common.train import loop
from common.train.checkpoints import Checkpoints
from common.train.resume import seed_dropout

# Seven batches are an epoch here, the last of which goes on with the next epoch's.

LENET = ["--network", "lenet", "--dataset", "mnist", "--deterministic", "--disp-batches", 1]
LENET += ["--batch-size", 16, "--num-epochs", 2]
EPOCH = 7


@pytest.fixture(scope="module")
def flags(small):
    return [*LENET, "--data-train", small.train, "--data-val", small.val]


@pytest.fixture(scope="module")
def finished(flags, tmp_path_factory):
    """The prefix of a run of two epochs that was never stopped; to be copied, not changed."""
    prefix = tmp_path_factory.mktemp("finished") / "x"
    assert train(*flags, "--model-prefix", prefix).returncode == 0
    return prefix


@pytest.fixture
def copied(finished, tmp_path):
    shutil.copytree(finished.parent, tmp_path / "copied")
    return tmp_path / "copied" / "x"


def assert_same_run(prefix, other, epochs=2):
    assert logged(prefix) == logged(other)
    for kind in ("", "-optimizer"):
        name = f"-{epochs:04d}{kind}.params"
        assert_same_arrays(f"{prefix}{name}", f"{other}{name}")


def terminate():
    signal.raise_signal(signal.SIGTERM)


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


# What does not fit.


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Training records of other images, and of four classes."""
    folder = tmp_path_factory.mktemp("others")
    images, labels = bands(100, seed=9)
    return SimpleNamespace(
        images=write_records(folder / "images", images, labels),
        classes=write_records(folder / "classes", images, np.arange(100) % 4),
    )


ALEXNET = ["--network", "alexnet", "--dataset", "cifar10", "--image-shape", "1,67,67"]
ALEXNET += ["--rgb-mean", "90", "--rgb-std", "60", "--pca-noise", 0, "--batch-size", 16]


@pytest.mark.parametrize(
    "change, words",
    [
        (ALEXNET, ["--network alexnet", "lenet"]),
        (["--data-train", "classes"], ["--num-classes 4", "trained with 3"]),
        (["--image-shape", "1,36,36"], ["--image-shape", "36", "32"]),
        (["--optimizer", "adam"], ["--optimizer adam", "sgd"]),
        (["--mom", 0], ["--optimizer, --mom"]),
        (["--batch-size", 20], ["--batch-size 20", "16"]),
        (["--num-examples", 90], ["--num-examples 90", "None"]),
        (["--seed", 1], ["--seed 1", "0"]),
        (["--top-k", 1], ["--top-k 1", "2"]),
        (["--data-train", "images"], ["images.rec", "other records"]),
        (["--benchmark", 1, "--num-classes", 3], ["other records"]),
    ],
    ids=lambda value: str(value[0]).replace(" ", "") if isinstance(value, list) else None,
)
@pytest.mark.parametrize("way", [["--resume"], ["--load-epoch", 2]], ids=["resume", "load-epoch"])
def test_what_does_not_fit_is_refused_in_one_line(flags, finished, others, change, words, way):
    change = [vars(others).get(value, value) for value in change]
    before = contents(finished.parent)
    result = train(*flags, *change, "--model-prefix", finished, *way)
    assert_refused(result, *words)
    before.pop("x-log.jsonl"), before.pop("x-config.json")
    after = contents(finished.parent)
    assert before.items() <= after.items()
    assert after.keys() - before.keys() == {"x-log.jsonl", "x-config.json"}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    "change, words",
    [
        (["--resume", "--load-epoch", 1], "--resume and --load-epoch"),
        (["--resume", "--overwrite"], "--resume and --overwrite"),
        (["--save-minutes", 0], "--save-minutes"),
        (["--keep", 0], "--keep"),
        (["--save-period", 0], "--save-period"),
        (["--num-examples", 5], "--batch-size 16"),
    ],
)
def test_flags_that_make_no_sense_are_refused(flags, tmp_path, change, words):
    assert_refused(train(*flags, "--model-prefix", tmp_path / "x", *change), words)


@pytest.mark.parametrize(
    "flag",
    [["--resume"], ["--load-epoch", 1], ["--overwrite"], ["--save-minutes", 1], ["--keep", 1]],
)
def test_flags_of_checkpoints_need_a_prefix(flags, flag):
    assert_refused(train(*flags, *flag), flag[0], "--model-prefix")


def damage(path):
    with open(path, "r+b") as file:
        file.seek(os.path.getsize(path) // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 64]))


def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(flags, finished, copied):
    flags = [*flags, "--model-prefix", copied]
    damage(f"{copied}-0002-optimizer.params")
    assert_refused(train(*flags, "--load-epoch", 2), f"{copied}-0002-optimizer.params", "damaged")
    result = train(*flags, "--resume")
    assert result.returncode == 0, result.stderr
    assert f"not used: {copied}-0002-optimizer.params: is damaged" in result.stdout
    assert f"resuming from {copied}-0001.params" in result.stdout
    assert_same_arrays(f"{copied}-0002-optimizer.params", f"{finished}-0002-optimizer.params")


def test_with_all_damaged_it_neither_goes_on_nor_begins_anew(flags, copied):
    damage(f"{copied}-symbol.json")
    before = contents(copied.parent)
    result = train(*flags, "--model-prefix", copied, "--resume")
    assert_refused(result, "--resume", str(copied), "--overwrite")
    assert result.stdout.count("not used: ") == 2
    assert before.items() <= contents(copied.parent).items()
    assert train(*flags, "--model-prefix", copied, "--overwrite").returncode == 0
    store.verify(str(copied), 2)


def test_a_checkpoint_of_stock_mxnet_is_used_but_not_gone_on_with(flags, small, finished, tmp_path):
    network = mx.model.load_checkpoint(str(finished), 2)
    prefix = tmp_path / "stock"
    mx.model.save_checkpoint(str(prefix), 2, *network)
    shutil.copy(f"{finished}-config.json", f"{prefix}-config.json")
    for way in (["--load-epoch", 2], ["--resume"]):
        result = train(*flags, "--model-prefix", prefix, *way)
        assert_refused(result, f"{prefix}-0002.")
        assert "--resume continues it" not in result.stderr
    chosen = ["--model-prefix", prefix, "--load-epoch", 2]
    assert "33 images" in run_here(score.main, *chosen, "--data-val", small.val).stdout
    cv2.imwrite(str(tmp_path / "x.png"), bands(1, seed=3)[0][0])
    assert run_here(predict.main, *chosen, tmp_path / "x.png").returncode == 0


# What is saved when, and what is kept.


class Judged:
    """In place of validation: each epoch's top-1 as told."""

    def __init__(self, top1):
        self._top1 = iter(top1)

    def evaluate(self, *_given):
        found = next(self._top1)
        return SimpleNamespace(figures=lambda: {"top-1": found})


def look(seen, number, prefix):
    seen[number] = store.numbers(prefix), store.numbers(store.partial(prefix))


def test_the_newest_and_the_best_are_kept_even_over_a_stop(flags, tmp_path, monkeypatch):
    prefix = str(tmp_path / "x")
    flags = [*flags, "--num-epochs", 5, "--keep", 2, "--model-prefix", prefix]
    seen = {}
    judged = Judged([0.2, 0.9, 0.1, 0.3, 0.4])
    monkeypatch.setattr(train_imagenet, "Evaluator", lambda *_args: judged)
    note = functools.partial(look, seen, 20, prefix)
    with before_batch(20, note), before_batch(23, terminate):
        assert train(*flags).returncode == 143
    assert seen == {20: ([2, 3], [])}
    assert train(*flags, "--resume").returncode == 0
    assert store.numbers(prefix) == [2, 4, 5]
    assert store.load_record(prefix, 5)["best"] == {"epoch": 2, "top-1": 0.9}
    for number in (2, 4, 5):
        store.verify(prefix, number)


def test_save_minutes_keeps_one_partial_checkpoint_and_none_after_the_epoch(flags, tmp_path):
    prefix = str(tmp_path / "x")
    seen = {}
    with contextlib.ExitStack() as stack:
        for number in (2, 6, 7, 8):
            stack.enter_context(before_batch(number, functools.partial(look, seen, number, prefix)))
        train(*flags, "--model-prefix", prefix, "--save-minutes", 1e-9)
    assert seen == {2: ([], [2]), 6: ([], [6]), 7: ([1], []), 8: ([1], [8])}
    assert store.numbers(prefix) == [1, 2]
    assert not any("partial" in name for name in os.listdir(tmp_path))


def test_save_period_numbers_only_each_so_many_epochs_but_loses_none(flags, finished, tmp_path):
    prefix = str(tmp_path / "x")
    flags = [*flags, "--num-epochs", 3, "--save-period", 2, "--model-prefix", prefix]
    with before_batch(7, lambda: signal.raise_signal(signal.SIGINT)):
        assert train(*flags).returncode == 130  # nothing is unsaved then
    assert store.numbers(prefix) == []
    assert store.newest(prefix)[0] == (store.partial(prefix), 7)
    assert train(*flags, "--resume").returncode == 0
    assert store.numbers(prefix) == [2, 3]
    assert not any("partial" in name for name in os.listdir(tmp_path))
    assert [line["epoch"] for line in logged(prefix) if line["event"] == "epoch"] == [1, 2, 3]


# A loss that is not finite.


@pytest.fixture
def spoil(monkeypatch):
    """spoil(2, 4) makes those batches of every run not-a-number, until spoil()."""
    spoilt = set()
    step = loop.Run._step

    def spoiling(run, batch, title):
        if run.state.batches in spoilt:
            batch = mx.io.DataBatch([batch.data[0] * np.nan], batch.label, pad=0)
        step(run, batch, title)

    def choose(*numbers):
        spoilt.clear()
        spoilt.update(numbers)

    monkeypatch.setattr(loop.Run, "_step", spoiling)
    return choose


@pytest.mark.parametrize("batch", [0, 1, 4, 6, 7, 9, 12])
def test_it_ends_with_the_state_of_before(flags, finished, tmp_path, spoil, batch):
    prefix = str(tmp_path / "x")
    flags = [*flags, "--model-prefix", prefix]
    spoil(batch)
    result = train(*flags)
    epoch = 1 + batch // EPOCH
    assert_refused(result, f"epoch {epoch}/2, batch {batch} of the run", "--skip-nonfinite")
    place = (store.partial(prefix), batch)
    assert store.params_path(*place) in result.stderr
    assert store.newest(prefix) == (place, [])
    weights = store.load(*place)[1]
    assert all(np.isfinite(array.asnumpy()).all() for array in weights.values())
    assert_refused(train(*flags, "--resume"), f"epoch {epoch}/2, batch {batch} of the run")
    spoil()
    resumed = train(*flags, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert_same_run(prefix, finished)


def test_without_a_prefix_it_ends_as_well(flags, spoil):
    spoil(3)
    assert_refused(train(*flags), "epoch 1/2, batch 3 of the run")


def test_as_many_as_allowed_are_left_out_over_a_stop_too(flags, tmp_path, spoil):
    allowed = [*flags, "--skip-nonfinite", 2, "--model-prefix"]
    spoil(2, 8)
    result = train(*allowed, tmp_path / "x")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("left out, 1 of --skip-nonfinite allowed") == 1
    assert result.stdout.count("left out, 2 of --skip-nonfinite allowed") == 1
    assert store.load_record(str(tmp_path / "x"), 2)["skipped"] == 2
    weights = store.load(str(tmp_path / "x"), 2)[1]
    assert all(np.isfinite(array.asnumpy()).all() for array in weights.values())

    with before_batch(4, terminate):
        assert train(*allowed, tmp_path / "stopped").returncode == 143
    assert train(*allowed, tmp_path / "stopped", "--resume").returncode == 0
    assert_same_run(tmp_path / "stopped", tmp_path / "x")

    spoil(2, 8, 10)
    assert_refused(train(*allowed, tmp_path / "third"), "batch 10 of the run")


def test_weights_that_blow_up_are_never_saved(flags, tmp_path):
    prefix = str(tmp_path / "x")
    flags = [*flags, "--save-minutes", 1e-9, "--model-prefix", prefix]
    with before_batch(3, terminate):
        assert train(*flags).returncode == 143
    result = train(*flags, "--resume", "--lr", 1e39)
    assert_refused(result, "weights", "lower --lr")
    place, damaged = store.newest(prefix)
    assert place == (store.partial(prefix), 3) and damaged == []
    weights = store.load(*place)[1]
    assert all(np.isfinite(array.asnumpy()).all() for array in weights.values())
    assert train(*flags, "--resume").returncode == 0


def test_a_second_run_at_the_same_prefix_is_refused(flags, copied):
    before = contents(copied.parent)
    with lock(str(copied)):
        result = train(*flags, "--model-prefix", copied, "--overwrite")
    assert_refused(result, f"--model-prefix {copied}", f"process {os.getpid()} on ")
    assert contents(copied.parent) == before
