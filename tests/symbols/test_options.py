"""Every option of AlexNet, from training to int8, at a small size; and what is refused."""

import glob
import json
import shutil
from types import SimpleNamespace
from unittest import mock

import mxnet as mx
import numpy as np
import pytest
from conftest import assert_refused, assert_same_arrays, bands, run_here, train, write_records

import export_mxnet
import export_onnx
import export_torch
import quantize
import score
import symbols
from common.train import loop
from common.train.initializers import initializer
from symbols import alexnet

ALEXNET = ["--dataset", "cifar10", "--batch-size", 16, "--deterministic", "--lr", 0.01]
_SIMPLE = [  # nothing but another operator, or one less
    *("--activation " + kind for kind in ("tanh", "scaled-tanh", "sigmoid", "elu")),
    "--normalization none",
    "--dropout 0 --pooling plain",
]
OPTIONS = [  # new weights, auxiliary states, random numbers, operators with two outputs
    "--activation prelu",
    "--activation rrelu",
    "--normalization bn-before",
    "--normalization bn-after --cpus 2",
    "--network alexnet2012 --normalization lrn-by-column --dropout 0.3",
    "--network alexnet145",
    *(pytest.param(option, marks=pytest.mark.slow) for option in _SIMPLE),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Record files of 70x70 pictures in three classes, and one more picture."""
    folder = tmp_path_factory.mktemp("data")
    images, labels = bands(33, seed=1, size=70, channels=3)
    train_rec = write_records(folder / "train", images, labels, ["top", "middle", "bottom"])
    val_rec = write_records(folder / "val", images[:9], labels[:9], ["top", "middle", "bottom"])
    other = write_records(folder / "other", images, labels, ["up", "middle", "down"])
    return SimpleNamespace(train=train_rec, val=val_rec, other=other)


@pytest.fixture
def small():
    with mock.patch.object(alexnet, "HIDDEN", 32):
        yield


def said(result):
    assert result.returncode == 0, result.stderr
    return result.stdout


def copy(prefix, other):
    for path in glob.glob(f"{prefix}-*"):
        shutil.copy(path, other + path[len(prefix) :])


def top1(prefix, epoch, data, *flags):
    where = ["--model-prefix", prefix, "--load-epoch", epoch, "--data-val", data.val]
    said(run_here(score.main, *where, "--json", f"{prefix}.json", *flags))
    with open(f"{prefix}.json") as file:
        return json.load(file)


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_goes_from_training_to_int8(option, data, small, tmp_path):
    prefix, again, tuned = (str(tmp_path / name) for name in ("net", "again", "tuned"))
    flags = [*option.split(), *ALEXNET, "--data-train", data.train, "--data-val", data.val]
    said(train(*flags, "--num-epochs", 2, "--model-prefix", prefix))
    copy(prefix, again)
    resumed = [*flags, "--num-epochs", 2, "--model-prefix", again, "--load-epoch", 1]
    said(train(*resumed, "--overwrite"))
    assert_same_arrays(f"{prefix}-0002.params", f"{again}-0002.params")

    where = ["--model-prefix", prefix, "--load-epoch", 2]
    of_float32 = top1(prefix, 2, data)
    for export in (export_onnx, export_mxnet, export_torch):
        said(run_here(export.main, *where, "--data-val", data.val))  # each compares with the source
    said(run_here(quantize.main, *where, "--data-calib", data.train))
    of_int8 = top1(f"{prefix}-int8", 2, data)
    assert abs(of_int8["loss"] - of_float32["loss"]) < 0.1 * max(1, of_float32["loss"])
    tuning = [*ALEXNET, "--data-train", data.other, "--num-epochs", 1, "--model-prefix", tuned]
    source = ["--pretrained", prefix, "--pretrained-epoch", 2, "--freeze", "conv"]
    said(train(*tuning, *source))
    frozen, before = (mx.nd.load(f"{name}.params") for name in (f"{tuned}-0001", f"{prefix}-0002"))
    for name in before:
        same = np.array_equal(frozen[name].asnumpy(), before[name].asnumpy())
        assert same == name.split(":")[1].startswith("conv"), name


def test_a_batch_that_is_left_out_leaves_batch_norms_statistics_alone(data, small, tmp_path):
    flags = ["--normalization", "bn-after", *ALEXNET, "--data-train", data.train]
    flags += ["--num-epochs", 1, "--model-prefix"]
    said(train(*flags, tmp_path / "whole"))
    fit = loop.Run._gradients_fit
    unfit = mock.patch.object(
        loop.Run, "_gradients_fit", lambda run: run.state.batches != 1 and fit(run)
    )
    with unfit:
        assert_refused(train(*flags, tmp_path / "spoilt"), "batch 1 of the run", "is not finite")
    said(train(*flags, tmp_path / "spoilt", "--resume"))
    assert_same_arrays(tmp_path / "whole-0001.params", tmp_path / "spoilt-0001.params")


def test_another_option_is_refused_by_resuming_and_fine_tuning(data, small, tmp_path):
    prefix = str(tmp_path / "net")
    flags = [*ALEXNET, "--data-train", data.train, "--num-epochs", 1]
    said(train(*flags, "--model-prefix", prefix, "--activation", "elu"))
    resumed = [*flags, "--model-prefix", prefix, "--resume"]
    for given, words in (
        ([], ["--activation its default", "was trained with elu"]),
        (["--activation", "tanh"], ["--activation tanh", "was trained with elu"]),
        (
            ["--activation", "elu", "--pooling", "plain"],
            ["--pooling plain", "was trained with its default"],
        ),
    ):
        assert_refused(train(*resumed, *given), *words)
    # A flag that says what the article has is as good as none.
    said(train(*resumed, "--activation", "elu", "--pooling", "overlapping"))
    source = ["--pretrained", prefix, "--pretrained-epoch", 1, "--activation"]
    assert_refused(train(*flags, *source, "relu"), "--pretrained", "--activation; leave that flag")
    lenet = ["--network", "lenet", "--dataset", "mnist", "--benchmark", 1]
    assert_refused(train(*lenet, "--dropout", 0), "--network lenet", "has no --dropout")
    # LeNet's own activation is as good as none; another one is another network.
    said(train(*lenet, "--num-epochs", 1, "--activation", "tanh"))
    deeper = [*lenet, "--num-epochs", 1, "--normalization", "none"]
    assert_refused(train(*deeper), "--network lenet", "alexnet and alexnet2012 have one")


def test_batch_norm_and_prelu_start_as_their_papers_have_them():
    symbol = symbols.get_symbol("alexnet", 3, normalization="bn-before", activation="prelu")
    module = mx.mod.Module(symbol)
    module.bind([("data", (1, 3, 67, 67))], [("softmax_label", (1,))])
    for name in ("paper", "msra"):
        module.init_params(initializer(name), force_init=True)
        weights, states = module.get_params()
        starts = {"gamma": 1, "beta": 0, "mean": 0, "var": 1, "slope": 0.25}
        found = {**weights, **states}
        for kind, start in starts.items():
            arrays = [v for n, v in found.items() if n.rpartition("_")[2] == kind]
            assert len(arrays) == 7 and all((v == start).asnumpy().all() for v in arrays), kind
    module.init_optimizer(optimizer_params={"wd": 1.0})
    assert module._optimizer.wd_mult["conv1_slope"] == 0


def test_the_sources_weights_start_as_its_file_has_them():
    symbol = symbols.get_symbol("alexnet145", 3)
    module = mx.mod.Module(symbol)
    module.bind([("data", (1, 3, 67, 67))], [("softmax_label", (1,))])
    module.init_params(initializer("source"))
    weights = {name: value.asnumpy() for name, value in module.get_params()[0].items()}
    for layer in ("conv1", "conv2", "conv3", "conv4", "conv5", "fc1", "fc2", "fc3"):
        std = 0.03 if layer in ("conv3", "conv4", "conv5") else 0.01
        assert abs(weights[f"{layer}_weight"].std() / std - 1) < 0.03, layer
        bias = 1 if layer in ("conv2", "conv4", "conv5", "fc1", "fc2") else 0
        assert (weights[f"{layer}_bias"] == bias).all(), layer
