"""--cache-features: the same training, without running the frozen layers again and again."""

from unittest import mock

import mxnet as mx
import numpy as np
import pytest
from conftest import (
    LENET,
    assert_refused,
    assert_same_run,
    bands,
    before_batch,
    logged,
    operators,
    terminate,
    train,
    write_records,
)

import symbols
from common.checkpoint import store
from common.cli import UserError
from common.train import feature_cache, loop

COUNT, SIZE = 50, 16  # images, of a batch: epochs end within batches


def dropout_net(num_classes):
    """Batch norm in front of the cut, dropout behind it."""
    net = mx.sym.Convolution(mx.sym.Variable("data"), name="c1", num_filter=4, kernel=(5, 5))
    net = mx.sym.BatchNorm(net, name="c1_bn", fix_gamma=False)
    net = mx.sym.Activation(net, act_type="relu", name="relu1")
    net = mx.sym.Dropout(mx.sym.Flatten(net, name="flat"), p=0.5, name="drop")
    net = mx.sym.FullyConnected(net, name="f2", num_hidden=8)
    net = mx.sym.FullyConnected(net, name="f3", num_hidden=num_classes)
    return mx.sym.SoftmaxOutput(net, name="softmax")


@pytest.fixture(scope="module")
def tuning(tmp_path_factory):
    """Flags of three epochs with all that is drawn at random, and c1 frozen."""
    folder = tmp_path_factory.mktemp("source")
    images, labels = bands(COUNT, seed=1, size=24, channels=3)
    path = write_records(folder / "colour", images, labels)
    random = ["--random-crop", 1, "--random-mirror", 1, "--pca-noise", 0.5, "--num-epochs", 3]
    shape = ["--image-shape", "3,20,20", "--resize", 24, "--rgb-mean", "90,90,90"]
    deviation = ["--rgb-std", "60,60,60", "--lr", 0.01]
    base = [*LENET, *shape, *deviation, "--data-train", path]
    source = ["--pretrained", folder / "source", "--pretrained-epoch", 1, "--freeze", "c1"]
    with mock.patch.dict(symbols.NETWORKS, lenet=dropout_net):
        run([*base, "--num-epochs", 1], folder / "source")
        yield [*base, *random, "--data-val", path, *source]


def run(flags, prefix):
    result = train(*flags, "--model-prefix", prefix)
    assert result.returncode == 0, result.stderr
    return result


def test_with_a_view_for_each_epoch_it_is_training_as_usual(tuning, tmp_path):
    usual, cached = tmp_path / "usual", tmp_path / "cached"
    run(tuning, usual)
    # The last batch is filled up with images of a fourth epoch.
    said = run([*tuning, "--cache-features", 4], cached).stdout
    assert "flat of 4 views: 200 in " in said and "flat of validation: 50 in " in said
    for one, other in zip(logged(usual), logged(cached)):
        for figures in ("train", "val") if one["event"] == "epoch" else ():
            assert one[figures] == pytest.approx(other[figures], abs=1e-5)
    for kind in ("", "-optimizer"):  # the weights, and all gradients' sums
        expected, found = (mx.nd.load(f"{p}-0003{kind}.params") for p in (usual, cached))
        assert expected.keys() == found.keys()
        for name, array in expected.items():
            np.testing.assert_allclose(found[name].asnumpy(), array.asnumpy(), 1e-4, 1e-6, name)


def test_a_checkpoint_holds_the_plain_graph_and_all_weights(tuning, tmp_path):
    prefix = tmp_path / "x"
    run([*tuning, "--cache-features", 1], prefix)
    symbol, *weights = mx.model.load_checkpoint(str(prefix), 3)
    source, *before = store.load(str(tuning[tuning.index("--pretrained") + 1]), 1)
    assert symbol.tojson() == source.tojson()
    for found, expected in zip(weights, before):
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            same = np.array_equal(found[name].asnumpy(), array.asnumpy())
            assert same == name.startswith("c1"), name
    module = mx.mod.Module(symbol)
    module.bind([("data", (1, 3, 20, 20))], [("softmax_label", (1,))], for_training=False)
    module.set_params(*weights)


