"""Every option of AlexNet, from training to int8, at a small size; and what is refused."""

import glob
import json
import shutil
from types import SimpleNamespace
from unittest import mock

import mxnet as mx
import numpy as np
import pytest
from conftest import assert_same_arrays, bands, run_here, train, write_records

import export_mxnet
import export_onnx
import quantize
import score
from symbols import alexnet

ALEXNET = ["--dataset", "cifar10", "--batch-size", 16, "--deterministic", "--lr", 0.01]
OPTIONS = [
    *(
        "--activation " + kind
        for kind in ("tanh", "scaled-tanh", "sigmoid", "prelu", "rrelu", "elu")
    ),
    *("--normalization " + kind for kind in ("none", "bn-before", "bn-after")),
    "--dropout 0 --pooling plain",
    "--network alexnet2012 --normalization lrn-by-column --dropout 0.3",
    "--network alexnet145",
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
    for export in (export_onnx, export_mxnet):
        said(run_here(export.main, *where, "--data-val", data.val))  # each compares with the source
    said(run_here(quantize.main, *where, "--data-calib", data.train))
    of_int8 = top1(f"{prefix}-int8", 2, data)
    assert abs(of_int8["loss"] - of_float32["loss"]) < 0.1
    tuning = [*ALEXNET, "--data-train", data.other, "--num-epochs", 1, "--model-prefix", tuned]
    source = ["--pretrained", prefix, "--pretrained-epoch", 2, "--freeze", "conv"]
    said(train(*tuning, *source))
    frozen, before = (mx.nd.load(f"{name}.params") for name in (f"{tuned}-0001", f"{prefix}-0002"))
    for name in before:
        same = np.array_equal(frozen[name].asnumpy(), before[name].asnumpy())
        assert same == name.split(":")[1].startswith("conv"), name
