"""Layers of bfloat16 against float64 layers of the same values, through MXNet.

Where the CPU has AMX its tiles multiply; elsewhere float32 operators do, and the slow test below
runs this file once more on emulated tiles.
"""

import functools
import os

import mxnet as mx
import numpy as np
import pytest
import reference
from conftest import (
    ROOT,
    assert_refused,
    assert_same_arrays,
    before_batch,
    operators,
    output_and_gradients,
    run_script,
    terminate,
    train,
)
from test_convolution import draw

from common.evaluate.network import bind
from common.graph.graph import Graph
from common.graph.lowering import for_cpu
from common.runtime import native

pytestmark = pytest.mark.skipif(not native.load(), reason="no C++ compiler")
CONVOLUTION = reference.of_bfloat16(reference.convolution)
CONNECTED = reference.of_bfloat16(reference.fully_connected)


def assert_close(found, right, most=1e-5):
    for one, exact in zip(found, right):
        assert one.shape == exact.shape
        assert np.abs(one - exact).max() <= most * np.abs(exact).max()


@pytest.mark.parametrize("act_type", [None, "relu"])
@pytest.mark.parametrize(
    "op, images, channels, size, filters, side, pad, num_group, stride",
    [
        ("convolution", 2, 34, (9, 13), 40, 3, (1, 2), 2, 1),
        ("convolution", 3, 17, (8, 8), 33, 5, (2, 2), 1, 1),
        ("convolution", 2, 3, (19, 27), 18, 11, (2, 0), 1, 4),
        ("first_convolution", 2, 3, (31, 44), 18, 11, (2, 3), 1, 4),
    ],
)
def test_a_convolution_and_its_gradients_are_right(
    op, images, channels, size, filters, side, pad, num_group, stride, act_type
):
    values = draw(images, channels, size, filters, side, pad, num_group, stride=stride)
    x, weight, bias, gradient = values
    attrs = {"kernel": (side, side), "num_filter": filters, "pad": pad, "num_group": num_group}
    attrs["stride"] = (stride, stride)
    plain, *_ = reference.output_and_gradients(CONVOLUTION, attrs, (x, weight, bias), gradient)
    passed = gradient * (plain > 0) if act_type else gradient
    right = reference.output_and_gradients(CONVOLUTION, attrs, (x, weight, bias), passed)
    if act_type:
        right[0], attrs["act_type"] = np.maximum(plain, 0), act_type
    operator = getattr(mx.nd._internal, f"_alexnet_{op}")
    operator = functools.partial(operator, dtype="bfloat16", **attrs)
    found = output_and_gradients(operator, (x, weight, bias), gradient)
    if op == "first_convolution":
        del found[1], right[1]
    assert_close(found, right)


@pytest.mark.parametrize("images", [1, 7, 8, 40])
@pytest.mark.parametrize("inputs, outputs", [(1, 1), (257, 33), (1200, 70)])
@pytest.mark.parametrize("share", [1, 0.2])  # of values that are not zero
def test_a_fully_connected_layer_and_its_gradients_are_right(images, inputs, outputs, share):
    x, weight, bias, gradient = reference.draw(
        (images, inputs), (outputs, inputs), (outputs,), (images, outputs)
    )
    for array in (x, gradient):
        array[np.random.RandomState(1).rand(*array.shape) >= share] = 0
    operator = mx.nd._internal._alexnet_fully_connected
    operator = functools.partial(operator, num_hidden=outputs, dtype="bfloat16")
    found = output_and_gradients(operator, (x, weight, bias), gradient)
    right = reference.output_and_gradients(CONNECTED, {}, (x, weight, bias), gradient)
    assert_close(found, right)


def test_other_types_are_refused():
    operator = mx.nd._internal._alexnet_fully_connected
    arrays = [mx.nd.ones(shape) for shape in ((2, 3), (4, 3), (4,))]
    with pytest.raises(mx.base.MXNetError, match="dtype=float16 is out of range"):
        operator(*arrays, num_hidden=4, dtype="float16").wait_to_read()


def test_int8_weights_are_not_for_it():
    operator = mx.nd._internal._alexnet_fully_connected
    arrays = mx.nd.ones((9, 64)), mx.nd.ones((4, 64), dtype=np.int8), mx.nd.ones((4,))
    with pytest.raises(mx.base.MXNetError, match="weights=int8 is not for dtype=bfloat16"):
        operator(*arrays, num_hidden=4, weights="int8", dtype="bfloat16").wait_to_read()


def test_without_a_compiler_training_in_it_is_refused(flags, tmp_path, monkeypatch):
    monkeypatch.setattr(native, "load", lambda: False)
    result = train(*flags, "--dtype", "bfloat16", "--model-prefix", tmp_path / "new" / "x")
    assert_refused(result, "--dtype bfloat16: needs the C++ operators")
    assert os.listdir(tmp_path) == []


def drawn(symbol, images, side, seed=0):
    """Values for every argument, as a fresh network has them, with classes for labels."""
    rng = np.random.RandomState(seed)
    shapes, _, _ = symbol.infer_shape(data=(images, 3, side, side))
    values = {}
    for name, shape in zip(symbol.list_arguments(), shapes):
        if name.endswith("weight"):
            value = rng.randn(*shape) * np.sqrt(2 / np.prod(shape[1:]))
        elif name == "softmax_label":
            value = rng.randint(0, 10, shape)
        else:
            value = rng.randn(*shape) * (0.1 if name.endswith("bias") else 1)
        values[name] = value.astype(np.float32)
    return values


