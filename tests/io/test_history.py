"""A training run's log, read back."""

import json

import pytest

from common.cli import UserError
from common.io.history import log_path, read_history, windows
from common.io.log import Progress, RunLog


def write_log(path, append=False, epochs=(1, 2), start=0, lr=0.1):
    """The log of a run of epochs of 10 batches of 5 images whose k-th batch has the loss k."""
    log = RunLog(str(path), append=append)
    log.event("resume" if append else "start", batch=0, lr=lr)
    for epoch in epochs:
        with Progress(log, "", 50, 4, start, start * 5, epoch) as progress:
            for batch in range(start + 1, 11):
                progress.update(5, loss=(batch + 1) / 2)  # the mean up to there
        start = 0
        log.event("epoch", epoch=epoch, train={"loss": 5.5}, val={"loss": float(epoch)})


def test_a_run_is_read_back(tmp_path):
    path = tmp_path / "x-log.jsonl"
    write_log(path)
    history = read_history(str(path))
    assert log_path(str(tmp_path / "x")) == str(path)
    assert history.args["lr"] == 0.1
    assert {n: part["val"]["loss"] for n, part in history.epochs.items()} == {1: 1, 2: 2}
    assert {key: position for key, (position, _) in history.batches.items()} == {
        **{(1, 4): 0.4, (1, 8): 0.8, (2, 4): 1.4, (2, 8): 1.8}
    }


def test_a_window_is_the_mean_of_its_own_batches(tmp_path):
    write_log(tmp_path / "x")
    found = windows(read_history(str(tmp_path / "x")), "loss")
    assert [round(at, 9) for at, _, _ in found] == [0.2, 0.6, 1.2, 1.6]
    assert [(mean, count) for _, mean, count in found] == [(2.5, 4), (6.5, 4)] * 2


def test_what_a_resumed_run_does_again_counts_once(tmp_path):
    write_log(tmp_path / "x")
    write_log(tmp_path / "x", append=True, epochs=(2, 3), start=4, lr=0.2)
    history = read_history(str(tmp_path / "x"))
    assert history.args["lr"] == 0.2
    assert sorted(history.epochs) == [1, 2, 3]
    assert sorted(history.batches) == [(e, b) for e in (1, 2, 3) for b in (4, 8)]


def test_a_line_that_a_kill_cut_off_is_left_out(tmp_path):
    path = tmp_path / "x"
    write_log(path)
    whole = path.read_text()
    path.write_text(whole + '{"event": "batch", "epo')
    assert sorted(read_history(str(path)).epochs) == [1, 2]
    write_log(path, append=True, epochs=(3,))
    assert sorted(read_history(str(path)).epochs) == [1, 2, 3]
    path.write_text('{"event": "sta')
    assert read_history(str(path)).epochs == {}


@pytest.mark.parametrize("content", ["hello\n", "[1]\n", "{}\n", '{"event": "epoch"}\n'])
def test_what_is_no_log_is_refused(tmp_path, content):
    path = tmp_path / "x"
    path.write_text(content)
    with pytest.raises(UserError, match=str(path)):
        read_history(str(path))


def test_the_first_versions_logs_have_epochs_alone(tmp_path):
    events = [{"event": "start", "lr": 1}, {"event": "batch", "batch": 20, "loss": 1.0}]
    events.append({"event": "epoch", "epoch": 1, "train": {"loss": 0.5}})
    path = tmp_path / "x"
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    history = read_history(str(path))
    assert history.batches == {} and history.epochs == {1: {"epoch": 1, "train": {"loss": 0.5}}}
