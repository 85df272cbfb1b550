"""The C++ convolution, against float64, and where it takes MXNet's place.

By Winograd's method its rounding errors are 2e-6 of the outputs' size here, by Fourier's, which
takes many images with 5x5 kernels, 3e-7, as those of plain sums.
"""

import functools

import mxnet as mx
import numpy as np
import pytest
import reference
from conftest import operators, output_and_gradients, run_script

import symbols
from common.graph.lowering import for_cpu
from common.graph.native_operators import MIN_IMAGES, use_native_layers, use_native_operators
from common.runtime import native

pytestmark = pytest.mark.skipif(not native.load(), reason="no C++ compiler")
TOLERANCE = 1e-5  # of an array's largest value


def layer(x, weight, bias, gradient, op="_alexnet_convolution", **attrs):
    """Output and gradients of data, weight and bias."""
    options = {"kernel": weight.shape[2:], "num_filter": len(bias), **attrs}
    operator = functools.partial(getattr(mx.nd._internal, op), **options)
    return output_and_gradients(operator, (x, weight, bias), gradient)


def expected(x, weight, bias, gradient, act_type=None, **attrs):
    """The same in float64, by definition."""
    options = {"kernel": weight.shape[2:], "num_filter": len(bias), **attrs}
    if act_type:
        output, *_ = reference.output_and_gradients(
            reference.convolution, options, (x, weight, bias), gradient
        )
        gradient = gradient * (output > 0)
    output, *gradients = reference.output_and_gradients(
        reference.convolution, options, (x, weight, bias), gradient
    )
    return [np.maximum(output, 0) if act_type else output, *gradients]


