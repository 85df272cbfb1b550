"""A network in two columns, each on a device of its own: the plain one's outputs and gradients."""

import numpy as np
import pytest

import symbols
from benchmarks.scaling_limits import crossing
from common.graph import columns
from common.graph.graph import Graph
from common.runtime.mxnet import mx
from common.train import binding
from common.train.gradients import Gradients
from common.train.module_state import optimizer_state, weights
from common.train.schedule import LearningRate

SIDE, CLASSES = 67, 7  # the last layer has an odd number of rows
NETWORKS = {
    "alexnet145": ("alexnet145", {}),
    "alexnet2012": ("alexnet2012", {}),
    "by column": ("alexnet2012", {"normalization": "lrn-by-column"}),
    "batch norm, prelu": ("alexnet2012", {"normalization": "bn-after", "activation": "prelu"}),
}


def network(name):
    """One of NETWORKS without its dropout, of which no two runs are alike."""
    network, options = NETWORKS[name]
    graph = Graph(symbols.get_symbol(network, CLASSES, **options))
    for node in graph.nodes:
        if node.op == "Dropout":
            graph.replace(node, node.inputs[0])
    return graph.symbol()


def trained(symbol, devices, images, updates, model_parallel=True):
    """A module after some updates, and its last probabilities."""
    settings = binding.ModuleSettings(
        LearningRate(0.01), momentum=0.9, weight_decay=5e-4, model_parallel=model_parallel
    )
    # With one seed of ten, rounding turns a relu over, with plain sums in conv1, too.
    shape, random = (images, 3, SIDE, SIDE), np.random.RandomState(1)
    module = binding.bind(symbol, [mx.cpu(i) for i in range(devices)], shape, settings)
    gradients = Gradients(module)
    for _ in range(updates):
        data, label = random.normal(size=shape), random.randint(CLASSES, size=images)
        batch = mx.io.DataBatch([mx.nd.array(data)], [mx.nd.array(label)])
        probabilities = gradients.compute(batch)
        module.update()
    return module, probabilities


def assert_close(arrays, others, within=1e-5):
    """They differ by rounding, measured by the largest value of each."""
    assert arrays.keys() == others.keys()
    for name, array in arrays.items():
        own, other = array.asnumpy(), others[name].asnumpy()
        assert np.abs(own - other).max() <= within * np.abs(own).max(), name


@pytest.mark.parametrize(
    "name, devices, images, updates",
    [
        ("alexnet145", 4, 16, 2),
        ("alexnet2012", 2, 8, 2),
        ("by column", 2, 3, 2),
        ("batch norm, prelu", 2, 8, 1),
    ],
)
def test_columns_train_as_one_device_does(name, devices, images, updates):
    symbol = network(name)
    plain, expected = trained(symbol, devices // 2, images, updates, model_parallel=False)
    module, probabilities = trained(symbol, devices, images, updates)
    assert np.abs(probabilities - expected).max() < 1e-6
    for kind, other in zip(weights(module), weights(plain)):
        assert_close(kind, other)
    assert_close(optimizer_state(module), optimizer_state(plain))  # sums of gradients
    places = [array.context for arrays in module._exec_group.param_arrays for array in arrays]
    assert {places.count(mx.cpu(i)) for i in range(devices)} == {len(places) // devices}
    sent = crossing(columns.in_columns(symbol), (images, 3, SIDE, SIDE))
    copies = module._exec_group.execs[0].debug_str().count("_CrossDeviceCopy")
    assert copies == 2 * len(sent) - 1  # there and back, but for the images


@pytest.mark.parametrize("name, borders", [("alexnet145", 0), ("alexnet2012", 4), ("by column", 0)])
def test_what_crosses_is_counted(name, borders):
    sent = crossing(columns.in_columns(network(name)), (8, 3, SIDE, SIDE))
    halves = 2 * 4 * 8 * np.array([128 * 3 * 3, 128 * 1 * 1, 2048, 2048])  # to conv3, fc1, fc2, fc3
    exchanged = [size for name, size in sent.items() if "_other" in name and "fc3" not in name]
    assert sorted(exchanged) == sorted([*halves, *halves])
    assert sent["column0/fc3_other"] == 2 * 4 * 8 * (CLASSES // 2)
    assert sum("lrn" in name for name in sent) == borders  # channels beside the other column's
    assert len(sent) == 10 + borders  # the images, too


def test_weights_are_split_and_merged_exactly():
    arrays = {"fc_weight": mx.nd.arange(15).reshape((5, 3)), "scale": mx.nd.ones((1,))}
    parts = columns.split(arrays, ["column0/fc_weight", "column1/fc_weight", "scale"])
    assert [part.shape for part in parts.values()] == [(3, 3), (2, 3), (1,)]
    whole = columns.merge(parts)
    assert list(whole) == list(arrays)
    assert all((whole[name] == array).asnumpy().all() for name, array in arrays.items())


def test_what_cannot_be_divided_is_named():
    with pytest.raises(ValueError, match="has no convolution in two groups, so no columns"):
        columns.in_columns(symbols.get_symbol("alexnet", CLASSES))
    one = {"num_filter": 4, "kernel": (1, 1)}
    images = mx.sym.Variable("data")
    columned = mx.sym.Convolution(mx.sym.Convolution(images, **one), num_group=2, **one)
    for net, name in (
        (mx.sym.Convolution(images, num_group=2, name="first", **one), "first"),
        (mx.sym.softmax(columned, name="last"), "last"),
    ):
        with pytest.raises(ValueError, match=f"{name}: .* is not known to work on two columns"):
            columns.in_columns(net)
