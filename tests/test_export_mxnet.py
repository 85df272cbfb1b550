"""export_mxnet.py: the copy without training nodes against the checkpoint it comes from."""

import json
import os
import shutil

import mxnet as mx
import numpy as np
import pytest
from conftest import bands, write_records

import export_mxnet
import symbols
from common import cli
from common.checkpoint import store
from common.checkpoint.config import load_config, save_config
from common.convert import compare, quantization
from common.evaluate import network
from common.graph import dequantize
from common.runtime import native

SHAPE = (3, 67, 67)


def run(monkeypatch, prefix, *more):
    command = ["--model-prefix", prefix, "--load-epoch", "1", *map(str, more)]
    monkeypatch.setattr("sys.argv", ["export_mxnet.py", *command])
    export_mxnet.main()


def assert_refused(monkeypatch, words, prefix, *more):
    with pytest.raises(cli.UserError, match=words) as refused:
        run(monkeypatch, prefix, *more)
    assert "\n" not in str(refused.value)


@pytest.fixture(scope="module")
def images():
    return (np.array(bands(6, 1, size=67, channels=3)[0], np.float32).transpose(0, 3, 1, 2)) / 60


@pytest.fixture(scope="module")
def networks(images, tmp_path_factory):
    """AlexNet with random weights, and its int8 form: the prefixes."""
    folder = tmp_path_factory.mktemp("networks")
    records = write_records(folder / "val", *bands(5, 1, size=67, channels=3))
    symbol = symbols.get_symbol("alexnet", 3)
    module = mx.mod.Module(symbol)
    module.bind([("data", (1, *SHAPE))], [("softmax_label", (1,))])
    mx.random.seed(1)
    module.init_params(mx.init.Xavier(factor_type="in", magnitude=6))
    network = (symbol, *module.get_params())
    settings = {
        "image_shape": SHAPE,
        "num_classes": 3,
        "resize": None,
        "rgb_mean": [0.0] * 3,
        "rgb_std": [60.0] * 3,
        "data_val": records,
    }
    save_config(str(folder / "float32"), settings, None)
    store.save(str(folder / "float32"), 1, *network)
    save_config(str(folder / "int8"), settings, None, int8={"num_calib_examples": 6})
    store.save(str(folder / "int8"), 1, *quantization.quantize(*network, images, SHAPE))
    return {name: str(folder / name) for name in ("float32", "int8")}


@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_the_copy_says_the_same_and_needs_no_label(kind, networks, images, monkeypatch, capsys):
    monkeypatch.setenv(dequantize.KEEP, "1")  # int8 where it is slow, too
    monkeypatch.setattr(native, "has_int8", lambda: False)  # by MXNet's operators, as the copy
    prefix = networks[kind]
    run(monkeypatch, prefix)
    assert "by at most 0.0e+00 on 5 images" in capsys.readouterr().out

    symbol, arg_params, aux_params = mx.model.load_checkpoint(f"{prefix}-deploy", 1)
    assert set(symbol.list_inputs()) == {"data", *arg_params}
    module = mx.mod.Module(symbol, label_names=None)
    module.bind([("data", images.shape)], for_training=False)
    module.set_params(arg_params, aux_params)
    module.forward(mx.io.DataBatch([mx.nd.array(images)]), is_train=False)
    said = module.get_outputs()[0].asnumpy()

    original = network.bind(*store.load(prefix, 1), images.shape, [mx.cpu()])
    original.forward(mx.io.DataBatch([mx.nd.array(images)]), is_train=False)
    expected = original.get_outputs()[0].asnumpy()
    assert np.ptp(expected, axis=0).max() > 0.05  # pictures are told apart
    # MXNet's convolutions and ours, which round by 2e-6 of a layer's outputs.
    assert np.abs(said - expected).max() < 3e-6

    left = {node["op"] for node in json.loads(symbol.tojson())["nodes"]}
    assert left.isdisjoint({"Dropout", "SoftmaxOutput"}) and "softmax" in left
    assert quantization.is_quantized(symbol) == (kind == "int8")


def test_it_keeps_what_was_known_and_says_where_it_comes_from(networks, tmp_path, monkeypatch):
    out = str(tmp_path / "new folder" / "x")
    run(monkeypatch, networks["int8"], "--out-prefix", out)
    config, origin = (load_config(prefix) for prefix in (out, networks["int8"]))
    assert config["exported_from"] == f"{networks['int8']}-0001.params"
    assert all(config[key] == origin[key] for key in ("args", "classes", "int8"))
    store.verify(out, 1)


def test_stripping_twice_changes_nothing(networks):
    once = compare.without_training(store.load(networks["float32"], 1)[0])
    assert compare.without_training(once).tojson() == once.tojson()


def test_a_copy_that_says_something_else_is_not_saved(networks, tmp_path, monkeypatch):
    halved = lambda symbol: mx.sym.softmax(  # noqa: E731
        symbol.get_internals()["fc3_output"] / 2, name="softmax"
    )
    monkeypatch.setattr(compare, "without_training", halved)
    out = ["--out-prefix", tmp_path / "x"]
    assert_refused(monkeypatch, "the copy: differs .*nothing is written", networks["float32"], *out)
    assert not os.listdir(tmp_path)


def test_what_is_there_is_lost_only_with_overwrite(networks, tmp_path, monkeypatch):
    prefix = networks["float32"]
    assert_refused(monkeypatch, "is --model-prefix; choose", prefix, "--out-prefix", prefix)
    for suffix in ("symbol.json", "0001.params"):
        shutil.copy(f"{prefix}-{suffix}", tmp_path / f"x-{suffix}")
    out = ["--out-prefix", str(tmp_path / "x")]
    assert_refused(monkeypatch, "--out-prefix .*x-0001.params exists", prefix, *out)
    assert "SoftmaxOutput" in (tmp_path / "x-symbol.json").read_text()
    run(monkeypatch, prefix, *out, "--overwrite")
    assert "SoftmaxOutput" not in (tmp_path / "x-symbol.json").read_text()


def test_the_copy_is_bound_as_any_checkpoint(networks, images, monkeypatch):
    run(monkeypatch, networks["float32"], "--overwrite")
    copy = store.load(f"{networks['float32']}-deploy", 1)
    module = network.bind(*copy, images.shape, [mx.cpu()])
    module.forward(mx.io.DataBatch([mx.nd.array(images)]), is_train=False)
    assert module.get_outputs()[0].shape == (6, 3)


def test_gluons_file_is_of_float32_and_of_its_network(networks, tmp_path, monkeypatch):
    gluon = ["--gluon", tmp_path / "x.params"]
    for kind, words in (
        ("float32", "--gluon: takes alexnet_owt; .* has another"),
        ("int8", "is int8"),
    ):
        assert_refused(monkeypatch, words, networks[kind], *gluon)
    assert_refused(monkeypatch, "are not for --gluon", networks["float32"], *gluon, "--overwrite")
    assert not os.listdir(tmp_path)
