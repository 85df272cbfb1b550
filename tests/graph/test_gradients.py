"""Outputs and gradients against tests/reference.py, and the pass that corrects LRN's gradient.

MXNet's float32 results are compared with numpy's float64 results, tensor by tensor: the largest
difference over the largest value. Rounding alone makes that up to 4e-6 here; 1e-5 is allowed. A
rounding can also switch a relu or change which value is a window's maximum. Then gradients differ
by percents in any two implementations, so each test first makes sure that no such decision was
close. Dropout is random, so training is compared on a copy of the graph that drops nothing.
"""

import json
import re

import mxnet as mx
import numpy as np
import pytest
import reference
from conftest import operators

import symbols
from common.graph.native_operators import MIN_IMAGES, use_native_operators
from common.graph.stock_leaky import decompose_leaky
from common.graph.stock_lrn import decompose_lrn
from common.runtime import native
from symbols import layers

TOLERANCE = 1e-5
# The least margin of a decision, relative to its layer's largest value. Rounding makes up to 2.4e-6
# of that here; with a smaller margin the kernels of a processor decide whether a test passes.
CLOSEST = 4e-6

mkldnn = pytest.mark.skipif(
    not mx.runtime.Features().is_enabled("MKLDNN"), reason="this MXNet has no MKL-DNN"
)


def without_dropout(symbol):
    graph = json.loads(symbol.tojson())
    for node in graph["nodes"]:
        if node["op"] == "Dropout":
            node["attrs"]["p"] = "0"
    return mx.sym.load_json(json.dumps(graph))


def normal(rng, shape):
    """The paper's: N(0, 0.01)."""
    return rng.normal(0, 0.01, shape)


def xavier(rng, shape):
    """mx.init.Xavier's default."""
    fans = (shape[0] + shape[1]) * np.prod(shape[2:])
    return rng.uniform(-1, 1, shape) * np.sqrt(6 / fans)


def draw(symbol, image_shape, weights=xavier, scale=1.0, seed=0, classes=10):
    """Values for every argument: images N(0, scale), biases N(0, 0.1), weights as said."""
    rng = np.random.RandomState(seed)
    shapes, _, _ = symbol.infer_shape(data=image_shape)
    values = {}
    for name, shape in zip(symbol.list_arguments(), shapes):
        if name == "data":
            value = rng.normal(0, scale, shape)
        elif name == "softmax_label":
            value = rng.randint(0, classes, shape)
        else:
            value = _parameter(rng, name, shape, weights)
        values[name] = value.astype(np.float32)
    return values


def _parameter(rng, name, shape, weights):
    kind = name.rpartition("_")[2]
    if kind == "weight":
        return weights(rng, shape)
    return rng.normal({"gamma": 1, "slope": 0.25}.get(kind, 0), 0.1, shape)


def bind(symbol, values):
    shapes = {name: value.shape for name, value in values.items()}
    executor = symbol.simple_bind(mx.cpu(), grad_req="write", **shapes)
    for name, value in values.items():
        executor.arg_dict[name][:] = value
    return executor


def train_step(symbol, values):
    """MXNet's output and gradients by argument, of one training pass."""
    executor = bind(symbol, values)
    output = executor.forward(is_train=True)[0].asnumpy()
    executor.backward()
    return output, {name: value.asnumpy() for name, value in executor.grad_dict.items()}


def error(found, expected):
    return abs(found - expected).max() / abs(expected).max()


def errors(symbol, plain, values, zero=()):
    """How far MXNet on ``symbol`` is from numpy on ``plain``: name -> relative error.

    The gradients of ``zero``, biases, are 0 but for rounding; their weights' are the measure.
    """
    expected_output, expected, margin = reference.run(plain, values)
    assert margin > CLOSEST, "a decision is too close to call; choose another seed"
    output, gradients = train_step(symbol, values)
    names = [name for name in plain.list_arguments() if name != "softmax_label"]
    found = {name: error(gradients[name], expected[name]) for name in names if name not in zero}
    for name in zero:
        weight = expected[name.replace("_bias", "_weight")]
        found[name] = abs(gradients[name] - expected[name]).max() / abs(weight).max()
    return {"output": error(output, expected_output), **found}


