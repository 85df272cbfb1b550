"""plot_log.py, on logs of real training."""

import cv2
import numpy as np
import pytest
from conftest import assert_refused, run_here, run_script

pytest.importorskip("matplotlib")

import plot_log  # noqa: E402
from common.draw import runs  # noqa: E402
from common.io.history import read_history  # noqa: E402


def plot(*flags):
    return run_here(plot_log.main, *flags)


def variant(history, **args):
    """The same run with other arguments and another result."""
    result = {n: {"val": {"loss": n + args["seed"], "top-1": 0.5}} for n in history.epochs}
    return history._replace(args={**history.args, **args}, epochs=result)


def test_a_run_is_drawn_from_its_prefix_or_its_log(finished, tmp_path):
    result = run_script("plot_log.py", finished, "--out", tmp_path / "x.png")
    assert result.returncode == 0, result.stderr
    assert cv2.imread(str(tmp_path / "x.png")).shape[1] > 1000
    assert plot(f"{finished}-log.jsonl", "--out", tmp_path / "x.svg").returncode == 0
    assert b"<svg" in (tmp_path / "x.svg").read_bytes()


def test_the_figure_shows_what_the_log_holds(finished):
    history = read_history(f"{finished}-log.jsonl")
    axes = runs.figure(runs.groups([("x", history)])).axes
    for panel, name in zip(axes, ("loss", "top-1")):
        training, validation = (line for line in panel.lines if len(line.get_xdata()))
        assert training.get_linestyle() == "--" and len(training.get_xdata()) == 13  # batches
        assert validation.get_xdata().tolist() == [1, 2]
        expected = [history.epochs[n]["val"][name] for n in (1, 2)]
        assert validation.get_ydata().tolist() == pytest.approx(expected)


def test_runs_that_differ_in_their_seed_are_one_curve(finished):
    history = read_history(f"{finished}-log.jsonl")
    named = [
        (f"{lr} {seed}", variant(history, lr=lr, seed=seed, model_prefix=f"{lr} {seed}"))
        for lr in (0.1, 0.2)
        for seed in (0, 1, 2)
    ]
    grouped = runs.groups(named)
    assert [(label, len(members)) for label, members in grouped] == [("lr 0.1", 3), ("lr 0.2", 3)]
    axes = runs.figure(grouped).axes[0]
    validation = [line for line in axes.lines if len(line.get_xdata()) == 2]
    assert [line.get_ydata().tolist() for line in validation] == [[2, 3]] * 2
    edges = axes.collections[-1].get_paths()[0].vertices
    assert np.ptp(edges[edges[:, 0] == 1, 1]) == 2


def test_mistakes_are_refused_in_one_line(finished, tmp_path):
    out = "--out", tmp_path / "x.png"
    assert_refused(plot(tmp_path / "none", *out), "none-log.jsonl")
    assert_refused(plot(finished, "--out", tmp_path / "x.pdf"), "x.pdf", ".png or .svg")
    assert_refused(plot(finished, "--out", tmp_path / "none" / "x.png"), "no folder")
    (tmp_path / "empty-log.jsonl").write_text('{"event": "start", "lr": 0.1}\n')
    assert_refused(plot(tmp_path / "empty", *out), "neither a batch nor an epoch")
    assert not (tmp_path / "x.png").exists()
