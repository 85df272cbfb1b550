"""LRN, max pooling and the update in C++ against float64 references and MXNet's own."""

import functools
import json

import mxnet as mx
import numpy as np
import pytest
import reference
from conftest import operators, output_and_gradients, run_script

import symbols
from common.graph.native_operators import use_native_operators
from common.runtime import native

pytestmark = pytest.mark.skipif(not native.load(), reason="no C++ compiler")
LRN = getattr(mx.nd._internal, "_alexnet_lrn", None)
IMAGES = (2, 3, 9, 9)


@pytest.mark.parametrize("nsize", [1, 3, 4, 5, 7])
@pytest.mark.parametrize("beta", [0.75, 0.5, 1.0])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1), (2, 3, 5, 7), (3, 96, 15, 15), (2, 13, 1, 1), (1, 2, 129, 1), (2, 7)]
)
@pytest.mark.parametrize("magnitude", [60.0, 1e-3])
def test_lrn_equals_a_float64_reference(shape, nsize, beta, magnitude):
    rng = np.random.RandomState(0)
    x = (rng.randn(*shape) * magnitude).astype(np.float32)
    gradient = rng.randn(*shape).astype(np.float32)
    settings = {"nsize": nsize, "alpha": 0.01, "beta": beta, "knorm": 1.5}
    output, found = output_and_gradients(functools.partial(LRN, **settings), [x], gradient)
    expected, back = reference.output_and_gradients(reference.lrn, settings, [x], gradient)
    minuend = gradient * reference.lrn_factor(settings, x.astype(np.float64))
    assert np.abs(output - expected).max() < 1e-6 * np.abs(expected).max()
    assert np.abs(found - back).max() < 1e-6 * np.abs(minuend).max()


def forward_backward(operator, x, seed=1):
    """Output and input gradient of ``operator`` at ``x``; the output's gradient is random."""
    array = mx.nd.array(x)
    array.attach_grad()
    with mx.autograd.record():
        output = operator(array)
    output.backward(mx.nd.array(np.random.RandomState(seed).randn(*output.shape)))
    return output.asnumpy(), array.grad.asnumpy()


conventions = pytest.mark.parametrize("convention", ["valid", "full"])
kinds_of_values = pytest.mark.parametrize("values", ["all different", "many equal"])
windows = pytest.mark.parametrize(
    "shape, kernel, stride",
    [
        ((2, 7, 55, 55), (3, 3), (2, 2)),
        ((2, 3, 54, 53), (3, 3), (2, 2)),
        ((1, 1, 3, 3), (3, 3), (2, 2)),
        ((1, 12, 9, 14), (2, 4), (2, 1)),
        ((3, 5, 1, 7), (1, 2), (1, 2)),
    ],
)


@conventions
@kinds_of_values
@windows
def test_max_pooling_alone_equals_mxnets(shape, kernel, stride, values, convention):
    rng = np.random.RandomState(0)
    x = rng.randn(*shape) if values == "all different" else rng.randint(-2, 3, shape)
    window = {"kernel": kernel, "stride": stride, "pooling_convention": convention}
    expected = forward_backward(functools.partial(mx.nd.Pooling, pool_type="max", **window), x)
    found = forward_backward(functools.partial(mx.nd._internal._alexnet_max_pool, **window), x)
    assert np.array_equal(found[0], expected[0])
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("relu", [{}, {"act_type": "relu"}])
@conventions
@kinds_of_values
@windows
def test_fused_with_relu_and_max_pooling_it_equals_mxnets_operators(
    shape, kernel, stride, values, convention, relu
):
    rng = np.random.RandomState(0)
    x = rng.randn(*shape) if values == "all different" else rng.randint(-2, 3, shape)
    window = {"kernel": kernel, "stride": stride, "pooling_convention": convention}
    lrn = {"nsize": 5, "alpha": 0.5, "beta": 0.75, "knorm": 1.5}

    def apart(x):
        x = mx.nd.relu(x) if relu else x
        return mx.nd.Pooling(LRN(x, **lrn), pool_type="max", **window)

    expected, expected_gradient = forward_backward(apart, x)
    fused = functools.partial(LRN, **relu, **lrn, **window)
    output, gradient = forward_backward(fused, x)
    assert np.array_equal(output, expected)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=2e-6)


