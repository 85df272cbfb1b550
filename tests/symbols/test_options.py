"""Every option of AlexNet, and weights of others, at a small size, from training to int8."""

import glob
import json
import shutil
from types import SimpleNamespace
from unittest import mock

import bvlc_alexnet
import cv2
import mxnet as mx
import numpy as np
import pytest
from conftest import assert_refused, assert_same_arrays, bands, run_here, train, write_records
from pictures import photo

import export_mxnet
import export_onnx
import export_torch
import import_weights
import predict
import quantize
import score
import show
import symbols
from common.io import cpus
from common.page.models import Models
from common.train import loop
from common.train.initializers import INITIALIZERS
from symbols import alexnet, layers

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
    "--network caffenet",
    "--dropout-form dropconnect",
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

    assert_all_else_takes(prefix, 2, data, tuned, *ALEXNET)


def assert_all_else_takes(prefix, epoch, data, tuned, *flags):
    """Scoring, the exports, int8 and fine-tuning take the checkpoint."""
    where = ["--model-prefix", prefix, "--load-epoch", epoch]
    of_float32 = top1(prefix, epoch, data)
    for export in (export_onnx, export_mxnet, export_torch):
        said(run_here(export.main, *where, "--data-val", data.val))  # each compares with the source
    said(run_here(quantize.main, *where, "--data-calib", data.train))
    for vnni in (True, False):
        with mock.patch.object(cpus, "has_int8", lambda: vnni):  # noqa: B023 (not called later)
            of_int8 = top1(f"{prefix}-int8", epoch, data)
        assert abs(of_int8["loss"] - of_float32["loss"]) < 0.1 * max(1, of_float32["loss"])
    tuning = [*flags, "--data-train", data.other, "--num-epochs", 1, "--model-prefix", tuned]
    source = ["--pretrained", prefix, "--pretrained-epoch", epoch, "--freeze", "conv"]
    said(train(*tuning, *source))
    paths = f"{tuned}-0001.params", f"{prefix}-{epoch:04d}.params"
    frozen, before = map(mx.nd.load, paths)
    for name in before:
        same = np.array_equal(frozen[name].asnumpy(), before[name].asnumpy())
        assert same == name.split(":")[1].startswith("conv"), name


def files_of(family, folder):
    """The files of a public network at a small size, with random weights and three classes."""
    arrays = bvlc_alexnet.weights(3, 256, hidden=32)
    if family == "torchvision":
        onnx = pytest.importorskip("onnx")
        shapes = {"conv1": (64, 3), "conv2": (192, 64), "conv3": (384, 192), "conv4": (256, 384)}
        shapes["conv5"] = 256, 256
        for name, (outputs, inputs) in shapes.items():
            weight, bias = arrays[name]
            weight = np.resize(weight, (outputs, inputs, *weight.shape[2:]))
            arrays[name] = weight, bias[:outputs]
        model = bvlc_alexnet.torchvisions_onnx(list(arrays.values()), 67, "old")
        onnx.save(model, str(folder / "x.onnx"))
        return [folder / "x.onnx", "--std", "1,1,1"]
    text = bvlc_alexnet.prototxt(3, 67, caffenet=family == "caffenet").replace("4096", "32")
    (folder / "deploy.prototxt").write_text(text)
    (folder / "x.caffemodel").write_bytes(bvlc_alexnet.caffemodel(arrays))
    return [folder / "deploy.prototxt", folder / "x.caffemodel"]


@pytest.mark.parametrize(
    "family", ["caffenet", "torchvision", pytest.param("bvlc_alexnet", marks=pytest.mark.slow)]
)
def test_imported_weights_go_from_prediction_to_int8(family, data, small, tmp_path):
    prefix, tuned = str(tmp_path / "net"), str(tmp_path / "tuned")
    (tmp_path / "names.txt").write_text("top\nmiddle\nbottom\n")
    more = ["--resize", 70, "--class-names", tmp_path / "names.txt", "--out-prefix", prefix]
    said(run_here(import_weights.main, *files_of(family, tmp_path), *more))
    picture, where = tmp_path / "x.png", ["--model-prefix", prefix, "--load-epoch", 0]
    cv2.imwrite(str(picture), photo(80, 90))
    best = said(run_here(predict.main, *where, picture)).split()[2]
    page = Models([prefix], [0])
    shown = page.submit(page.classify, 0, 0, picture.read_bytes()).result()
    assert shown["guesses"][0][0] == best and shown["maps"]
    said(run_here(predict.main, *where, picture, "--features", "fc2", "--out", tmp_path / "x.npz"))
    assert np.load(tmp_path / "x.npz")["features"].shape == (1, 32)
    said(run_here(show.main, "maps", picture, *where, "--out", tmp_path / "maps.png"))
    flags = ["--dataset", "imagenet", "--batch-size", 16, "--deterministic", "--lr", 1e-4]
    assert_all_else_takes(prefix, 0, data, tuned, *flags)
    assert top1(prefix, 0, data, "--crops", 10)["loss"] > 0
    resumed = ["--data-train", data.other, "--num-epochs", 2, "--model-prefix", tuned, "--resume"]
    source = ["--pretrained", prefix, "--pretrained-epoch", 0, "--freeze", "conv"]
    said(train(*flags, *resumed, *source))


