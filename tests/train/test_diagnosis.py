"""A run that cannot learn says so, with the likely cause."""

from types import SimpleNamespace

import numpy as np
import pytest
from conftest import assert_refused, bands, train, write_records

from common.cli import UserError
from common.records.scan import scan_records
from common.train.diagnosis import Divergence, Standstill, cause_of_overflow, cause_of_standstill

LENET = ["--network", "lenet", "--dataset", "mnist"]
STILL = ["--initializer", "uniform", "--lr", 1e-6]
LINE = "after 200 batches the loss is still that of guessing (ln 3 = 1.099); likely cause: "
ARGS = {
    "network": "alexnet",
    "dataset": "imagenet",
    "pretrained": None,
    "lr": 0.01,
    "initializer": "paper",
    "rgb_std": [1.0, 1.0, 1.0],
}


def said(result):
    """The line's end, None if it is not there."""
    assert result.returncode == 0, result.stderr
    lines = [line for line in result.stdout.splitlines() if "still that of guessing" in line]
    assert len(lines) < 2 and all(line.startswith(LINE) for line in lines), lines
    return lines[0][len(LINE) :] if lines else None


@pytest.mark.parametrize(
    "flags, cause",
    [
        (["--lr", 0.025], None),  # it learns
        (STILL, "--lr 1e-06 in place of the recipe's 0.05; raise it"),
        (["--initializer", "normal"], "--initializer normal is for --rgb-std 1, not 200; give"),
        (
            ["--rgb-std", 9e4, "--lr", 0.025, "--mom", 0],
            "the flags say nothing; look whether the labels fit the images",
        ),
        ([*STILL, "--num-examples", 597], None),  # 199 batches
        ([*STILL, "--warmup-epochs", 0.5], None),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_a_loss_that_stays_at_guessing_is_said_with_the_likely_cause(grey, flags, cause):
    own = [*LENET, "--data-train", grey.train, "--batch-size", 3, "--num-epochs", 1]
    result = train(*own, *flags)
    line = said(result)
    assert line == cause or line.startswith(cause)


@pytest.mark.parametrize(
    "answer, seen",
    [([0.2, 0.8], True), ([0.5, 0.5], True), ([0.25, 0.75], True), ([0.9, 0.1], False)],
)
def test_guessing_by_the_classes_frequencies_is_guessing_too(tmp_path, answer, seen):
    labels = np.arange(60) % 5 > 0  # a loss of .50 with [.2, .8], where ln 2 is .69
    records = scan_records(write_records(tmp_path / "x", bands(60, seed=1)[0], labels.astype(int)))
    data = SimpleNamespace(records=records, num_classes=2, balanced=False)
    standstill = Standstill(data, warmup=10)
    said = [
        standstill.is_seen(number, np.tile(answer, (60, 1)), records.labels)
        for number in range(300)
    ]
    assert [number for number in range(300) if said[number]] == ([209] if seen else [])


def test_with_balanced_draws_guessing_is_that_of_as_many_classes(tmp_path):
    labels = np.arange(60) % 5 > 0
    records = scan_records(write_records(tmp_path / "x", bands(60, seed=1)[0], labels.astype(int)))
    answer = np.tile([0.2, 0.8], (60, 1))  # a loss of .50
    for balanced in (False, True):
        data = SimpleNamespace(records=records, num_classes=2, balanced=balanced)
        standstill = Standstill(data)
        said = [standstill.is_seen(number, answer, records.labels) for number in range(300)]
        assert any(said) != balanced


def test_a_network_that_knows_something_is_not_told_so(tmp_path):
    records = scan_records(write_records(tmp_path / "x", *bands(60, seed=1)))
    standstill = Standstill(SimpleNamespace(records=records, num_classes=3, balanced=False))
    better = 0.3 + 0.1 * np.eye(3)[records.labels.astype(int)]
    assert not any(standstill.is_seen(number, better, records.labels) for number in range(300))


def test_weights_that_overflow_name_the_preparation_that_the_source_did_not_have(small, tmp_path):
    own = [*LENET, "--data-train", small.train, "--batch-size", 16, "--num-epochs", 1]
    assert train(*own, "--model-prefix", tmp_path / "x").returncode == 0
    again = [*own, "--pretrained", tmp_path / "x", "--pretrained-epoch", 1, "--lr", 1e39]
    assert_refused(train(*again), "weights", "; likely cause: --lr 1e+39 is too high; lower --lr")
    cause = "--rgb-std: not what --pretrained was trained with; leave it out, or lower --lr"
    assert_refused(train(*again, "--rgb-std", 1), cause)
    (tmp_path / "x-config.json").unlink()
    assert_refused(train(*again), f"{tmp_path / 'x'} has no record of its own; give them")


@pytest.mark.parametrize(
    "change, overflow, standstill",
    [
        ({}, "lower --lr", "the flags say nothing"),
        ({"lr": 0.1}, "lower --lr", "--lr 0.1 in place of the recipe's 0.01; lower it"),
        ({"lr": 0.002}, "lower --lr", "--lr 0.002 in place of the recipe's 0.01; raise it"),
        ({"initializer": "msra"}, "--initializer msra is for --rgb-std 60, not 1", None),
        ({"rgb_std": [60.0] * 3}, "--initializer paper is for --rgb-std 1, not 60", None),
        (
            {"initializer": "uniform"},
            "lower --lr",
            "--initializer uniform in place of the recipe's paper",
        ),
    ],
    ids=str,
)
def test_the_cause_follows_from_the_flags(change, overflow, standstill):
    args = {**ARGS, **change}
    assert overflow in cause_of_overflow(args)
    assert (standstill or overflow) in cause_of_standstill(args)


@pytest.mark.parametrize(
    "share, batches, ends", [(1e-3, 50, True), (0.1, 50, False), (1e-3, 49, False)]
)
def test_a_loss_far_above_guessing_ends_a_run_after_its_first_batches(share, batches, ends):
    divergence = Divergence(3, "lower --lr")
    answer = np.tile([share, 1 - share, 0], (8, 1))
    for number in range(batches - 1):
        divergence.check(number, answer, np.zeros(8))
    if ends:
        with pytest.raises(UserError, match="after 50 batches the loss is 6.9, far above .* 1.1; "):
            divergence.check(batches - 1, answer, np.zeros(8))
    else:
        divergence.check(batches - 1, answer, np.zeros(8))


def test_a_run_that_diverges_ends_in_one_line_and_its_prefix_is_free(grey, tmp_path):
    own = [*LENET, "--data-train", grey.train, "--batch-size", 3, "--num-epochs", 1]
    own += ["--model-prefix", tmp_path / "x"]
    cause = "--lr 20 is too high; lower --lr"
    result = train(*own, "--lr", 20)
    assert_refused(result, "after 50 batches the loss is ", f"likely cause: {cause}")
    assert train(*own).returncode == 0
