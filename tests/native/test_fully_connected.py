"""The C++ fully connected layer against float64, and where it takes MXNet's place."""

import functools
import json

import mxnet as mx
import numpy as np
import pytest
import reference
from conftest import operators, output_and_gradients, run_script

import symbols
from common.evaluate.network import bind
from common.graph.inference_weights import Integers, use_inference_weights
from common.graph.native_operators import MIN_IMAGES, use_native_layers
from common.io import cpus
from common.runtime import native

pytestmark = pytest.mark.skipif(not native.load(), reason="no C++ compiler")


def layer(x, weight, bias, gradient):
    """Output and gradients of data, weight and bias."""
    operator = functools.partial(mx.nd._internal._alexnet_fully_connected, num_hidden=len(bias))
    return output_and_gradients(operator, (x, weight, bias), gradient)


def expected(x, weight, bias, gradient):
    """The same in float64, and for each the same of absolute values: what rounding scales with."""
    results = []
    for size in (lambda values: values, np.abs):
        arrays = [size(values) for values in (x.reshape(len(x), -1), weight, bias)]
        output, back, *others = reference.output_and_gradients(
            reference.fully_connected, {}, arrays, size(gradient)
        )
        results.append([output, back.reshape(x.shape), *others])
    return results


def draw(images, inputs, outputs, magnitude=1.0):
    """Data, weight, bias and the output's gradient."""
    return reference.draw(
        (images, *inputs),
        (outputs, np.prod(inputs)),
        (outputs,),
        (images, outputs),
        magnitude=magnitude,
    )


def assert_right(values):
    for found, right, terms in zip(layer(*values), *expected(*values)):
        assert found.shape == right.shape
        assert (np.abs(found - right) <= 2e-6 * terms).all()


@pytest.mark.parametrize("images", [*range(1, 9), 33])
@pytest.mark.parametrize("inputs", [1, 7, 257])
@pytest.mark.parametrize("outputs", [1, 5, 129])
def test_output_and_gradients_equal_a_float64_reference(images, inputs, outputs):
    assert_right(draw(images, (inputs,), outputs))


@pytest.mark.parametrize("images", [8, 12, 16, 17, 32, 128, 131])
def test_many_blocks_and_whole_tiles_are_right(images):
    assert_right(draw(images, (1040,), 300))


def test_more_inputs_than_a_block_is_wide_or_deep_are_right():
    assert_right(draw(13, (2305,), 523))


def test_images_of_several_axes_are_flattened():
    assert_right(draw(9, (3, 5, 7), 6))


def draw_sparse(images, inputs, outputs, share):
    """The same, where only such a share of the data and of the gradient is not zero."""
    x, weight, bias, gradient = draw(images, (inputs,), outputs)
    for array in (x, gradient):
        array[np.random.RandomState(1).rand(*array.shape) >= share] = 0
    return x, weight, bias, gradient


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.45])
@pytest.mark.parametrize("images", [15, 16, 131, 193])
@pytest.mark.parametrize(
    "inputs, outputs", [(15, 16), (16, 17), (130, 70), (1040, 300), (257, 2305)]
)
def test_products_with_many_zeros_are_right(images, inputs, outputs, share):
    assert_right(draw_sparse(images, inputs, outputs, share))


@pytest.mark.parametrize("images", [16, 48, 49])
def test_large_gradients_of_weights_are_right_past_the_caches(images):
    # Each thread's share is stored past them, but for its last columns.
    outputs = 1050 * cpus.openmp_threads()
    assert_right(draw_sparse(images, 1040, outputs, 0.2))


ZEROS = """
import common.runtime.mxnet, hashlib, sys
from common.runtime import native
native.load()
sys.path[:0] = ["tests", "tests/native"]
from test_fully_connected import draw_sparse, layer
for shape, share in ((67, 523, 700), 0.2), ((67, 523, 700), 1), ((16, 1040, 1050), 0.2):
    found = layer(*draw_sparse(*shape, share))
    print(hashlib.md5(b"".join(array.tobytes() for array in found)).hexdigest())
"""


def test_any_number_of_threads_gives_the_same_bits_with_and_without_zeros():
    said = [run_script("-c", ZEROS, OMP_NUM_THREADS=n).stdout for n in ("1", "2", "7")]
    assert said[0].count("\n") == 3
    assert said[0] == said[1] == said[2]


@pytest.mark.parametrize("magnitude", [1e15, 1e-15])
def test_big_and_small_values_are_right(magnitude):
    assert_right(draw(33, (257,), 129, magnitude))