SHARED = """
import common.runtime.mxnet, hashlib, mxnet as mx, numpy as np
from common.runtime import native
native.load()
for images in (1, 2, 5):
    x = mx.nd.array(np.random.RandomState(0).randn(images, 19, 9, 9) * 30)
    x.attach_grad()
    options = dict(nsize=5, act_type="relu", kernel=(3, 3), stride=(2, 2))
    with mx.autograd.record():
        y = mx.nd._internal._alexnet_lrn(x, **options)
    y.backward()
    print(hashlib.md5(y.asnumpy().tobytes() + x.grad.asnumpy().tobytes()).hexdigest())
"""


def test_any_number_of_threads_gives_the_same_bits():
    said = [run_script("-c", SHARED, OMP_NUM_THREADS=n).stdout for n in ("1", "2", "7")]
    assert said[0].count("\n") == 3
    assert said[0] == said[1] == said[2]


def test_not_a_number_is_not_hidden_by_the_relu():
    x = np.ones((1, 3, 3, 3), np.float32)
    x[0, 1, 1, 1] = np.nan
    output = LRN(mx.nd.array(x), nsize=3, act_type="relu")
    assert np.isnan(output.asnumpy()[0, :, 1, 1]).all()


def test_a_second_pooling_stays_a_node_of_its_own():
    net = mx.sym.LRN(mx.sym.Variable("data"), nsize=5)
    for name in ("first", "second"):
        net = mx.sym.Pooling(net, pool_type="max", kernel=(2, 2), stride=(2, 2), name=name)
    replaced = use_native_operators(net, IMAGES)
    assert operators(replaced) == {"first": "_alexnet_lrn", "second": "Pooling"}
    assert replaced.infer_shape(data=IMAGES) == net.infer_shape(data=IMAGES)


def test_one_operator_is_made_of_relu_lrn_and_pooling():
    plain = symbols.get_symbol("alexnet2012", 10, pooling_convention="full")
    before, after = (
        json.loads(s.tojson())["nodes"]
        for s in (plain, use_native_operators(plain, (1, 3, 67, 67)))
    )
    ops = {node["name"]: node["op"] for node in after}
    assert {name: op for name, op in ops.items() if op.startswith("_alexnet")} == {
        "pooling0": "_alexnet_lrn",
        "pooling1": "_alexnet_lrn",
    }
    gone = [node["name"] for node in before if node["name"] not in ops]
    assert gone == ["activation0", "lrn0", "activation1", "lrn1"]
    attrs = next(node["attrs"] for node in after if node["name"] == "pooling0")
    assert attrs == {
        **{"act_type": "relu", "alpha": "0.0001", "beta": "0.75", "knorm": "2", "nsize": "5"},
        **{"kernel": "(3, 3)", "stride": "(2, 2)"},
        **{"pool_type": "max", "pooling_convention": "full"},
    }


def test_what_something_else_reads_stays_a_node_of_its_own():
    relu = mx.sym.Activation(mx.sym.Variable("data"), act_type="relu", name="relu")
    lrn = mx.sym.LRN(relu, nsize=5, name="lrn")
    pool = mx.sym.Pooling(lrn, pool_type="max", kernel=(3, 3), stride=(2, 2), name="pool")
    found = json.loads(use_native_operators(mx.sym.Group([pool, lrn, relu]), IMAGES).tojson())[
        "nodes"
    ]
    ops = [node["op"] for node in found]
    assert ops == ["null", "Activation", "Reshape", "_alexnet_lrn", "Pooling"]
    found = json.loads(use_native_operators(mx.sym.Group([pool, relu]), IMAGES).tojson())["nodes"]
    assert [node["op"] for node in found] == ["null", "Activation", "Reshape", "_alexnet_lrn"]
    assert "act_type" not in found[3]["attrs"]