def assert_equal_to_numpy(plain, values, zero=()):
    """With all forms of LRN and of a first convolution that training on the CPU may use."""
    shape = values["data"].shape
    right = decompose_leaky(plain, shape)
    forms = [(decompose_lrn(right, shape), ())]  # and whose gradients are not computed
    if native.load():
        images = (MIN_IMAGES, *shape[1:])
        forms.append((use_native_operators(right, images), ()))
        forms.append((use_native_operators(right, images, input_gradient=False), ("data",)))
    for symbol, without in forms:
        found = errors(symbol, plain, values, zero)
        found = {name: far for name, far in found.items() if name not in without}
        assert max(found.values()) < TOLERANCE, found


# The networks


@pytest.mark.parametrize(
    "network, weights, seed",
    [
        ("alexnet", normal, 0),
        ("alexnet", xavier, 9),
        ("alexnet2012", normal, 13),
        ("alexnet2012", xavier, 1),
    ],
)
def test_alexnets_output_and_gradients_are_right(network, weights, seed):
    plain = without_dropout(symbols.get_symbol(network, 10))
    assert_equal_to_numpy(plain, draw(plain, (2, 3, 67, 67), weights, scale=60, seed=seed))


def test_alexnets_gradients_are_right_on_an_oblong_image_with_caffes_options():
    plain = symbols.get_symbol("alexnet2012", 10, knorm=1, pooling_convention="full")
    plain = without_dropout(plain)
    assert_equal_to_numpy(plain, draw(plain, (2, 3, 103, 67), scale=60, seed=2))


@pytest.mark.parametrize(
    "network, options, seed",
    [
        ("alexnet", {"normalization": "none"}, 10),
        ("alexnet", {"pooling": "plain"}, 3),
        ("alexnet2012", {"normalization": "lrn-by-column"}, 9),
        ("alexnet145", {}, 0),
        ("caffenet", {}, 3),
    ],
)
def test_the_gradients_of_networks_with_options_are_right(network, options, seed):
    plain = without_dropout(symbols.get_symbol(network, 10, **options))
    assert_equal_to_numpy(plain, draw(plain, (2, 3, 67, 67), seed=seed))


def between_layers(layer):
    """A network with ``layer(net, name)`` after two convolutions and a fully connected layer."""
    net = mx.sym.Variable("data")
    for name in "ab":  # of these the second becomes our convolution
        net = mx.sym.Convolution(net, name=name, num_filter=48, kernel=(3, 3))
        net = layer(net, name)
    net = mx.sym.FullyConnected(mx.sym.Flatten(net), name="c", num_hidden=16)
    net = mx.sym.FullyConnected(layer(net, "c"), name="d", num_hidden=5)
    return mx.sym.SoftmaxOutput(net, name="softmax")


LAYERS = {
    kind: (lambda net, name, kind=kind: layers.activation(net, kind, name))
    for kind in layers.ACTIVATIONS
    if kind not in ("relu", "rrelu")  # the networks have relu; rrelu is random
}


@pytest.mark.parametrize("kind", [*LAYERS, "bn-before", "bn-after"])
def test_the_gradients_of_every_activation_and_of_batch_norm_are_right(kind):
    order = [layers.batch_norm, LAYERS["tanh"]]
    before, after = order if kind == "bn-before" else order[::-1]
    plain = between_layers(LAYERS.get(kind) or (lambda net, name: after(before(net, name), name)))
    values = draw(plain, (MIN_IMAGES, 3, 16, 16), classes=5, seed=3 * (kind == "prelu"))
    # Batch norm takes away what a bias before it adds.
    zero = [f"{name}_bias" for name in "abc"] if kind == "bn-before" else []
    assert_equal_to_numpy(plain, values, zero)
    if native.load():
        replaced = use_native_operators(
            decompose_leaky(plain, values["data"].shape), values["data"].shape
        )
        found = operators(replaced)
        assert found["b"] == "_alexnet_convolution"
        assert found["c"] == "_alexnet_fully_connected"


@pytest.mark.parametrize("weights", [normal, xavier])
def test_lenets_output_and_gradients_are_right(weights):
    plain = symbols.get_symbol("lenet")
    assert_equal_to_numpy(plain, draw(plain, (3, 1, 32, 32), weights))


@pytest.mark.parametrize("network", ["alexnet", "alexnet2012"])
def test_dropout_drops_half_and_scales_the_rest_in_training_alone(network):
    symbol = symbols.get_symbol(network, 10)
    both = mx.sym.Group(
        [symbol.get_internals()[f"{n}_output"] for n in ("activation5", "dropout0")]
    )
    executor = bind(both, draw(both, (2, 3, 67, 67), scale=60))
    before, after = (output.asnumpy() for output in executor.forward(is_train=True))
    kept = after != 0
    assert 0.4 < kept[before > 0].mean() < 0.6
    np.testing.assert_allclose(after[kept], 2 * before[kept], rtol=1e-6)
    before, after = (output.asnumpy() for output in executor.forward(is_train=False))
    assert np.array_equal(before, after)