def test_what_is_not_finite_stays_in_its_image():
    x, weight, bias, gradient = draw(16, (40,), 300)
    for share in (1, 0.2):
        x[np.random.RandomState(1).rand(*x.shape) >= share] = 0
        x[3, 0], x[5, 1] = np.nan, np.inf
        output = layer(x, weight, bias, gradient)[0]
        assert np.isnan(output[3]).all() and not np.isfinite(output[5]).any()
        assert np.isfinite(np.delete(output, [3, 5], axis=0)).all()


def test_with_many_zeros_a_weight_that_is_not_finite_counts_only_where_a_value_meets_it():
    x, weight, bias, gradient = draw_sparse(16, 300, 40, 0.2)
    gradient[:8, 3], gradient[8:, 3], weight[3, 7] = 0, 1, np.inf
    back = layer(x, weight, bias, gradient)[1]
    assert np.isfinite(back[:8]).all() and np.isinf(back[8:, 7]).all()


INFINITE = """
import common.runtime.mxnet, numpy as np, sys
from common.runtime import native
native.load()
sys.path[:0] = ["tests", "tests/native"]
from test_fully_connected import draw_sparse, layer
x, weight, bias, gradient = draw_sparse(16, 40, 300, 0.2)
x[:8, 3], x[8:, 3], weight[7, 3] = 0, 1, np.inf
output = layer(x, weight, bias, gradient)[0]
print(native.variant(), np.isfinite(output[:8]).all(), np.isinf(output[8:, 7]).all())
"""


def test_without_avx512_such_a_weight_counts_for_nothing_in_outputs_either():
    said = run_script("-c", INFINITE, DNNL_MAX_CPU_ISA="AVX2").stdout.split()
    assert said[0] in ("AVX2", "baseline") and said[1:] == ["True", "True"]


def test_results_repeat_bit_for_bit():
    values = draw(33, (2305,), 129)
    for first, second in zip(layer(*values), layer(*values)):
        assert np.array_equal(first, second)


def for_inference(weight, kind, images):
    """Weights of that kind, as a network for so many images has them: attributes and an array for
    the operator, and the values in float64.
    """
    data = mx.sym.Dropout(mx.sym.Activation(mx.sym.Variable("data"), act_type="relu"))
    layer = mx.sym.FullyConnected(data, name="f", num_hidden=len(weight))
    symbol = use_native_layers(layer, (images, weight.shape[1]), for_training=False)
    integers, values = {}, weight.astype(float)
    if kind == "int8":
        values = np.rint(weight / np.abs(weight).max() * 127)
        integers["f_weight"] = Integers(mx.nd.array(values, dtype=np.int8), 0.015)
        values = values * 0.015
    dtype = kind if kind == "bfloat16" else "float32"
    params = {"f_weight": mx.nd.array(weight)}
    symbol, params = use_inference_weights(symbol, params, images, integers, dtype)
    if kind == "bfloat16":
        values = reference.rounded(weight).astype(float)
    attrs = json.loads(symbol.tojson())["nodes"][-1]["attrs"]
    return attrs, params["f_weight"], values


@pytest.mark.parametrize("kind", ["int8", "bfloat16", "float32"])
@pytest.mark.parametrize("images", [*range(1, 10), 33])
@pytest.mark.parametrize("inputs, outputs", [(64, 1), (1, 7), (1100, 5), (2048, 129), (70, 1000)])
def test_weights_for_inference_are_multiplied_exactly(kind, images, inputs, outputs):
    x, weight, bias, _ = draw(images, (inputs,), outputs)
    x[:, 1::3] = 0
    attrs, array, values = for_inference(weight, kind, images)
    assert (attrs.get("by_inputs") == "1") == (images == 1)
    operator = mx.nd._internal._alexnet_fully_connected
    x = mx.nd.array(x)
    found = operator(x, array, mx.nd.array(bias), **attrs).asnumpy()
    x = reference.rounded(x.asnumpy()) if kind == "bfloat16" else x.asnumpy()
    terms = np.abs(x) @ np.abs(values.T) + np.abs(bias)
    assert (np.abs(found - (x.astype(float) @ values.T + bias)) <= 2e-6 * terms).all()