def network():
    """Layers as AlexNet's, small ones, each of which is ours in training."""
    net = mx.sym.Variable("data")
    net = mx.sym.Convolution(net, name="conv1", kernel=(11, 11), stride=(4, 4), num_filter=64)
    net = mx.sym.LRN(mx.sym.Activation(net, name="relu1", act_type="relu"), name="lrn", nsize=5)
    net = mx.sym.Pooling(net, name="pool", kernel=(3, 3), stride=(2, 2), pool_type="max")
    net = mx.sym.Convolution(net, name="conv2", kernel=(5, 5), pad=(2, 2), num_filter=96)
    net = mx.sym.Flatten(mx.sym.Activation(net, name="relu2", act_type="relu"), name="flatten")
    net = mx.sym.FullyConnected(net, name="fc", num_hidden=10)
    return mx.sym.SoftmaxOutput(net, name="softmax")


def test_a_network_trains_in_bfloat16():
    plain, images, side = network(), 8, 107
    values = drawn(plain, images, side, seed=2)
    symbol = for_cpu(plain, values["data"].shape, input_gradient=False, dtype="bfloat16")
    narrow = [node.name for node in Graph(symbol).nodes if node.attrs.get("dtype") == "bfloat16"]
    assert len(narrow) == 3, operators(symbol)
    executor = symbol.simple_bind(mx.cpu(), grad_req="write", **{
        name: value.shape for name, value in values.items()
    })  # fmt: skip
    for name, value in values.items():
        executor.arg_dict[name][:] = value
    found = {"softmax": executor.forward(is_train=True)[0].asnumpy()}
    executor.backward()
    found.update((name, array.asnumpy()) for name, array in executor.grad_dict.items())
    of_float32, right = (
        {**gradients, "softmax": output}
        for output, gradients, _ in (
            reference.run(plain, values, layers) for layers in (None, reference.OF_BFLOAT16)
        )
    )
    for name in found.keys() - {"data", "softmax_label"}:
        # Where float32's rounding makes a value another one of bfloat16, results differ by that:
        # with four seeds by up to 2e-3 and a quarter of the way to float32.
        far, near = (np.linalg.norm(found[name] - to[name]) for to in (of_float32, right))
        assert near < far / 2 and near < 5e-3 * np.linalg.norm(right[name]), name


def test_training_in_bfloat16_resumes_bit_for_bit_and_leaves_plain_float32(
    flags, finished, tmp_path
):
    narrow, whole, prefix = [*flags, "--dtype", "bfloat16"], tmp_path / "whole", tmp_path / "x"
    result = train(*narrow, "--model-prefix", whole)
    assert result.returncode == 0 and "+dtype bfloat16" in " ".join(result.stdout.split())
    with before_batch(9, terminate):
        assert train(*narrow, "--model-prefix", prefix).returncode == 143
    assert train(*narrow, "--model-prefix", prefix, "--resume").returncode == 0
    assert_same_arrays(f"{prefix}-0002.params", f"{whole}-0002.params")
    ours, plain = (mx.model.load_checkpoint(str(one), 2) for one in (whole, finished))
    assert ours[0].tojson() == plain[0].tojson()
    for name, array in ours[1].items():
        difference = np.abs(array.asnumpy() - plain[1][name].asnumpy()).max()
        assert array.dtype == np.float32 and 0 < difference < 0.05, name


@pytest.mark.parametrize("images", [1, 9])
def test_inference_is_of_bfloat16_and_keeps_weights(images):
    plain = network()
    values = drawn(plain, images, 107)
    weights = {
        name: mx.nd.array(values[name]) for name in values.keys() - {"data", "softmax_label"}
    }
    module = bind(plain, weights, {}, values["data"].shape, [mx.cpu()], "bfloat16")
    layers = dict(reference.OF_BFLOAT16)
    if "_alexnet_keeping_convolution" not in operators(module.symbol).values():
        layers["Convolution"] = reference.convolution  # MXNet's
    right = reference.run(plain, values, layers)[0]
    for _ in range(2):
        module.forward(mx.io.DataBatch([mx.nd.array(values["data"])]), is_train=False)
        assert_close([module.get_outputs()[0].asnumpy()], [right], 1e-3)


@pytest.mark.slow
def test_all_of_it_on_emulated_tiles(tmp_path):
    emulator = os.path.join(ROOT, "tests", "native", "amx_emulator.h")
    environment = {"CXX": f"g++ -include {emulator}", "XDG_CACHE_HOME": str(tmp_path)}
    has = "from common.runtime import native; print(native.load() and native.has_amx())"
    assert run_script("-c", has, **environment).stdout == "True\n"
    result = run_script("-m", "pytest", "-p", "no:cacheprovider", "-m", "not slow", __file__,
                        os.path.join(ROOT, "tests/native/test_fully_connected.py"),
                        os.path.join(ROOT, "tests/test_score.py"),
                        timeout=1800, **environment)  # fmt: skip
    assert result.returncode == 0, result.stdout
