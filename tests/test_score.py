"""score.py, run as a user runs it, against the same figures in plain numpy."""

import csv
import dataclasses
import json
import re
import shutil

import mxnet as mx
import numpy as np
import pytest
import reference
import small_checkpoints
from conftest import assert_refused, bands, run_here, run_script, write_records

import symbols
from common import cli
from common.checkpoint import store
from common.checkpoint.config import save_config
from common.evaluate.evaluator import Evaluator, check_crops
from common.evaluate.scores import Scores, wilson
from common.input.preparation import Preparation
from common.records.scan import scan_records
from common.runtime import devices, native
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
    return prefix, save_lenet(prefix, grey.classes, seed=1)


def save_lenet(prefix, classes, seed):
    symbol = symbols.get_symbol("lenet", 3)
    module = mx.mod.Module(symbol)
    module.bind([("data", (1, 1, 32, 32))], [("softmax_label", (1,))])
    mx.random.seed(seed)
    module.init_params(mx.init.Xavier())
    weights = module.get_params()
    save_config(prefix, SETTINGS, classes)
    store.save(prefix, 1, symbol, *weights)
    return {name: value.asnumpy() for name, value in weights[0].items()}


@pytest.fixture(scope="module")
def expected(network):
    """What numpy says of grey.val: probabilities (101, 3) and labels."""
    images, labels = bands(101, seed=2)
    data = (np.array(images, float).transpose(0, 3, 1, 2) - 90) / 30
    values = {**network[1], "data": data, "softmax_label": labels}
    return reference.run(symbols.get_symbol("lenet", 3), values)[0], labels


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
    """'101 images  loss 0.5420  top-1 64.36% (...' -> {'images': 101, 'loss': 0.542, ...}"""
    assert result.returncode == 0 and result.stderr == "", result.stderr
    interval = r" \(95%: [\d.]+ to [\d.]+\)"
    found = re.fullmatch(
        rf"(\d+) images  loss ([\d.]+)  top-1 ([\d.]+)%{interval}"
        rf"  (top-\d+) ([\d.]+)%{interval}  mean recall ([\d.]+)%  \|  \d+ img/s\n",
        result.stdout,
    )
    assert found, result.stdout
    images, loss, top1, name, topk, recall = found.groups()
    accuracies = {"top-1": float(top1), name: float(topk), "mean recall": float(recall)}
    return {"images": int(images), "loss": float(loss), **accuracies}


@pytest.fixture
def main_json(network, grey, tmp_path, monkeypatch):
    """Call score.py's ``main`` in this process: what it writes for --json."""

    def call(*flags):
        path = tmp_path / "x.json"
        command = ["--model-prefix", network[0], "--load-epoch", 1, "--data-val", grey.val]
        command += ["--json", path, *flags]
        monkeypatch.setattr("sys.argv", ["score.py", *map(str, command)])
        main()
        return json.loads(path.read_text())

    return call


def test_it_prints_what_numpy_computes(network, grey, expected):
    probabilities, labels = expected
    true = probabilities[range(101), labels]
    rank = (probabilities > true[:, None]).sum(axis=1)
    shown = figures(score(network[0], grey.val, "--top-k", 2))
    assert shown["images"] == 101
    assert shown["loss"] == pytest.approx(-np.log(true).mean(), abs=1e-4)
    assert shown["top-1"] == pytest.approx(100 * np.mean(rank < 1), abs=0.006)
    assert shown["top-2"] == pytest.approx(100 * np.mean(rank < 2), abs=0.006)
    recalls = [np.mean(rank[labels == label] < 1) for label in range(3)]
    assert shown["mean recall"] == pytest.approx(100 * np.mean(recalls), abs=0.006)
    assert shown["mean recall"] != shown["top-1"]  # there are 34, 34 and 33 images
    assert 0 < shown["top-1"] < shown["top-2"] < 100  # a network that says something


@pytest.mark.parametrize("batch_size", [1, 7, 64, 101, 1000])
def test_every_batch_size_gives_the_same(main_json, expected, batch_size):
    probabilities, labels = expected
    written = main_json("--batch-size", batch_size)
    assert written["images"] == 101
    assert written["loss"] == pytest.approx(-np.log(probabilities[range(101), labels]).mean(), 1e-5)
    assert written["right"]["top-1"] == np.sum(probabilities.argmax(axis=1) == labels)


def test_the_files_hold_all_that_is_printed(network, grey, expected, main_json, tmp_path, capsys):
    table = tmp_path / "x.csv"
    written = main_json("--per-class", "--confusion", table)
    probabilities, labels = expected
    guesses = probabilities.argmax(axis=1)
    matrix = [[int(np.sum(guesses[labels == i] == j)) for j in range(3)] for i in range(3)]
    with open(table, newline="") as file:
        (_, *header), *rows = csv.reader(file)
    assert header == grey.classes
    assert rows == [[name, *map(str, row)] for name, row in zip(grey.classes, matrix)]

    assert written["checkpoint"] == f"{network[0]}-0001.params"
    assert (written["data_val"], written["crops"]) == (grey.val, 1)
    assert written["top-1"] == written["right"]["top-1"] / 101
    assert written["interval95"]["top-1"] == list(wilson(written["right"]["top-1"], 101))
    assert [row["right"] for row in written["per_class"]] == [matrix[i][i] for i in range(3)]
    recalls = [matrix[i][i] / sum(matrix[i]) for i in range(3)]
    assert written["mean_recall"] == pytest.approx(np.mean(recalls))
    assert written["versions"]["mxnet"] == mx.__version__

    *per_class, _, last = capsys.readouterr().out.splitlines()
    low, high = written["interval95"]["top-1"]
    assert f"top-1 {written['top-1']:.2%} (95%: {100 * low:.2f} to {100 * high:.2f})" in last
    assert [line.split()[:2] for line in per_class[1:]] == [
        [name, str(sum(row))] for name, row in zip(grey.classes, matrix)
    ]