@pytest.mark.parametrize("act_type, by_inputs", [("relu", "1"), ("tanh", None)])
def test_only_what_is_behind_a_relu_is_read_by_inputs(act_type, by_inputs):
    data = mx.sym.Activation(mx.sym.Variable("data"), act_type=act_type)
    layer = mx.sym.FullyConnected(mx.sym.flatten(data), name="f", num_hidden=5)
    symbol = use_native_layers(layer, (1, 2, 3, 3), for_training=False)
    symbol, params = use_inference_weights(symbol, {"f_weight": mx.nd.ones((5, 18))}, 1)
    assert json.loads(symbol.tojson())["nodes"][-1]["attrs"].get("by_inputs") == by_inputs
    assert params["f_weight"].shape == ((18, 64) if by_inputs else (5, 18))


def test_with_bfloat16_products_weights_by_inputs_have_to_be_bfloat16():
    arrays = mx.nd.ones((1, 18)), mx.nd.ones((18, 64)), mx.nd.ones(5)
    operator = mx.nd._internal._alexnet_fully_connected
    with pytest.raises(mx.base.MXNetError, match="needs weights=bfloat16"):
        operator(*arrays, num_hidden=5, by_inputs=1, dtype="bfloat16").wait_to_read()


def test_a_layer_for_one_image_computes_several():
    x, weight, bias, _ = draw(3, (70,), 90)
    attrs, array, values = for_inference(weight, "float32", 1)
    operator = mx.nd._internal._alexnet_fully_connected
    found = operator(mx.nd.array(x), array, mx.nd.array(bias), **attrs).asnumpy()
    np.testing.assert_allclose(found, x @ values.T + bias, rtol=1e-5, atol=1e-5)


ONE_IMAGE = """
import common.runtime.mxnet, hashlib, mxnet as mx, sys
from common.runtime import native
native.load()
sys.path[:0] = ["tests", "tests/native"]
from test_fully_connected import draw, for_inference
for kind in ("float32", "bfloat16", "int8"):
    x, weight, bias, _ = draw(1, (523,), 700)
    x[:, ::2] = 0
    attrs, array, _ = for_inference(weight, kind, 1)
    found = mx.nd._internal._alexnet_fully_connected(
        mx.nd.array(x), array, mx.nd.array(bias), **attrs)
    print(hashlib.md5(found.asnumpy().tobytes()).hexdigest())
"""


def test_any_number_of_threads_gives_the_same_bits_for_one_image():
    said = [run_script("-c", ONE_IMAGE, OMP_NUM_THREADS=n).stdout for n in ("1", "2", "7")]
    assert said[0].count("\n") == 3
    assert said[0] == said[1] == said[2]


