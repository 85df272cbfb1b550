"""--data-dtype uint8: the devices normalise, and to the last bit nothing else changes."""

import itertools
import shutil

import mxnet as mx
import numpy as np
import pytest
from conftest import assert_same_arrays, bands, logged, train, write_records
from test_pipeline import arguments, training_data

import symbols
from common.graph import precision
from common.input import pipeline, prefetch
from common.input.training_data import TrainingData

NORMALISATION = ["--rgb-mean=120,110.5,100", "--rgb-std=61.3,0.7,39", "--pca-noise=0.2"]
LENET = ["--network", "lenet", "--dataset", "mnist", "--image-shape", "3,32,32", "--lr", 0.01]
ALEXNET = ["--dataset", "cifar10"]


@pytest.fixture(scope="module")
def coloured(tmp_path_factory):
    """40 colour pictures in three classes."""
    images, labels = bands(40, seed=1, size=36, channels=3)
    return write_records(tmp_path_factory.mktemp("coloured") / "c", images, labels)


def run(records, prefix, dtype, *flags):
    flags = [*flags, *NORMALISATION, "--random-crop", 1, "--data-dtype", dtype, "--deterministic"]
    flags += ["--batch-size", 12, "--data-train", records, "--model-prefix", prefix]
    result = train(*flags)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "network, cpus",
    [(ALEXNET, 1), (ALEXNET, 2), (LENET, 3)],
    ids=["alexnet", "alexnet on two devices", "lenet on three devices"],
)
def test_training_is_the_same_to_the_last_bit(coloured, tmp_path, network, cpus):
    for dtype in ("float32", "uint8"):
        run(coloured, tmp_path / dtype, dtype, *network, "--cpus", cpus, "--num-epochs", 1)
    floats, bytes_ = (tmp_path / dtype for dtype in ("float32", "uint8"))
    for name in ("-0001.params", "-0001-optimizer.params"):
        assert_same_arrays(f"{floats}{name}", f"{bytes_}{name}")
    assert logged(floats) == logged(bytes_)
    graphs = [(tmp_path / f"{dtype}-symbol.json").read_text() for dtype in ("float32", "uint8")]
    assert graphs[0] == graphs[1]


@pytest.mark.parametrize("before, after", [("float32", "uint8"), ("uint8", "float32")])
def test_a_checkpoint_of_one_goes_on_in_the_other(coloured, tmp_path, before, after):
    run(coloured, tmp_path / "whole", before, *LENET, "--num-epochs", 3)
    for path in tmp_path.glob("whole*"):
        if "-0002" not in path.name and "-0003" not in path.name:
            shutil.copy(path, tmp_path / path.name.replace("whole", "cut"))
    run(coloured, tmp_path / "cut", after, *LENET, "--num-epochs", 3, "--resume")
    assert_same_arrays(tmp_path / "whole-0003.params", tmp_path / "cut-0003.params")


def normalised(batch, std):
    images, shift = batch.data
    assert images.dtype == np.uint8 and shift.dtype == np.float32
    network = precision.normalise(mx.sym.var("data") * 1, std)
    given = {"data": images, precision.SHIFT: shift}
    return network.bind(mx.cpu(), given).forward()[0].asnumpy()


@pytest.mark.parametrize("native", [True, False])
def test_batches_are_the_same_once_normalised(coloured, native, monkeypatch):
    if not native:
        monkeypatch.setattr("common.runtime.native.load", lambda: False)
    read = []
    for dtype in ("float32", "uint8"):
        flags = [*NORMALISATION, f"--data-dtype={dtype}"]
        data = training_data(*flags, path=coloured, batch_size=7, images=40)
        read.append(itertools.islice(pipeline.training_iterator(data, mx.cpu()), 13))
    for floats, bytes_ in zip(*read):  # over the ends of two epochs
        assert np.array_equal(normalised(bytes_, data.preparation.std), floats.data[0].asnumpy())
        assert np.array_equal(bytes_.label[0].asnumpy(), floats.label[0].asnumpy())


def test_synthetic_images_are_the_same_once_normalised():
    found = {}
    for dtype in ("float32", "uint8"):
        flags = [*NORMALISATION, f"--data-dtype={dtype}", "--num-classes=10"]
        data = TrainingData.from_args(arguments(*flags, shape=(3, 9, 8)))
        found[dtype] = next(pipeline.synthetic(data, mx.cpu()))
    floats = found["float32"].data[0].asnumpy()
    assert np.array_equal(normalised(found["uint8"], data.preparation.std), floats)
    assert (
        abs(floats.mean(axis=(0, 2, 3)) * data.preparation.std).max() < 40
    )  # the mean is taken off


def test_benchmark_runs_with_it():
    flags = ["--benchmark", 1, "--num-examples", 24, "--batch-size", 12, "--num-epochs", 1]
    assert "img/s" in train(*LENET, *NORMALISATION[:2], *flags, "--data-dtype", "uint8").stdout


@pytest.mark.parametrize("network", symbols.NETWORKS)
def test_half_precision_begins_after_it(network):
    plain = symbols.get_symbol(network, 10)
    graph = precision.normalise(precision.cast(plain, "float16"), [1.0, 2.0, 3.0])
    assert graph.list_outputs() == plain.list_outputs()
    assert [n for n in graph.list_arguments() if n != precision.SHIFT] == plain.list_arguments()
    inside = graph.get_internals()
    given = {"data": "uint8", precision.SHIFT: "float32"}
    types = dict(zip(inside.list_outputs(), inside.infer_type(**given)[1]))
    assert types["data_normalised_output"] == np.float32
    weights = [n for n in plain.list_arguments() if n.endswith(("weight", "bias"))]
    assert {types[name] for name in [*weights, "data_cast_output"]} == {np.float16}


def test_a_batch_for_a_gpu_is_pinned(monkeypatch):
    made = []
    monkeypatch.setattr(mx.nd, "empty", lambda *how: made.append(how))
    prefetch.Buffers((5, 3, 4, 4), mx.gpu(1), "uint8").take()
    assert made == [((5, 3, 4, 4), mx.cpu_pinned(1), "uint8")]
