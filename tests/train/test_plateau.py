"""The rate falls, and a run ends, when validation stops improving: exact over stops and kills."""

import json
import os
import signal
from unittest import mock

import pytest
from conftest import assert_refused, assert_same_arrays, before_batch, train

from common.checkpoint import store
from common.evaluate.evaluator import Evaluator
from common.io.files import save_json
from common.train.loop import Run
from common.train.schedule import Plateau, epochs_since_best

LENET = ["--network", "lenet", "--dataset", "mnist", "--deterministic", "--batch-size", 16]
PLATEAU = ["--lr-schedule", "plateau", "--lr-patience", 2, "--lr", 0.05, "--num-epochs", 6]
# In place of what validation finds after each epoch: the rate falls after 4 and 6.
TOP1 = [0.5, 0.6, 0.6, 0.4, 0.5, 0.6]


@pytest.fixture
def flags(small):
    return [*LENET, *PLATEAU, "--data-train", small.train, "--data-val", small.val]


@pytest.fixture(autouse=True)
def judged(monkeypatch):
    """Validation runs, and then says TOP1 of the epoch that the run is at."""
    evaluate, report = Evaluator.evaluate, Run._report
    epochs = []

    def reporting(run, epoch, evaluator):
        epochs.append(epoch)
        report(run, epoch, evaluator)

    def evaluating(evaluator, *given):
        scores = evaluate(evaluator, *given)
        found = {**scores.figures(), "top-1": TOP1[epochs[-1] - 1]}
        return mock.Mock(figures=lambda: found)

    monkeypatch.setattr(Run, "_report", reporting)
    monkeypatch.setattr(Evaluator, "evaluate", evaluating)


def events(prefix, *kinds):
    with open(f"{prefix}-log.jsonl") as file:
        lines = [json.loads(line) for line in file]
    keep = ("event", "epoch", "lr", "train", "val")
    return [{k: line.get(k) for k in keep} for line in lines if line["event"] in kinds]


def terminate():
    signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize(
    "accuracies, changed",
    [
        ([], [False]),
        ([0.1, 0.2, 0.3], [False] * 4),
        ([0.3, 0.3, 0.2, 0.3, 0.1], [False, False, False, True, False, True]),
        ([0.3, 0.1, 0.4, 0.1, 0.4, 0.5], [False] * 5 + [True, False]),
        ([0.0, 0.0, 0.0], [False, False, False, True]),
    ],
)
def test_the_rate_falls_after_two_epochs_that_are_no_better(accuracies, changed):
    plateau = Plateau(2, 0.1, base_lr=1.0)
    assert [plateau.heed(accuracies[:n]) for n in range(len(accuracies) + 1)] == changed
    again = Plateau(2, 0.1, base_lr=1.0)
    again.heed(accuracies)  # as a run that resumes does
    assert again(9) == plateau(9) == 0.1 ** sum(changed)


def test_warm_up_comes_before():
    plateau = Plateau(1, 0.1, base_lr=1.0, warmup_steps=4)
    plateau.heed([0.2, 0.1])
    assert [plateau(update) for update in (1, 2, 4, 5)] == [0.25, 0.5, 0.1, 0.1]


def test_of_equal_accuracies_the_first_is_the_best():
    assert [epochs_since_best(TOP1[:n]) for n in range(7)] == [0, 0, 0, 1, 2, 3, 4]


@pytest.fixture
def whole(flags, tmp_path):
    """The prefix of an uninterrupted run."""
    prefix = tmp_path / "whole"
    result = train(*flags, "--model-prefix", prefix)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("validation stopped improving: learning rate 0.005") == 1
    rates = [(line["epoch"], round(line["lr"], 9)) for line in events(prefix, "rate")]
    assert rates == [(4, 0.005), (6, 0.0005)]
    return prefix


def test_the_rate_tells_in_the_weights(flags, whole, tmp_path):
    assert train(*flags, "--lr-patience", 9, "--model-prefix", tmp_path / "x").returncode == 0
    assert_same_arrays(tmp_path / "x-0004.params", f"{whole}-0004.params")
    with pytest.raises(AssertionError):
        assert_same_arrays(tmp_path / "x-0005.params", f"{whole}-0005.params")