def draw(images, channels, size, filters, side, pad=(0, 0), num_group=1, magnitude=1.0, stride=1):
    """Data, weight, bias and the output's gradient."""
    return reference.draw(
        (images, channels, *size),
        (filters, channels // num_group, side, side),
        (filters,),
        (images, filters, *((n + 2 * p - side) // stride + 1 for n, p in zip(size, pad))),
        magnitude=magnitude,
    )


def assert_right(values, **attrs):
    for found, right in zip(layer(*values, **attrs), expected(*values, **attrs)):
        assert found.shape == right.shape
        assert np.abs(found - right).max() <= TOLERANCE * np.abs(right).max()


@pytest.mark.parametrize("side", [3, 5])
@pytest.mark.parametrize("channels, filters", [(1, 1), (3, 17), (16, 16), (33, 50), (48, 5)])
def test_any_number_of_channels_and_filters_is_right(channels, filters, side):
    assert_right(draw(2, channels, (8, 11), filters, side))


@pytest.mark.parametrize("side", [3, 5])
@pytest.mark.parametrize("size", [(5, 5), (5, 20), (20, 5), (6, 7), (13, 13), (27, 27), (41, 9)])
@pytest.mark.parametrize("pad", [(0, 0), (1, 1), (2, 0), (4, 3)])
def test_any_size_and_padding_is_right(size, pad, side):
    assert_right(draw(2, 7, size, 9, side, pad), pad=pad)


@pytest.mark.parametrize("side", [3, 5])
@pytest.mark.parametrize("size", [(1, 1), (1, 3), (2, 1)])
def test_maps_smaller_than_the_kernel_are_right_with_padding(size, side):
    pad = (side // 2, side // 2)
    assert_right(draw(3, 5, size, 4, side, pad), pad=pad)


@pytest.mark.parametrize(
    "stride, side, pad",
    [(4, 11, (0, 0)), (4, 11, (2, 3)), (4, 12, (0, 0)), (4, 9, (1, 0)), (4, 18, (5, 0))]
    + [(2, 5, (1, 1)), (2, 6, (0, 0)), (2, 9, (4, 2)), (3, 7, (1, 2)), (3, 13, (0, 6))],
)
@pytest.mark.parametrize("size", [(27, 27), (31, 44), (29, 18)])
def test_larger_kernels_with_a_stride_are_right(size, stride, side, pad):
    values = draw(2, 3, size, 17, side, pad, stride=stride)
    assert_right(values, pad=pad, stride=(stride, stride))
    values = draw(3, 10, size, 8, side, pad, num_group=2, stride=stride)
    assert_right(values, pad=pad, stride=(stride, stride), num_group=2)


@pytest.mark.parametrize("channels, filters, num_group", [(1, 1, 1), (17, 33, 1), (48, 10, 2)])
@pytest.mark.parametrize(
    "size, pad",
    [
        ((7, 7), (2, 2)),
        ((6, 7), (2, 2)),
        ((7, 7), (2, 1)),
        ((27, 27), (4, 1)),
        ((9, 20), (2, 2)),
        ((31, 8), (4, 1)),
    ],
)
def test_fourier_is_right_and_nearly_as_exact_as_plain_sums(
    channels, filters, num_group, size, pad
):
    values = draw(50, channels, size, filters, 5, pad, num_group)
    found = layer(*values, pad=pad, num_group=num_group)
    right = expected(*values, pad=pad, num_group=num_group)
    for ours, exact, most in zip(found, right, (6e-7, 6e-7, 6e-7, TOLERANCE)):
        assert np.abs(ours - exact).max() <= most * np.abs(exact).max()


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("images, channels, filters", [(1, 1, 1), (3, 17, 33), (70, 64, 128)])
@pytest.mark.parametrize("size", [(3, 3), (1, 2), (3, 1)])
def test_whole_maps_are_nearly_as_exact_as_plain_sums(images, channels, filters, size, groups):
    pad = (1, 1)
    values = draw(images, channels * groups, size, filters * groups, 3, pad, groups)
    found = layer(*values, pad=pad, num_group=groups)
    for ours, exact in zip(found, expected(*values, pad=pad, num_group=groups)):
        assert np.abs(ours - exact).max() <= 6e-7 * np.abs(exact).max()


@pytest.mark.parametrize("relu", [{}, {"act_type": "relu"}])
@pytest.mark.parametrize("groups, filters", [(1, 17), (1, 96), (3, 15)])
@pytest.mark.parametrize("size", [(31, 44), (75, 30)])
@pytest.mark.parametrize("stride, side, pad", [(4, 11, (2, 3)), (4, 12, (0, 0)), (2, 9, (4, 2))])
def test_a_first_convolutions_outputs_are_nearly_as_exact_as_plain_sums_and_its_gradients_right(
    stride, side, pad, size, groups, filters, relu
):
    values = draw(3, 3, size, filters, side, pad, groups, stride=stride)
    attrs = {"pad": pad, "stride": (stride, stride), "num_group": groups, **relu}
    found = layer(*values, op="_alexnet_first_convolution", **attrs)
    right = expected(*values, **attrs)
    for ours, exact, tolerance in zip(found, right, (1e-6, None, TOLERANCE, TOLERANCE)):
        if tolerance:  # else data's, which is not computed
            assert np.abs(ours - exact).max() <= tolerance * np.abs(exact).max()


@pytest.mark.parametrize("images, groups", [(3, 2), (3, 3), (50, 2)])
def test_groups_are_right(images, groups):
    values = draw(images, 6 * groups, (13, 13), 20 * groups, 3, (1, 1), groups)
    assert_right(values, pad=(1, 1), num_group=groups)


@pytest.mark.parametrize("images", [1, 5, 23, 50])
def test_more_images_than_are_handled_together_are_right(images):
    assert_right(draw(images, 16, (13, 13), 20, 3, (1, 1)), pad=(1, 1))


@pytest.mark.parametrize("images, side, groups", [(2, 3, 1), (2, 5, 1), (23, 3, 2)])
def test_a_relu_is_right(images, side, groups):
    values = draw(images, 10 * groups, (9, 9), 8 * groups, side, num_group=groups)
    # It is to be switched by no rounding: what is close to 0 has no gradient.
    output = expected(*values, num_group=groups)[0]
    values[3][np.abs(output) < 1e-5 * np.abs(output).max()] = 0
    assert_right(values, act_type="relu", num_group=groups)


@pytest.mark.parametrize("magnitude", [1e9, 1e-9])
def test_big_and_small_values_are_right(magnitude):
    assert_right(draw(2, 20, (9, 9), 33, 3, magnitude=magnitude))


@pytest.mark.parametrize(
    "images, channels, size, filters, side, most",
    [
        (1, 96, 27, 256, 5, 4e-6),
        (4, 96, 27, 256, 5, 6e-7),  # by Fourier's method
        (1, 256, 13, 384, 3, 4e-6),
        (1, 384, 13, 384, 3, 4e-6),
        (1, 384, 3, 384, 3, 2e-6),
    ],
)
def test_rounding_in_alexnets_layers_is_a_few_times_that_of_plain_sums(
    images, channels, size, filters, side, most
):
    pad = (side // 2, side // 2)
    x, weight, bias, gradient = draw(images, channels, (size, size), filters, side, pad)
    x = np.maximum(x, 0)  # as after a relu
    found = layer(x, weight, 0 * bias, gradient, pad=pad)
    right = expected(x, weight, 0 * bias, gradient, pad=pad)
    for ours, exact in zip(found[:3], right):
        assert np.sqrt(np.mean((ours - exact) ** 2) / np.mean(exact**2)) < most


def test_what_is_not_finite_stays_in_its_image():
    x, weight, bias, gradient = draw(3, 5, (13, 13), 7, 3)
    x[1, 2, 6, 6] = np.nan
    output, back, *_ = layer(x, weight, bias, gradient, act_type="relu")
    assert np.isnan(output[1, :, 4:7, 4:7]).all() and np.isfinite(output[[0, 2]]).all()
    assert np.isfinite(back[[0, 2]]).all()


BITS = """
import common.runtime.mxnet, hashlib, itertools, mxnet as mx, numpy as np
from common.runtime import native
native.load()
rng = np.random.RandomState(0)
found = []
layers = ("convolution", 1), ("first_convolution", 1), ("first_convolution", 2)
cases = (30, 3, 1), (4, 3, 1), (4, 5, 2)  # images, kernel, groups; 4 images are computed at once
for (op, stride), (images, side, groups) in itertools.product(layers, cases):
    kernel = stride * (side - 1) + 1
    shapes = (images, 20, 13, 13), (80, 20 // groups, kernel, kernel), (80,)
    arrays = [mx.nd.array(rng.randn(*shape)) for shape in shapes]
    for array in arrays:
        array.attach_grad()
    attrs = {"kernel": (kernel,) * 2, "num_filter": 80, "num_group": groups}
    if stride > 1:
        attrs["stride"] = stride, stride
    with mx.autograd.record():
        y = getattr(mx.nd._internal, "_alexnet_" + op)(*arrays, **attrs)
    y.backward(mx.nd.array(rng.randn(*y.shape)))
    found += [y, *(array.grad for array in arrays[op == "first_convolution":])]
print(hashlib.md5(b"".join(a.asnumpy().tobytes() for a in found)).hexdigest())
"""


def test_any_number_of_threads_gives_the_same_bits():
    said = {run_script("-c", BITS, OMP_NUM_THREADS=n).stdout for n in ("1", "2", "7")}
    assert len(said) == 1 and len(said.pop()) == 33


# In graphs


@pytest.mark.parametrize("network", ["alexnet", "alexnet2012"])
@pytest.mark.parametrize(
    "for_training, input_gradient, first",
    [
        (True, True, None),
        (True, False, "_alexnet_first_convolution"),
        (False, True, "_alexnet_keeping_convolution"),
    ],
)
def test_at_227_pixels_ours_replace_all_but_a_conv1_whose_inputs_gradient_is_wanted(
    network, for_training, input_gradient, first
):
    plain = symbols.get_symbol(network)
    before = plain.tojson()
    shape = (MIN_IMAGES, 3, 227, 227)
    replaced = use_native_operators(plain, shape, for_training, input_gradient)
    ours = {name: op for name, op in operators(replaced).items() if op.startswith("_alexnet")}
    convolution = "_alexnet_convolution" if for_training else "_alexnet_keeping_convolution"
    assert ours == {
        **({"activation0": first} if first else {}),
        **dict.fromkeys([f"activation{i}" for i in range(1, 5)], convolution),
        **dict.fromkeys(("pooling0", "pooling1"), "_alexnet_lrn"),
        "pooling2": "_alexnet_max_pool",
        **dict.fromkeys(("fc1", "fc2", "fc3"), "_alexnet_fully_connected"),
    }
    assert ("conv1" in operators(replaced)) == (first is None)
    assert replaced.list_arguments() == plain.list_arguments()
    assert replaced.list_outputs() == plain.list_outputs()
    assert replaced.infer_shape(data=shape) == plain.infer_shape(data=shape)
    assert plain.tojson() == before


def convolution(**attrs):
    options = {"kernel": (3, 3), "pad": (1, 1), "num_filter": 64, "name": "c", **attrs}
    return mx.sym.Convolution(mx.sym.Variable("data"), **options)


USUAL = (MIN_IMAGES, 64, 13, 13)


def test_a_usual_layer_is_replaced():
    assert operators(use_native_layers(convolution(), USUAL)) == {"c": "_alexnet_convolution"}
    explicit = convolution(stride=(1, 1), dilate=[1, 1], no_bias=False, num_group=1)
    assert operators(use_native_layers(explicit, USUAL)) == {"c": "_alexnet_convolution"}


def test_a_layer_without_bias_is_replaced():
    plain = convolution(no_bias=True)
    replaced = use_native_layers(plain, USUAL)
    assert operators(replaced) == {"c": "_alexnet_convolution", "c_no_bias": "_zeros"}
    assert replaced.list_arguments() == plain.list_arguments()


@pytest.mark.parametrize(
    "images, side, ours", [(1, 13, True), (1, 7, False), (1, 3, False), (2, 3, True)]
)
def test_inference_takes_few_images_where_their_maps_are_large(images, side, ours):
    shape = (images, 64, side, side)
    replaced = use_native_operators(convolution(), shape, for_training=False)
    assert (operators(replaced) == {"c": "_alexnet_keeping_convolution"}) == ours


@pytest.mark.parametrize("pad, side, ours", [((1, 1), 3, True), ((0, 0), 5, False)])
def test_whole_maps_of_3x3_are_ours_in_training(pad, side, ours):
    replaced = use_native_layers(convolution(pad=pad), (MIN_IMAGES, 64, side, side))
    assert (operators(replaced) == {"c": "_alexnet_convolution"}) == ours


@pytest.mark.parametrize("images, waits", [(1, False), (MIN_IMAGES - 1, False), (MIN_IMAGES, True)])
def test_inference_with_few_images_does_not_wait_for_a_build(monkeypatch, images, waits):
    asked = []
    monkeypatch.setattr(native, "is_built", lambda: False)
    monkeypatch.setattr(native, "load", lambda: asked.append("load"))
    plain = convolution()
    assert for_cpu(plain, (images, *USUAL[1:]), for_training=False) is plain
    assert bool(asked) == waits


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("images", [1, 3, 20])
def test_kept_values_of_weights_follow_the_weights(images, groups):
    x, weight, bias, gradient = draw(images, 128, (13, 13), 128, 3, (1, 1), groups)
    plain = convolution(num_filter=128, num_group=groups)
    replaced = use_native_operators(plain, x.shape, for_training=False)
    executor = replaced.simple_bind(mx.cpu(), grad_req="null", data=x.shape)
    assert operators(replaced) == {"c": "_alexnet_keeping_convolution"}
    weight, bias = (np.array(values, "float32") for values in (weight, bias))
    for at in (None, None, 0, -1):  # weights as before, then one of them is another
        if at is not None:
            weight.flat[at] += 1
        executor.copy_params_from({"c_weight": mx.nd.array(weight), "c_bias": mx.nd.array(bias)})
        (found,) = executor.forward(is_train=False, data=mx.nd.array(x))
        right, *_ = layer(x, weight, bias, gradient, pad=(1, 1), num_group=groups)
        assert np.array_equal(found.asnumpy(), right)


@pytest.mark.parametrize("kernel, ours", [((3, 3), True), ((7, 7), False)])
def test_for_inference_lrn_stays_mxnets_where_its_convolution_does(kernel, ours):
    plain = mx.sym.LRN(convolution(kernel=kernel), nsize=5, name="n")
    replaced = use_native_operators(plain, USUAL, for_training=False)
    assert operators(replaced)["n"] == ("_alexnet_lrn" if ours else "LRN")


def test_lists_are_as_good_as_tuples():
    plain = convolution(kernel=[3, 3], pad=[1, 1], stride=[1, 1])
    replaced = use_native_layers(plain, USUAL)
    assert operators(replaced) == {"c": "_alexnet_convolution"}
    assert replaced.infer_shape(data=USUAL) == plain.infer_shape(data=USUAL)


@pytest.mark.parametrize(
    "attrs",
    [
        {"stride": (2, 2)},
        {"dilate": (2, 2)},
        {"kernel": (1, 1)},
        {"kernel": (3, 5)},
        {"kernel": (7, 7)},
        {"kernel": (7, 7), "stride": (2, 2)},
        {"kernel": (9, 9), "stride": (2, 3)},
        {"num_filter": 32},
        {"num_group": 2},
        {"layout": "NCHW"},
    ],
)
def test_other_layers_stay_mxnets(attrs):
    plain = convolution(**attrs)
    for for_training in (True, False):
        assert use_native_layers(plain, USUAL, for_training).tojson() == plain.tojson()


@pytest.mark.parametrize(
    "shape",
    [
        (MIN_IMAGES - 1, *USUAL[1:]),
        (MIN_IMAGES, 32, 13, 13),
        (64, 64, 2, 2),
        (MIN_IMAGES, 64, 4, 4),  # the weights' values would take most of the time
        (MIN_IMAGES, 64, 325, 325),  # 65 x 65 tiles of 64 channels: over 50 MB an image
    ],
)
def test_where_it_would_be_slower_or_too_large_it_stays_mxnets(shape):
    plain = convolution()
    assert use_native_layers(plain, shape).tojson() == plain.tojson()


@pytest.mark.parametrize("kind", ["shared", "computed", "output"])
def test_weights_that_are_not_the_layers_own_leave_it_mxnets(kind):
    weight = mx.sym.Variable("w")
    plain = convolution(weight=weight * 2 if kind == "computed" else weight)
    if kind == "shared":
        plain = plain + mx.sym.Convolution(
            mx.sym.relu(mx.sym.Variable("data")), weight, kernel=(3, 3), pad=(1, 1), num_filter=64
        )
    if kind == "output":
        plain = mx.sym.Group([plain, weight])
    assert operators(use_native_layers(plain, USUAL)) == operators(plain)


def test_what_the_datas_shape_does_not_determine_stays_mxnets():
    other = mx.sym.Variable("other")
    dense = mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=5, name="f")
    layers = [mx.sym.Convolution(other, kernel=(3, 3), num_filter=64, name="g"),
              mx.sym.FullyConnected(other, num_hidden=5, name="h"), dense]  # fmt: skip
    assert operators(use_native_layers(mx.sym.Group(layers), (MIN_IMAGES, 8))) == {
        "g": "Convolution",
        "h": "FullyConnected",
        "f": "_alexnet_fully_connected",
    }


def test_an_output_that_something_else_reads_has_no_relu():
    plain = convolution()
    both = mx.sym.Group([plain, mx.sym.Activation(plain, act_type="relu", name="r")])
    assert operators(use_native_operators(both, USUAL)) == {
        "c": "_alexnet_convolution",
        "r": "Activation",
    }


@pytest.mark.parametrize("wanted", [{"c_weight"}, {"data", "c_bias"}])
def test_gradients_that_are_not_wanted_leave_the_others_right(wanted):
    replaced = use_native_layers(convolution(), USUAL)
    x, weight, bias, gradient = draw(MIN_IMAGES, 64, (13, 13), 64, 3, (1, 1))
    names = ("data", "c_weight", "c_bias")
    request = {name: "write" if name in wanted else "null" for name in names}
    executor = replaced.simple_bind(mx.cpu(), grad_req=request, data=x.shape)
    executor.copy_params_from(dict(zip(names, map(mx.nd.array, (x, weight, bias)))))
    executor.forward(is_train=True)
    executor.backward(mx.nd.array(gradient))
    _, *right = expected(x, weight, bias, gradient, pad=(1, 1))
    for name, values in zip(names, right):
        if name in wanted:
            error = np.abs(executor.grad_dict[name].asnumpy() - values).max()
            assert error < TOLERANCE * np.abs(values).max()