def test_int8_scores_the_quantised_checkpoint(grey, tmp_path, main_json, monkeypatch):
    prefix = str(tmp_path / "plain")
    for name, seed in ((prefix, 3), (f"{prefix}-int8", 4)):
        save_lenet(name, grey.classes, seed)
    plain = main_json("--model-prefix", prefix)
    quantised = main_json("--model-prefix", prefix, "--int8")
    assert quantised["checkpoint"] == f"{prefix}-int8-0001.params"
    assert quantised["loss"] == main_json("--model-prefix", f"{prefix}-int8")["loss"]
    assert quantised["loss"] != plain["loss"]
    shutil.move(f"{prefix}-int8-0001.params", tmp_path / "elsewhere")
    command = f"-int8-0001.params .* quantize.py --model-prefix {prefix} --load-epoch 1 --data-cal"
    assert_main_refuses(monkeypatch, prefix, grey.val, command, "--int8")


@pytest.mark.skipif(not native.load(), reason="no C++ compiler")
@pytest.mark.parametrize("batch_size", [1, 7, 32])
def test_fully_connected_layers_are_of_bfloat16_if_asked_for(
    network, grey, main_json, expected, batch_size
):
    def convolution(attrs, x, weight, bias):  # small ones are MXNet's
        large = native.has_amx() and min(weight.shape[:2]) >= 16
        layer = reference.OF_BFLOAT16["Convolution"] if large else reference.convolution
        return layer(attrs, x, weight, bias)

    layers = {**reference.OF_BFLOAT16, "Convolution": convolution}
    images, labels = bands(101, seed=2)
    data = (np.array(images, float).transpose(0, 3, 1, 2) - 90) / 30
    values = {**network[1], "data": data, "softmax_label": labels}
    probabilities = reference.run(symbols.get_symbol("lenet", 3), values, layers)[0]
    right, float32 = (-np.log(p[range(101), labels]).mean() for p in (probabilities, expected[0]))
    found = main_json("--dtype", "bfloat16", "--batch-size", batch_size)["loss"]
    assert abs(found - right) < abs(found - float32) / 10
    assert abs(found - right) < 1e-5


def test_what_cannot_run_in_bfloat16_is_refused(network, grey, tmp_path, monkeypatch):
    flags = "--dtype", "bfloat16"
    small_checkpoints.save_lenet(str(tmp_path / "plain"), grey.classes)
    small_checkpoints.save_int8(str(tmp_path / "int8"), str(tmp_path / "plain"), grey.classes)
    monkeypatch.setattr(native, "load", lambda: True)
    assert_main_refuses(monkeypatch, str(tmp_path / "int8"), grey.val, "checkpoint is int8", *flags)
    monkeypatch.setattr(native, "load", lambda: False)
    assert_main_refuses(monkeypatch, network[0], grey.val, "needs the C.. operators", *flags)
    monkeypatch.setattr(devices, "contexts", lambda gpus: [mx.gpu(0)])
    monkeypatch.setattr(store, "load", lambda *_: (symbols.get_symbol("lenet", 3), {}, {}))
    assert_main_refuses(monkeypatch, network[0], grey.val, "is for CPUs; leave out --gpus", *flags)


def test_ten_crops_need_room_around_the_crop(network, grey, monkeypatch):
    assert_main_refuses(monkeypatch, network[0], grey.val, "has none; leave", "--crops", "10")
    for resize, image_shape in ((32, (1, 32, 32)), (32, (1, 40, 32))):
        preparation = Preparation(image_shape, resize, (0,), (1,))
        with pytest.raises(cli.UserError, match="--crops 10: .* has 32; leave"):
            check_crops(10, preparation)
        check_crops(10, dataclasses.replace(preparation, resize=41))


def test_files_that_could_not_be_written_are_refused_before_the_work(network, tmp_path):
    for flag, path in (
        ("--confusion", tmp_path / "x.pdf"),
        ("--confusion", tmp_path / "none" / "x.csv"),
        ("--json", tmp_path / "none" / "x.json"),
    ):
        command = ["--model-prefix", network[0], "--load-epoch", 1, "--data-val", "unread.rec"]
        assert_refused(run_here(main, *command, flag, path), flag, str(path))


def test_top_k_is_five_or_what_the_classes_allow(network, grey, monkeypatch):
    prefix, _ = network
    assert "top-2" in figures(score(prefix, grey.val))
    assert_main_refuses(monkeypatch, prefix, grey.val, "--top-k 3: ", "--top-k", "3")


def test_fewer_images_than_devices_are_scored_too(network, tmp_path):
    prefix, _ = network
    path = write_records(tmp_path / "two", *bands(2, seed=1))
    symbol, *weights = store.load(prefix, 1)
    reading = scan_records(path), Preparation.from_args(SETTINGS), SETTINGS["batch_size"], 1
    scores = [
        Evaluator(symbol, contexts, *reading).evaluate(*weights, Scores(SETTINGS["top_k"]))
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
    for text, words in (
        ("[1]", r"is damaged \(it is not a JSON object\)"),
        ('{"a": 1}', "lacks args"),
    ):
        (tmp_path / "x-config.json").write_text(text)
        assert_main_refuses(monkeypatch, copy, grey.val, f"x-config.json: {words}")
    assert_main_refuses(monkeypatch, str(tmp_path / "y"), grey.val, "y-config.json: not found")