@pytest.mark.parametrize("batch", [26, 30])
def test_resume_is_exact(flags, whole, tmp_path, batch):
    flags = [*flags, "--model-prefix", tmp_path / "x"]
    with before_batch(batch, terminate):
        assert train(*flags).returncode == 143
    assert train(*flags, "--resume").returncode == 0
    assert_same_arrays(tmp_path / "x-0006.params", f"{whole}-0006.params")
    kinds = ("epoch", "rate")
    assert events(tmp_path / "x", *kinds) == events(whole, *kinds)


def test_stopped_while_the_deciding_epoch_is_validated(flags, whole, tmp_path):
    evaluate, calls = Evaluator.evaluate, []

    def stopping(evaluator, *given):
        calls.append(1)
        if len(calls) == 4:
            terminate()
        return evaluate(evaluator, *given)

    flags = [*flags, "--model-prefix", tmp_path / "x"]
    with mock.patch.object(Evaluator, "evaluate", stopping):
        assert train(*flags).returncode == 143
    assert train(*flags, "--resume").returncode == 0
    assert_same_arrays(tmp_path / "x-0006.params", f"{whole}-0006.params")
    assert events(tmp_path / "x", "rate") == events(whole, "rate")


def test_load_epoch_forgets_what_came_later(flags, whole):
    again = train(*flags, "--model-prefix", whole, "--load-epoch", 3, "--overwrite")
    assert again.returncode == 0, again.stderr
    rates = [line["epoch"] for line in events(whole, "rate")]
    assert rates == [4, 6, 4, 6]


def test_epochs_judged_otherwise_are_refused(flags, whole, small):
    again = [*flags, "--model-prefix", whole, "--resume"]
    other = ["--data-val", small.train]
    assert_refused(train(*again, *other), f"--data-val {small.train}", "compare all epochs")
    assert_refused(train(*again, "--lr-patience", 7), "--lr-patience 7", "trained with")


def test_stop_patience_ends_the_run_with_a_numbered_checkpoint(flags, tmp_path):
    prefix = str(tmp_path / "x")
    flags = [*flags, "--save-period", 3, "--model-prefix", prefix]
    result = train(*flags, "--stop-patience", 3)
    assert result.returncode == 0, result.stderr
    assert "stopped after epoch 5: no better validation accuracy for 3 epochs" in result.stdout
    assert f"--model-prefix {prefix} --load-epoch 5 PICTURE" in result.stdout
    assert store.numbers(prefix) == [3, 5] and store.numbers(store.partial(prefix)) == []

    with mock.patch.object(Run, "_step", side_effect=AssertionError):
        again = train(*flags, "--stop-patience", 3, "--resume")
    assert again.returncode == 0 and "stopped after epoch 5" in again.stdout
    longer = train(*flags, "--stop-patience", 5, "--resume")
    assert longer.returncode == 0 and "ended" not in longer.stdout
    assert store.numbers(prefix) == [3, 5, 6]
    assert train(*flags[:-2], "--model-prefix", tmp_path / "y").returncode == 0
    assert_same_arrays(f"{prefix}-0006.params", tmp_path / "y-0006.params")


def test_a_checkpoint_of_before_these_flags_goes_on(small, tmp_path):
    prefix = str(tmp_path / "x")
    flags = [*LENET, "--data-train", small.train, "--model-prefix", prefix, "--num-epochs"]
    assert train(*flags, 1).returncode == 0
    record = store.load_record(prefix, 1)
    del record["validated"], record["args"]["lr_patience"], record["args"]["stop_patience"]
    save_json(store.record_path(prefix, 1), record)
    result = train(*flags, 2, "--resume")
    assert result.returncode == 0, result.stderr
    assert "; changed: num_epochs 1 -> 2\n" in result.stdout


@pytest.mark.parametrize(
    "change",
    [
        ["--lr-schedule", "plateau"],
        ["--lr-patience", 2],
        ["--lr-schedule", "plateau", "--lr-patience", 0],
        ["--lr-schedule", "plateau", "--lr-patience", 2],
        ["--stop-patience", 2],
        ["--stop-patience", 2, "--benchmark", 1],
    ],
    ids=lambda change: " ".join(map(str, change)),
)
def test_what_it_needs_is_said(small, tmp_path, change):
    result = train(*LENET, "--data-train", small.train, "--model-prefix", tmp_path / "x", *change)
    assert_refused(result, "-patience")
    assert os.listdir(tmp_path) == []
