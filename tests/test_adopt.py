"""python -m common.adopt: checkpoints of other MXNet programs, for the scripts here."""

import json
import os
from unittest import mock

import mxnet as mx
import numpy as np
import pytest
from conftest import assert_refused, run_script, write_records
from pictures import photo
from small_checkpoints import SETTINGS, save_lenet

import symbols
from common import adopt
from common.checkpoint import store
from common.checkpoint.config import load_config
from common.cli import UserError
from common.evaluate.classifier import Classifier
from symbols import alexnet

NAMES = ["ant", "bee", "cat"]
PREPARATION = ["--image-shape", "3,32,32", "--resize", 36]
PREPARATION += ["--rgb-mean", "120,110,100", "--rgb-std", "60,50,40"]


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """The prefix of a checkpoint with its config."""
    prefix = str(tmp_path_factory.mktemp("ours") / "lenet")
    save_lenet(prefix, NAMES)
    return prefix


@pytest.fixture
def stock(ours, tmp_path):
    """The prefix of the same network as MXNet alone saves it."""
    prefix = str(tmp_path / "stock")
    mx.model.save_checkpoint(prefix, 1, *store.load(ours, 1))
    return prefix


def flags(prefix, number=1):
    return ["--model-prefix", prefix, "--load-epoch", number]


def run(monkeypatch, *command):
    monkeypatch.setattr("sys.argv", ["adopt.py", *map(str, command)])
    adopt.main()


def test_an_adopted_checkpoint_answers_as_the_one_it_was_copied_from(ours, stock, tmp_path):
    (tmp_path / "names.txt").write_text("\n".join(NAMES) + "\n")
    names = ["--class-names", tmp_path / "names.txt"]
    made = run_script("-m", "common.adopt", *flags(stock), *PREPARATION, *names)
    assert made.stdout == f"{stock}-config.json: 3 classes, images 3,32,32\n", made.stderr
    pictures = [photo(50, 40, seed) for seed in range(4)]
    expected, said = (Classifier(prefix, 1).predict(pictures) for prefix in (ours, stock))
    assert said[0] == expected[0] and np.array_equal(said[1], expected[1])
    records = write_records(tmp_path / "val", pictures, [0, 1, 2, 0], NAMES)
    for command in (
        ["score.py", *flags(stock), "--data-val", records],
        ["quantize.py", *flags(stock), "--data-calib", records],
        ["export_mxnet.py", *flags(stock), "--data-val", records],
    ):
        done = run_script(*command)
        assert done.returncode == 0, done.stderr


def test_by_default_there_is_no_mean_and_classes_are_numbers(stock, monkeypatch):
    run(monkeypatch, *flags(stock), "--image-shape", "3,32,32")
    config = load_config(stock)
    assert config["classes"] is None and config["args"]["num_classes"] == 3
    assert config["args"]["rgb_mean"] == [0] * 3 and config["args"]["rgb_std"] == [1] * 3
    assert Classifier(stock, 1).classes == ["0", "1", "2"]


def test_what_does_not_fit_is_refused_and_nothing_is_written(stock, monkeypatch, tmp_path):
    wrong = [
        ([], "--image-shape: needed"),
        (["--image-shape", "1,32,32"], "c1_weight is 6x3x5x5, and the graph needs 6x1x5x5"),
        (["--image-shape", "3,4,4"], "images of 3,4,4 do not fit the graph"),
        (["--image-shape", "3,32,32", "--rgb-mean", "1,2"], "2 numbers for images of 3 channels"),
        (
            ["--image-shape", "3,32,32", "--class-names", "data/imagenet_classes.txt"],
            "has 3 classes",
        ),
    ]
    for more, words in wrong:
        with pytest.raises(UserError, match=words):
            run(monkeypatch, *flags(stock), *more)
    assert not os.path.exists(f"{stock}-config.json")


def test_a_network_without_softmax_is_refused(stock, monkeypatch):
    symbol, arg_params, aux_params = store.load(stock, 1)
    inner = symbol.get_internals()
    *_, logits, _ = [name for name in inner.list_outputs() if name.endswith("_output")]
    mx.model.save_checkpoint(stock, 2, inner[logits], arg_params, aux_params)
    with pytest.raises(UserError, match="its output is not class probabilities"):
        run(monkeypatch, *flags(stock, 2), *PREPARATION)


def graph_of(year, symbol):
    """The JSON of ``symbol`` as MXNet wrote it in that year."""
    graph = json.loads(symbol.tojson())
    for node in graph["nodes"]:
        said = node.pop("attrs", {})
        if year == 2017:  # 0.9 to 0.11: all in one place
            node["attr"] = said
            continue
        node["param"], node["backward_source_id"] = said, -1
        node["inputs"] = [source[:2] for source in node["inputs"]]
        if year == 2016:
            node["attr"] = {"ctx_group": "stage1"}
    if year < 2017:
        graph = {"nodes": graph["nodes"], "arg_nodes": graph["arg_nodes"]}
        graph["heads"] = [[len(graph["nodes"]) - 1, 0]]
    else:
        graph["attrs"] = {"mxnet_version": ["int", 904]}
    return json.dumps(graph)


@pytest.mark.parametrize("year", [2015, 2016, 2017])
def test_an_alexnet_of_an_old_mxnet_answers_as_today(year, tmp_path, monkeypatch):
    prefix = str(tmp_path / "old")
    with mock.patch.object(alexnet, "HIDDEN", 32):
        symbol = symbols.get_symbol("alexnet", 3)
    module = mx.mod.Module(symbol)
    module.bind([("data", (1, 3, 67, 67))], [("softmax_label", (1,))])
    module.init_params(mx.init.MSRAPrelu())
    mx.model.save_checkpoint(prefix, 1, symbol, *module.get_params())
    pixels = photo(67, 67)
    sizes = ["--image-shape", "3,67,67", "--rgb-std", "60,60,60"]
    run(monkeypatch, *flags(prefix), *sizes)
    expected = Classifier(prefix, 1).predict([pixels], 3)
    os.remove(f"{prefix}-config.json")
    (tmp_path / "old-symbol.json").write_text(graph_of(year, symbol))
    run(monkeypatch, *flags(prefix), *sizes)
    names, shares = Classifier(prefix, 1).predict([pixels], 3)
    assert names == expected[0] and np.array_equal(shares, expected[1])


def test_fine_tuning_asks_for_the_network(ours, stock):
    assert run_script("-m", "common.adopt", *flags(stock), *PREPARATION).returncode == 0
    tuning = ["--pretrained", stock, "--pretrained-epoch", 1, "--benchmark", 1]
    assert_refused(
        run_script("train_imagenet.py", *tuning), f"--network: needed, since --pretrained {stock}"
    )


def test_a_config_that_is_there_stays(ours, monkeypatch):
    with pytest.raises(UserError, match="lenet-config.json: exists"):
        run(monkeypatch, *flags(ours), *PREPARATION)
    assert load_config(ours)["args"] == {**SETTINGS, "num_classes": 3}


def test_without_a_config_the_remedy_is_named(stock):
    assert_refused(run_script("predict.py", *flags(stock), "x.jpg"), "python -m common.adopt")


@pytest.mark.parametrize("name", ["0001.params", "0001.json", "symbol.json", "config.json"])
def test_a_files_name_given_as_a_prefix_is_told(ours, name, monkeypatch):
    number = ", and its number 1" if name[0] == "0" else ""
    words = f"{ours}-{name}: is a checkpoint's file; its prefix is {ours}{number}$"
    for load in (Classifier, store.load):
        with pytest.raises(UserError, match=words):
            load(f"{ours}-{name}", 1)