def test_weights_are_rounded_to_the_nearest_bfloat16():
    weight = np.array([[1, 1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-7 - 2**-9, np.nan, np.inf, 3e38, 0]])
    for images in (1, 2):
        _, array, _ = for_inference(np.tile(weight, 8).astype(np.float32), "bfloat16", images)
        words = array.asnumpy()
        found = (words.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        found = found[:8, 0] if images == 1 else found[0, :8]
        nearest = [1, 1, 1 + 2**-6, -1 - 2**-7, np.nan, np.inf, 226 * 2.0**120, 0]
        np.testing.assert_allclose(found, nearest, rtol=1e-4)


@pytest.mark.parametrize(
    "attrs, shape, cause",
    [
        ({"weights": "float16"}, (2, 64), "weights=float16 is out of range"),
        ({"weights": "int8"}, (2, 64), "weights are of another type"),
    ],
)
def test_weights_that_it_cannot_read_are_refused(attrs, shape, cause):
    with pytest.raises(mx.base.MXNetError, match=cause):
        mx.nd._internal._alexnet_fully_connected(
            *map(mx.nd.ones, [shape, (1, shape[1]), 1]), num_hidden=1, **attrs
        )


def test_nothing_to_compute_is_refused():
    with pytest.raises(mx.base.MXNetError, match="num_hidden of at least 1"):
        mx.nd._internal._alexnet_fully_connected(*map(mx.nd.ones, [(2, 3), (1, 3), 1]))


# In graphs


@pytest.mark.parametrize("network", ["alexnet", "alexnet2012", "lenet"])
def test_each_layer_is_replaced_and_nothing_else_changes(network):
    plain = symbols.get_symbol(network, 10)
    before = plain.tojson()
    shape = (MIN_IMAGES, 1, 32, 32) if network == "lenet" else (MIN_IMAGES, 3, 67, 67)
    replaced = use_native_layers(plain, shape)
    wanted = {
        name: "_alexnet_fully_connected" if op == "FullyConnected" else op
        for name, op in operators(plain).items()
    }
    if network != "lenet":
        # tests/native/test_convolution.py
        wanted.update(dict.fromkeys(["conv2", "conv3", "conv4", "conv5"], "_alexnet_convolution"))
    assert operators(replaced) == wanted
    assert replaced.list_arguments() == plain.list_arguments()
    assert replaced.list_outputs() == plain.list_outputs()
    assert replaced.infer_shape(data=shape) == plain.infer_shape(data=shape)
    assert plain.tojson() == before


def test_few_images_stay_mxnets():
    plain = symbols.get_symbol("lenet")
    assert use_native_layers(plain, (MIN_IMAGES - 1, 1, 32, 32)).tojson() == plain.tojson()


def unusual(kind):
    data, weight = mx.sym.Variable("data"), mx.sym.Variable("w")
    if kind == "each row":
        return mx.sym.FullyConnected(data, num_hidden=5, flatten=False)
    if kind == "computed weight":
        return mx.sym.FullyConnected(data, weight * 2, num_hidden=5)
    if kind == "weight that is an output, too":
        return mx.sym.Group([mx.sym.FullyConnected(data, weight, num_hidden=5), weight])
    first = mx.sym.FullyConnected(data, weight, num_hidden=5)  # a shared weight
    return first + mx.sym.FullyConnected(mx.sym.relu(data), weight, num_hidden=5)


@pytest.mark.parametrize(
    "kind",
    ["each row", "computed weight", "weight that is an output, too", "shared weight"],
)
def test_unusual_layers_stay_mxnets(kind):
    plain = unusual(kind)
    assert operators(use_native_layers(plain, (MIN_IMAGES, 5, 5))) == operators(plain)


@pytest.mark.parametrize("attrs", [{}, {"no_bias": False, "flatten": True}])
@pytest.mark.parametrize("request_", [{"f_weight": "write"}, {"data": "write", "f_bias": "write"}])
def test_gradients_that_are_not_wanted_leave_the_others_right(request_, attrs):
    plain = mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=5, name="f", **attrs)
    replaced = use_native_layers(plain, (MIN_IMAGES, 2, 3))
    assert operators(replaced) == {"f": "_alexnet_fully_connected"}
    x, weight, bias, gradient = draw(9, (2, 3), 5)
    wanted = {name: request_.get(name, "null") for name in ("data", "f_weight", "f_bias")}
    executor = replaced.simple_bind(mx.cpu(), grad_req=wanted, data=x.shape)
    executor.copy_params_from(
        {"data": mx.nd.array(x), "f_weight": mx.nd.array(weight), "f_bias": mx.nd.array(bias)}
    )
    executor.forward(is_train=True)
    executor.backward(mx.nd.array(gradient))
    (_, *right), _ = expected(x, weight, bias, gradient)
    for name, values in zip(("data", "f_weight", "f_bias"), right):
        if name in request_:
            np.testing.assert_allclose(executor.grad_dict[name].asnumpy(), values, rtol=1e-4)


def output(module, data):
    module.forward(mx.io.DataBatch([mx.nd.array(data)]), is_train=False)
    return module.get_outputs()[0].asnumpy()


@pytest.mark.parametrize("contexts", [[mx.cpu()], [mx.cpu(0), mx.cpu(1)]])
@pytest.mark.parametrize("images", [1, 2, 7, 33])
def test_inference_gives_what_the_plain_network_gives(images, contexts):
    contexts = contexts[:images]
    shape = (images, 3, 67, 67)
    plain = mx.mod.Module(symbols.get_symbol("alexnet", 10))
    plain.bind([("data", shape)], [("softmax_label", shape[:1])], for_training=False)
    plain.init_params(mx.init.Xavier())
    ours = bind(plain.symbol, *plain.get_params(), shape, contexts)
    assert "_alexnet_fully_connected" in operators(ours.symbol).values()
    data = np.random.RandomState(0).normal(0, 60, shape)
    right = output(plain, data)
    for _ in range(2):  # the second time with what was kept of the weights
        found = output(ours, data)
        assert np.abs(found - right).max() < 1e-5 * right.max()


def test_without_a_compiler_inference_is_mxnets(tmp_path):
    show = """
import common.runtime.mxnet, mxnet as mx, symbols
from common.evaluate.network import bind
plain = mx.mod.Module(symbols.get_symbol("lenet"))
plain.bind([("data", (8, 1, 32, 32))], [("softmax_label", (8,))], for_training=False)
plain.init_params()
ours = bind(plain.symbol, *plain.get_params(), (8, 1, 32, 32), [mx.cpu()])
assert "_alexnet" not in ours.symbol.tojson()
"""
    result = run_script("-c", show, XDG_CACHE_HOME=str(tmp_path), CXX="no-such-compiler")
    assert result.returncode == 0, result.stderr