def test_other_activations_before_lrn_stay_mxnets():
    net = mx.sym.Activation(mx.sym.Variable("data"), act_type="tanh", name="tanh")
    found = json.loads(use_native_operators(mx.sym.LRN(net, nsize=5), IMAGES).tojson())["nodes"]
    assert [node["op"] for node in found] == ["null", "Activation", "Reshape", "_alexnet_lrn"]


def test_what_mxnet_leaves_is_copied_once_for_all_of_our_operators_that_read_it():
    with mx.AttrScope(ctx_group="a"):
        pool = mx.sym.Pooling(mx.sym.Variable("data"), kernel=(2, 2), name="pool")
    lrns = [mx.sym.LRN(pool, nsize=size, name=f"lrn{size}") for size in (3, 5)]
    net = mx.sym.Group([*lrns, mx.sym.LRN(mx.sym.Variable("data"), nsize=5, name="other")])
    replaced = use_native_operators(net, IMAGES)
    assert operators(replaced) == {
        "pool": "Pooling",
        "pool_plain": "Reshape",
        **dict.fromkeys(["lrn3", "lrn5", "other"], "_alexnet_lrn"),
    }
    assert replaced.attr_dict()["pool_plain"]["__ctx_group__"] == "a"
    assert replaced.infer_shape(data=IMAGES) == net.infer_shape(data=IMAGES)


@pytest.mark.parametrize(
    "pooling",
    [
        {"pool_type": "avg"},
        {"pad": (1, 1)},
        {"global_pool": True},
        {"kernel": (2, 2), "stride": (3, 3)},
    ],
)
def test_other_poolings_stay_mxnets(pooling):
    net = mx.sym.LRN(mx.sym.Variable("data"), nsize=5)
    window = {"pool_type": "max", "kernel": (3, 3), "stride": (2, 2)}
    net = use_native_operators(mx.sym.Pooling(net, **{**window, **pooling}), IMAGES)
    assert [node["op"] for node in json.loads(net.tojson())["nodes"]][1:] == [
        "_alexnet_lrn",
        "Pooling",
    ]


@pytest.mark.parametrize("clip", [None, 0, 0.5])
@pytest.mark.parametrize("size", [1, 7, 16384, 16385, 100003])
def test_ten_updates_equal_mxnets_sgd_to_the_last_bit(size, clip):
    rng = np.random.RandomState(size)
    start = mx.nd.array(rng.randn(size))
    gradients = [mx.nd.array(rng.randn(size) * 100) for _ in range(10)]
    settings = {"momentum": 0.9, "wd": 5e-4, "rescale_grad": 1 / 128, "clip_gradient": clip}
    settings["param_idx2name"] = {0: "fc1_weight", 1: "fc1_bias"}
    results = []
    for name in ("sgd", "nativesgd"):
        update = mx.optimizer.get_updater(mx.optimizer.create(name, learning_rate=0.01, **settings))
        weights = [start.copy(), start.copy()]
        for gradient in gradients:
            for index, weight in enumerate(weights):
                update(index, gradient, weight)
        states = [update.states[index].asnumpy() for index in (0, 1)]
        results.append([weight.asnumpy() for weight in weights] + states)
    for stock, ours in zip(*results):
        assert np.array_equal(stock, ours)
    assert not np.array_equal(results[1][0], results[1][1])  # a bias has no weight decay


def test_without_momentum_it_is_mxnets_own():
    sgd = native.NativeSGD(learning_rate=0.5)
    weight = mx.nd.ones(3)
    mx.optimizer.get_updater(sgd)(0, mx.nd.ones(3), weight)
    assert weight.asnumpy().tolist() == [0.5, 0.5, 0.5]
