"""Which checkpoints a run saves and keeps, and what it saves when a loss is not finite."""

import contextlib
import functools
import os
import signal
from types import SimpleNamespace

import mxnet as mx
import numpy as np
import pytest
from conftest import assert_refused, assert_same_run, before_batch, logged, terminate, train

import train_imagenet
from common.checkpoint import store
from common.train import loop

EPOCH = 7  # batches


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
    judged = Judged([0.2, 0.9, 0.1, 0.9, 0.4])
    monkeypatch.setattr(train_imagenet, "Evaluator", lambda *_args, **_kwargs: judged)
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