def test_rrelus_slopes_are_random_in_training_and_their_mean_is_used_otherwise():
    plain = between_layers(lambda net, name: layers.activation(net, "rrelu", name))
    values = draw(plain, (MIN_IMAGES, 3, 16, 16), classes=5, seed=3)
    assert train_slopes(plain, values, is_train=False) == pytest.approx([11 / 48] * 2, rel=1e-5)
    trained = decompose_leaky(plain, values["data"].shape)
    assert trained.list_arguments() == plain.list_arguments()
    lowest, highest = train_slopes(trained, values, is_train=True)
    assert 1 / 8 - 1e-5 < lowest < 0.13 and 0.33 < highest < 1 / 3 + 1e-5


def train_slopes(symbol, values, is_train):
    """The least and the largest slope below 0."""
    inside = symbol.get_internals()
    after = [one for one in inside.list_outputs() if re.fullmatch(r"leakyrelu\d+_output", one)]
    group = mx.sym.Group([inside[name] for name in ("a_output", after[0], "c_output", after[2])])
    executor = bind(group, {name: values[name] for name in group.list_arguments()})
    found = [one.asnumpy() for one in executor.forward(is_train=is_train)]
    slopes = [(y / x)[x < -1e-3] for x, y in zip(found[::2], found[1::2])]
    return [min(map(np.min, slopes)), max(map(np.max, slopes))]


def test_the_gradients_of_rrelu_are_right():
    rrelu = dict(act_type="rrelu", lower_bound=0.25, upper_bound=0.25)
    plain = between_layers(lambda net, name: mx.sym.LeakyReLU(net, **rrelu)[0])
    assert_equal_to_numpy(plain, draw(plain, (MIN_IMAGES, 3, 16, 16), classes=5, seed=3))


def test_in_stock_mxnet_the_gradient_of_prelus_slopes_is_multiplied_by_them():
    plain = between_layers(LAYERS["prelu"])
    values = draw(plain, (MIN_IMAGES, 3, 16, 16), classes=5, seed=3)
    _, expected, _ = reference.run(plain, values)
    _, found = train_step(plain, values)
    assert error(found["c_slope"], values["c_slope"] * expected["c_slope"]) < TOLERANCE
    assert decompose_leaky(plain, values["data"].shape).list_arguments() == plain.list_arguments()


# LRN decomposed


@mkldnn
def test_in_stock_mxnet_the_gradients_below_lrn_are_wrong():
    plain = without_dropout(symbols.get_symbol("alexnet", 10))
    found = errors(plain, plain, draw(plain, (2, 3, 67, 67), scale=60))
    assert found["conv1_weight"] > 1e-3
    assert found["conv2_weight"] > 1e-3
    assert found["conv3_weight"] < TOLERANCE
    assert found["output"] < TOLERANCE


def lrn_between_convolutions(channels, **attrs):
    """A network without a relu or a maximum; the LRN is called 'norm'."""
    net = mx.sym.Convolution(mx.sym.Variable("data"), name="a", num_filter=channels, kernel=(3, 3))
    net = mx.sym.LRN(net, name="norm", **attrs)
    net = mx.sym.Convolution(net, name="b", num_filter=4, kernel=(1, 1))
    net = mx.sym.FullyConnected(mx.sym.Flatten(net), name="c", num_hidden=5)
    return mx.sym.SoftmaxOutput(net, name="softmax")


@pytest.mark.parametrize("channels", [1, 2, 5, 16, 33])
@pytest.mark.parametrize("nsize", [1, 3, 4, 5, 7])
def test_every_window_and_number_of_channels_is_right(nsize, channels):
    plain = lrn_between_convolutions(channels, nsize=nsize, alpha=0.5, beta=0.6, knorm=1.5)
    assert_equal_to_numpy(plain, draw(plain, (3, 2, 8, 6), classes=5))


@pytest.mark.parametrize("attrs", [{}, {"beta": 1}, {"beta": 0.5, "knorm": 1}, {"alpha": 100}])
def test_default_and_other_constants_are_right(attrs):
    plain = lrn_between_convolutions(8, nsize=5, **attrs)
    assert_equal_to_numpy(plain, draw(plain, (2, 3, 7, 7), scale=30, classes=5))