def test_stopped_and_resumed_it_is_the_uninterrupted_run_bit_for_bit(tuning, tmp_path):
    flags, whole, prefix = [*tuning, "--cache-features", 2], tmp_path / "whole", tmp_path / "x"
    run(flags, whole)
    with before_batch(8, terminate):  # the views come again
        assert train(*flags, "--model-prefix", prefix).returncode == 143
    run([*flags, "--resume"], prefix)
    assert_same_run(whole, prefix, epochs=3)


def test_views_come_again_in_a_new_order_each_image_once_an_epoch(tuning, tmp_path):
    seen, step = [], loop.Run._step

    def watched(self, batch, title):
        seen.extend(row.tobytes() for row in batch.data[0].asnumpy())
        step(self, batch, title)

    with mock.patch.object(loop.Run, "_step", watched):
        run([*tuning, "--num-epochs", 4, "--cache-features", 2], tmp_path / "x")
    epochs = [seen[start : start + COUNT] for start in range(0, 4 * COUNT, COUNT)]
    assert len(set(seen)) == 2 * COUNT
    assert epochs[0] != epochs[2] and sorted(epochs[0]) == sorted(epochs[2])
    assert epochs[1] != epochs[3] and sorted(epochs[1]) == sorted(epochs[3])


@pytest.mark.parametrize(
    "network, freeze, layer, left",
    [
        ("alexnet", "conv,fc1,fc2", "activation6", ["dropout1", "fc3", "softmax"]),
        (
            "alexnet",
            "conv,fc1",
            "activation5",
            ["dropout0", "fc2", "activation6", "dropout1", "fc3", "softmax"],
        ),
        ("alexnet_owt", "conv,fc1,fc2", "activation6", ["fc3", "softmax"]),
    ],
)
def test_the_cut_is_behind_the_frozen_layers_and_before_dropout(network, freeze, layer, left):
    symbol = symbols.get_symbol(network, 10)
    names = [name for name in symbol.list_arguments() if name.startswith(tuple(freeze.split(",")))]
    found, tail = feature_cache.cut(symbol, names)
    assert (found, list(operators(tail))) == (layer, left)
    assert tail.list_arguments()[0] == "data" and "softmax_label" in tail.list_arguments()


def test_what_is_not_frozen_from_the_first_layer_on_is_refused():
    symbol = symbols.get_symbol("alexnet", 10)
    for frozen in (["fc1_weight", "fc1_bias"], ["conv1_weight"]):
        with pytest.raises(UserError, match="freeze those from the first on"):
            feature_cache.cut(symbol, frozen)


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--freeze", "f2_weight"], ["--cache-features", "from the first on"]),
        (["--model-parallel", "--cpus", 2], ["--model-parallel", "leave one out"]),
        (["--data-dtype", "uint8"], ["--data-dtype uint8"]),
        (["--dtype", "bfloat16"], ["--dtype bfloat16"]),
        (["--data-backend", "dali"], ["--data-backend dali", "leave one out"]),
        (["--benchmark", 1], ["--benchmark"]),
        (["--test-io", 1], ["--test-io"]),
        (["--kv-store", "dist_sync"], ["dist_sync"]),
    ],
)
def test_what_it_is_not_written_for_is_refused_in_a_line(tuning, tmp_path, flags, words):
    command = [*tuning, "--cache-features", 1, *flags, "--model-prefix", tmp_path / "x"]
    assert_refused(train(*command), *words)
    assert not list(tmp_path.glob("x*"))


def test_without_frozen_layers_it_is_refused(small):
    command = [*LENET, "--data-train", small.train, "--cache-features", 1]
    assert_refused(train(*command), "--cache-features: needs --freeze")


def test_features_beyond_the_memory_are_refused_before_anything_is_read(tuning, tmp_path):
    command = [*tuning, "--cache-features", 9, "--model-prefix", tmp_path / "x"]
    with mock.patch.object(feature_cache, "available_memory", return_value=1000):
        result = train(*command)
    assert_refused(result, "--cache-features 9: 500 views of 1024 numbers take 0.0 GiB")
    assert not list(tmp_path.glob("x-*"))