def test_a_batch_that_is_left_out_leaves_batch_norms_statistics_alone(data, small, tmp_path):
    flags = ["--normalization", "bn-after", *ALEXNET, "--data-train", data.train]
    flags += ["--num-epochs", 1, "--model-prefix"]
    said(train(*flags, tmp_path / "whole"))
    agree = loop.Run._agree

    def spoil(run, *batch):
        finite, scores = agree(run, *batch)
        return finite and run.state.batches != 1, scores

    with mock.patch.object(loop.Run, "_agree", spoil):
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
        module.init_params(INITIALIZERS[name], force_init=True)
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
    module.init_params(INITIALIZERS["source"])
    weights = {name: value.asnumpy() for name, value in module.get_params()[0].items()}
    for layer in ("conv1", "conv2", "conv3", "conv4", "conv5", "fc1", "fc2", "fc3"):
        std = 0.03 if layer in ("conv3", "conv4", "conv5") else 0.01
        assert abs(weights[f"{layer}_weight"].std() / std - 1) < 0.03, layer
        bias = 1 if layer in ("conv2", "conv4", "conv5", "fc1", "fc2") else 0
        assert (weights[f"{layer}_bias"] == bias).all(), layer


@pytest.fixture
def dropconnect():
    """A bound layer of 40 units, a quarter dropped; its weight and bias, and 30 inputs."""
    net = layers.dropconnect(mx.sym.Variable("data"), "fc1", 40, 0.25)
    module = mx.mod.Module(net, label_names=None)
    module.bind([("data", (30, 200))])
    rng = np.random.RandomState(0)
    weight, bias, inputs = rng.randn(40, 200), rng.randn(40), rng.randn(30, 200)
    module.set_params({"fc1_weight": mx.nd.array(weight), "fc1_bias": mx.nd.array(bias)}, {})
    return module, weight, bias, inputs


def outputs(module, inputs, is_train):
    module.forward(mx.io.DataBatch([mx.nd.array(inputs)]), is_train=is_train)
    return module.get_outputs()[0].asnumpy()


def test_dropconnect_drops_weights_in_training(dropconnect):
    module, weight, bias, _ = dropconnect
    module.set_params({"fc1_weight": mx.nd.array(abs(weight)), "fc1_bias": mx.nd.zeros(40)}, {})
    seen = np.eye(200)[:30]  # so that the outputs are columns of the masked weight
    masked = outputs(module, seen, is_train=True).T
    kept = masked != 0
    assert 0.7 < kept.mean() < 0.8
    assert np.allclose(masked[kept], abs(weight[:, :30])[kept] / 0.75)
    module.backward([mx.nd.ones((30, 40))])
    gradient = module._exec_group.execs[0].grad_dict["fc1_weight"].asnumpy()
    assert np.allclose(gradient[:, :30], kept / 0.75)
    assert not gradient[:, 30:].any()


def test_dropconnect_infers_the_mean_over_all_masks(dropconnect):
    module, weight, bias, inputs = dropconnect
    rng, drawn, count = np.random.RandomState(1), 0.0, 4000
    for _ in range(count):
        weights, biases = weight * (rng.rand(40, 200) < 0.75), bias * (rng.rand(40) < 0.75)
        drawn += np.maximum(0, inputs @ weights.T + biases) / 0.75 / count
    said = outputs(module, inputs, is_train=False)
    assert abs(said - drawn).max() < 0.5  # 4,000 draws of a deviation of 8: .13
    of_mean_weights = np.maximum(0, inputs @ weight.T + bias)
    assert abs(of_mean_weights - drawn).max() > 2


def test_dropconnect_needs_relu(tmp_path, data):
    flags = [*ALEXNET, "--data-train", data.train, "--model-prefix", tmp_path / "net"]
    result = train(*flags, "--dropout-form", "dropconnect", "--activation", "tanh")
    assert_refused(result, "--dropout-form dropconnect: is known for relu")