def test_maps_of_one_pixel_are_right():
    plain = lrn_between_convolutions(16, nsize=5, alpha=1)
    assert_equal_to_numpy(plain, draw(plain, (4, 3, 3, 3), classes=5))


def test_decomposing_lrn_keeps_arguments_outputs_and_the_names_of_nodes():
    plain = symbols.get_symbol("alexnet2012")
    replaced = decompose_lrn(plain, (8, 3, 227, 227))
    assert replaced.list_arguments() == plain.list_arguments()
    assert replaced.list_auxiliary_states() == plain.list_auxiliary_states() == []
    assert replaced.list_outputs() == plain.list_outputs()
    kept = set(plain.get_internals().list_outputs())
    assert kept <= set(replaced.get_internals().list_outputs())
    plain_shapes = plain.infer_shape(data=(4, 3, 227, 227))
    assert replaced.infer_shape(data=(4, 3, 227, 227)) == plain_shapes
    assert "LRN" not in {node["op"] for node in json.loads(replaced.tojson())["nodes"]}


def test_a_graph_without_lrn_stays_as_it_is():
    plain = symbols.get_symbol("lenet")
    assert decompose_lrn(plain, (1, 1, 32, 32)).tojson() == plain.tojson()


def test_decomposing_lrn_leaves_the_plain_symbol_as_it_was():
    plain = symbols.get_symbol("alexnet")
    before = plain.tojson()
    decompose_lrn(plain, (1, 3, 67, 67))
    assert plain.tojson() == before


def test_hidden_attributes_such_as_the_device_group_go_to_the_new_nodes():
    with mx.AttrScope(ctx_group="second"):
        net = mx.sym.LRN(mx.sym.Variable("data"), name="n", nsize=3)
    nodes = json.loads(decompose_lrn(net, (1, 3, 4, 4)).tojson())["nodes"]
    assert len(nodes) > 2
    assert {node["attrs"]["__ctx_group__"] for node in nodes} == {"second"}


def test_attributes_of_the_callers_scope_do_not_reach_the_new_nodes():
    plain = mx.sym.LRN(mx.sym.Variable("data"), name="n", nsize=3)
    with mx.AttrScope(ctx_group="second"):
        replaced = decompose_lrn(plain, (1, 3, 4, 4))
    assert "ctx_group" not in replaced.tojson()


@pytest.mark.parametrize("nsize", [3, 4])
def test_a_decomposed_lrn_can_be_an_output(nsize):
    plain = mx.sym.LRN(mx.sym.Variable("data"), name="n", nsize=nsize, alpha=0.1)
    images = mx.nd.array(np.random.RandomState(0).normal(0, 30, (2, 5, 3, 3)))
    replaced = decompose_lrn(plain, images.shape)
    assert replaced.list_outputs() == ["n_output"]
    found, expected = (s.eval(data=images)[0].asnumpy() for s in (replaced, plain))
    assert error(found, expected) < 1e-6


def test_inference_between_training_steps_stays_right():
    plain = symbols.get_symbol("alexnet", 10)
    values = draw(plain, (2, 3, 67, 67), scale=60)
    executor = bind(decompose_lrn(plain, values["data"].shape), values)
    expected = bind(plain, values).forward(is_train=False)[0].asnumpy()
    for _ in range(3):
        assert error(executor.forward(is_train=False)[0].asnumpy(), expected) < TOLERANCE
        executor.forward(is_train=True)
        executor.backward()


def test_channels_are_the_lrns_own_whatever_variables_are_called():
    net = mx.sym.LRN(mx.sym.Variable("data"), name="n", nsize=3)
    weight = mx.sym.Variable("n_weight")  # (5, 1, 3, 3), where n has 5 channels
    net = mx.sym.Convolution(net, weight, num_filter=5, num_group=5, kernel=(3, 3))
    assert decompose_lrn(net, (1, 5, 4, 4)).infer_shape(data=(1, 5, 4, 4))[1] == [(1, 5, 2, 2)]


def test_unknown_channels_are_an_error():
    net = mx.sym.LRN(mx.sym.Variable("other"), name="n", nsize=3) + mx.sym.Variable("data")
    with pytest.raises(ValueError, match="channels of n"):
        decompose_lrn(net, ())
