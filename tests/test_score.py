"""score.py, run as a user runs it, against the same figures in plain numpy."""

import re
import shutil
from types import SimpleNamespace

import mxnet as mx
import numpy as np
import pytest
import reference
from conftest import bands, run_script, write_records

import symbols
from common import checkpoint, cli, evaluate, records
from score import main

SETTINGS = {
    "image_shape": [1, 32, 32],
    "num_classes": 3,
    "resize": None,
    "rgb_mean": [90.0],
    "rgb_std": [30.0],
    "batch_size": 16,
    "top_k": 1,
}


@pytest.fixture(scope="module")
def network(grey, tmp_path_factory):
    """LeNet with random weights: its --model-prefix and its arguments as numpy arrays."""
    prefix = str(tmp_path_factory.mktemp("network") / "lenet")
    symbol = symbols.get_symbol("lenet", 3)
    module = mx.mod.Module(symbol)
    module.bind([("data", (1, 1, 32, 32))], [("softmax_label", (1,))])
    mx.random.seed(1)
    module.init_params(mx.init.Xavier())
    weights = module.get_params()
    checkpoint.save_config(prefix, SETTINGS, grey.classes)
    checkpoint.save(prefix, 1, symbol, *weights)
    return prefix, {name: value.asnumpy() for name, value in weights[0].items()}


def score(prefix, path, *flags):
    return run_script(
        "score.py", "--model-prefix", prefix, "--load-epoch", 1, "--data-val", path, *flags
    )


def assert_main_refuses(monkeypatch, prefix, path, words, *flags):
    command = ["--model-prefix", prefix, "--load-epoch", "1", "--data-val", path, *flags]
    monkeypatch.setattr("sys.argv", ["score.py", *command])
    with pytest.raises(cli.UserError, match=words) as refused:
        main()
    assert "\n" not in str(refused.value)


def figures(result):
    """'101 images  loss 0.5420  top-1 64.36%  ...' -> {'images': 101, 'loss': 0.542, ...}"""
    assert result.returncode == 0 and result.stderr == "", result.stderr
    found = re.fullmatch(
        r"(\d+) images  loss ([\d.]+)  top-1 ([\d.]+)%  (top-\d+) ([\d.]+)%  \|  \d+ img/s\n",
        result.stdout,
    )
    assert found, result.stdout
    images, loss, top1, name, topk = found.groups()
    return {"images": int(images), "loss": float(loss), "top-1": float(top1), name: float(topk)}


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_every_batch_size_gives_what_numpy_computes(network, grey, batch_size):
    prefix, weights = network
    images, labels = bands(101, seed=2)  # what is in grey.val
    data = (np.array(images, float).transpose(0, 3, 1, 2) - 90) / 30
    values = {**weights, "data": data, "softmax_label": labels}
    probabilities = reference.run(symbols.get_symbol("lenet", 3), values)[0]
    true = probabilities[range(101), labels]
    rank = (probabilities > true[:, None]).sum(axis=1)

    shown = figures(score(prefix, grey.val, "--batch-size", batch_size, "--top-k", 2))
    assert shown["images"] == 101
    assert shown["loss"] == pytest.approx(-np.log(true).mean(), abs=1e-4)
    assert shown["top-1"] == pytest.approx(100 * np.mean(rank < 1), abs=0.006)
    assert shown["top-2"] == pytest.approx(100 * np.mean(rank < 2), abs=0.006)
    assert 0 < shown["top-1"] < shown["top-2"] < 100  # a network that says something


def test_top_k_is_five_or_what_the_classes_allow(network, grey, monkeypatch):
    prefix, _ = network
    assert "top-2" in figures(score(prefix, grey.val))
    assert_main_refuses(monkeypatch, prefix, grey.val, "--top-k 3: ", "--top-k", "3")


def test_fewer_images_than_devices_are_scored_too(network, tmp_path):
    prefix, _ = network
    path = write_records(tmp_path / "two", *bands(2, seed=1))
    args = SimpleNamespace(**{**SETTINGS, "data_nthreads": 1, "verbose": False})
    symbol, *weights = checkpoint.load(prefix, 1)
    scores = [
        evaluate.Evaluator(symbol, contexts, args, records.scan(path))(*weights)
        for contexts in ([mx.cpu(0)], [mx.cpu(0), mx.cpu(1), mx.cpu(2)])
    ]
    assert [score.count for score in scores] == [2, 2]
    assert scores[0].loss == pytest.approx(scores[1].loss, rel=1e-6)


def test_bad_records_are_refused_in_one_line(network, grey, tmp_path, monkeypatch):
    prefix, _ = network
    images, labels = bands(3, seed=1)
    beyond = write_records(tmp_path / "beyond", images, [0, 1, 3])
    renamed = write_records(tmp_path / "renamed", images, labels, ["a", "b", "c"])
    assert_main_refuses(monkeypatch, prefix, beyond, "beyond.rec: record 2 has the label 3")
    assert_main_refuses(monkeypatch, prefix, renamed, "renamed.rec: .*other names")
    assert_main_refuses(monkeypatch, prefix, "none.rec", "none.rec: no such")


def test_a_checkpoint_that_cannot_be_used_is_refused_in_one_line(
    network, grey, tmp_path, monkeypatch
):
    prefix, _ = network
    for suffix in ("config.json", "symbol.json", "0001.params"):
        shutil.copy(f"{prefix}-{suffix}", tmp_path / f"x-{suffix}")
    copy, symbol = str(tmp_path / "x"), tmp_path / "x-symbol.json"
    symbol.write_text(symbol.read_text().replace('"Convolution"', '"_sg_other_conv"'))
    assert_main_refuses(monkeypatch, copy, grey.val, "x-symbol.json: has an operator .*MKL-DNN")
    (tmp_path / "x-config.json").write_text("[1]")
    assert_main_refuses(monkeypatch, copy, grey.val, "x-config.json: lacks args")
    assert_main_refuses(monkeypatch, str(tmp_path / "y"), grey.val, "y-config.json: not found")
