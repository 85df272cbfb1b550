"""Operators of int8 networks against float64, and what becomes of MXNet's int8 networks."""

import mxnet as mx
import numpy as np
import pytest
import reference
from conftest import operators

import symbols
from common.convert import compare, quantization
from common.evaluate import network
from common.graph import int8_operators
from common.io import cpus
from common.runtime import native

pytestmark = pytest.mark.skipif(not native.load(), reason="no C++ compiler")
LRN = {"nsize": 5, "alpha": 0.01, "beta": 0.75, "knorm": 2}
POOL = {"pool_kernel": (3, 3), "pool_stride": (2, 2)}
FULL = {**POOL, "pooling_convention": "full"}
RANGE, MAP_RANGE, INPUT_RANGE = 30.0, 50.0, 2.0

SHAPES = [  # data, filters, options
    ((2, 3, 31, 27), 37, {"kernel": (11, 11), "stride": (4, 4)}),
    ((3, 8, 9, 13), 64, {"kernel": (3, 3), "pad": (1, 1)}),
    ((1, 12, 8, 7), 30, {"kernel": (5, 5), "pad": (2, 2), "num_group": 2}),
    ((1, 5, 6, 20), 33, {"kernel": (2, 3), "pad": (0, 2), "stride": (1, 2)}),
    ((4, 1, 5, 5), 3, {"kernel": (3, 3)}),
]


def quantized(values, end):
    """What uint8 of a range up to ``end`` means, and how many steps values are from there."""
    return np.clip(values * (255.5 / end), 0, 255)


def drawn(shape, signed):
    """Data as ours reads it, and what it means."""
    random = np.random.RandomState(0)
    if signed:
        data = random.uniform(-1.2 * INPUT_RANGE, 1.2 * INPUT_RANGE, shape).astype(np.float32)
        steps = np.clip(data * np.float32(127 / INPUT_RANGE), -127, 127)
        return data, np.floor(steps + np.float32(0.5)) * INPUT_RANGE / 127
    data = random.randint(0, 256, shape).astype(np.uint8)
    return data, data * 0.02


def row(outputs, pooling, lrn, first):
    """What follows the convolution, in float64, before it becomes uint8."""
    named = {key[len("pool_") :] if key in POOL else key: value for key, value in pooling.items()}

    def pooled(values):
        return reference.LAYERS["Pooling"]({**named, "pool_type": "max"}, values)[0]

    outputs = np.maximum(outputs, 0)
    if first:
        outputs = pooled(np.floor(quantized(outputs, MAP_RANGE) + 0.5) * (MAP_RANGE / 255.5))
    if lrn:
        outputs = reference.LAYERS["LRN"](LRN, outputs)[0]
    return pooled(outputs) if pooling and not first else outputs


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    "pooling, lrn, first",
    [
        ({}, False, False),
        (POOL, True, False),
        (FULL, True, True),
        ({}, True, False),
        (FULL, False, False),
    ],
)
@pytest.mark.parametrize("shape, filters, options", SHAPES)
def test_a_convolution_is_right(shape, filters, options, pooling, lrn, first, last, signed):
    groups, random = options.get("num_group", 1), np.random.RandomState(1)
    data, means = drawn(shape, signed)
    weights = random.randint(-127, 128, (filters, shape[1] // groups, *options["kernel"]))
    scale, bias = random.uniform(0.001, 0.003, filters), random.uniform(-3, 3, filters)
    attrs = {**options, "num_filter": filters}
    sums, _ = reference.convolution(attrs, means, weights * scale.reshape(-1, 1, 1, 1), bias)
    if min(sums.shape[2:]) < 3 and pooling:
        pytest.skip("no window fits")
    expected = quantized(row(sums, pooling, lrn, first), RANGE)

    step, zero = (INPUT_RANGE / 127, 128) if signed else (0.02, 0)
    blocks, rows = int8_operators.blocks_of_kernels(weights.astype(np.int8), groups)
    settings = {**attrs, **pooling, "max_calib_range": RANGE}
    settings.update({**LRN} if lrn else {}, **({"map_range": MAP_RANGE} if first else {}))
    settings.update({"input_range": INPUT_RANGE} if signed else {})
    settings.update({"out_layout": "NHWC"} if last else {})
    if last and not signed:
        data, settings["layout"] = data.transpose(0, 2, 3, 1), "NHWC"
    shift = bias - zero * scale * step * rows.sum(axis=1, dtype=int)
    arrays = [mx.nd.array(data, dtype=data.dtype), mx.nd.array(blocks, dtype=np.int8)]
    arrays += [mx.nd.array(scale * step), mx.nd.array(shift)]
    found, *ends = mx.nd._internal._alexnet_int8_convolution(*arrays, **settings)
    found = found.asnumpy().transpose(0, 3, 1, 2) if last else found.asnumpy()
    assert found.dtype == np.uint8 and found.shape == expected.shape
    assert np.any(found) and np.mean(found == 255) < 0.9
    # Half a step; more where uint8 between the layers was rounded to the other side.
    assert np.mean(np.abs(found - expected) > 0.501) < (0.01 if first else 1e-4)
    assert np.abs(found - expected).max() < 3
    assert [end.asscalar() for end in ends] == [0, RANGE]


@pytest.mark.parametrize("images", [1, 2, 13, 32])
@pytest.mark.parametrize("shape, outputs", [((4,), 1), ((3, 4, 5), 70), ((1032,), 64)])
@pytest.mark.parametrize("end", [None, RANGE])
@pytest.mark.parametrize("zeros", [0, 0.5, 1])
def test_a_fully_connected_layer_is_right(images, shape, outputs, end, zeros):
    random = np.random.RandomState(0)
    data = random.randint(0, 256, (images, *shape)).astype(np.uint8)
    data[random.uniform(size=data.shape) < zeros] = 0
    weights = random.randint(-127, 128, (outputs, np.prod(shape))).astype(np.int8)
    scale, bias = random.uniform(1e-5, 1e-4, outputs), random.uniform(-3, 3, outputs)
    expected = (data.reshape(images, -1).astype(int) @ weights.T.astype(int)) * scale + bias
    arrays = [mx.nd.array(data, dtype=np.uint8)]
    arrays += [mx.nd.array(int8_operators.blocks(weights), dtype=np.int8)]
    arrays += [mx.nd.array(scale), mx.nd.array(bias)]
    settings = {"num_hidden": outputs, **({} if end is None else {"max_calib_range": end})}
    found = mx.nd._internal._alexnet_int8_fully_connected(*arrays, **settings)
    if images == 1:
        settings["by_inputs"] = 1
        arrays[1] = mx.nd.array(int8_operators.by_inputs(weights), dtype=np.int8)
        again = mx.nd._internal._alexnet_int8_fully_connected(*arrays, **settings)
        same = zip(*(one if end else [one] for one in (found, again)))
        assert all(np.array_equal(one.asnumpy(), other.asnumpy()) for one, other in same)
    if end is None:
        assert np.abs(found.asnumpy() - expected).max() < 1e-6 * np.abs(expected).max()
    else:
        steps = np.abs(found[0].asnumpy() - quantized(np.maximum(expected, 0), end))
        assert steps.max() < 0.501 and [one.asscalar() for one in found[1:]] == [0, end]


def plain_network(name, **options):
    """A network of random weights, and pictures for it."""
    symbol, shape = symbols.get_symbol(name, 10, **options), (4, 3, 67, 67)
    module = mx.mod.Module(symbol)
    module.bind([("data", shape)], [("softmax_label", shape[:1])], for_training=False)
    module.init_params(mx.init.Xavier(factor_type="in", magnitude=2))
    pictures = np.random.RandomState(0).uniform(-100, 150, shape).astype(np.float32)
    return (symbol, *module.get_params()), pictures


def in_int8(plain, pictures):
    return quantization.quantize(*plain, pictures, pictures.shape[1:])


def run(int8, pictures, ours, monkeypatch):
    """The operators of a network, ours or MXNet's, and its probabilities."""
    monkeypatch.setattr(cpus, "has_int8", lambda: True)  # else it would be a float32 network
    monkeypatch.setattr(native, "has_int8", lambda: ours)
    module = network.bind(*int8, pictures.shape, [mx.cpu()])
    said = network.outputs(module, mx.nd.array(pictures)).asnumpy()
    return [*operators(module.symbol).values()], said


CONVOLUTION, LAYER = "_alexnet_int8_convolution", "_alexnet_int8_fully_connected"


@pytest.mark.parametrize("name", ["alexnet", "alexnet_owt", "alexnet2012", "caffenet"])
def test_a_quantised_network_is_ours_and_as_exact(name, monkeypatch):
    plain, pictures = plain_network(name)
    int8 = in_int8(plain, pictures)
    exact = compare.probabilities(*plain, pictures)
    (ops, ours), (_, mxnets) = (run(int8, pictures, own, monkeypatch) for own in (True, False))
    flatten, softmax = "_contrib_quantized_flatten", "SoftmaxOutput"
    assert ops == [CONVOLUTION] * 5 + [flatten] + [LAYER] * 3 + [softmax]
    assert 0 < np.abs(ours - exact).max() < 0.05
    # MXNet's convolutions of groups are coarser.
    assert np.abs(ours - exact).mean() < 1.5 * np.abs(mxnets - exact).mean()


def small_network(*behind, **options):
    """A network of a convolution, what is behind it, and two more layers; and its pictures."""
    settings = {"kernel": (3, 3), "num_filter": 8, "name": "conv", **options}
    net = mx.sym.Convolution(mx.sym.Variable("data"), **settings)
    net = mx.sym.Activation(net, act_type="relu", name="relu")
    for layer, attrs in behind:
        net = getattr(mx.sym, layer)(net, **attrs)
    net = mx.sym.Convolution(net, kernel=(1, 1), num_filter=4, name="next")
    net = mx.sym.Flatten(mx.sym.Activation(net, act_type="relu"))
    net = mx.sym.FullyConnected(net, num_hidden=4, name="fc")
    net = mx.sym.SoftmaxOutput(net, name="softmax")
    shape = (2, 4, 9, 9)
    pictures = np.random.RandomState(0).uniform(-1, 1, shape).astype(np.float32)
    shapes, _, _ = net.infer_shape(data=shape)
    weights = {
        name: mx.nd.random.uniform(-0.3, 0.3, size)
        for name, size in zip(net.list_arguments(), shapes)
        if name not in ("data", "softmax_label")
    }
    return (net, weights, {}), pictures


MAX = {"kernel": (3, 3), "stride": (2, 2), "pool_type": "max"}


@pytest.mark.parametrize(
    "behind, left",
    [
        ([], 0),
        ([("Pooling", MAX)], 0),
        ([("LRN", LRN)], 0),
        ([("LRN", LRN), ("Pooling", MAX)], 0),
        ([("Pooling", MAX), ("LRN", LRN)], 0),
        ([("Pooling", {**MAX, "pool_type": "avg"})], 1),
        ([("Pooling", {**MAX, "pad": (1, 1)})], 1),
        ([("LRN", {**LRN, "nsize": 3})], 3),
        ([("LRN", {**LRN, "beta": 0.5})], 3),
        ([("LRN", LRN), ("Pooling", {**MAX, "pool_type": "avg"})], 4),
    ],
)
def test_what_follows_a_convolution_is_fused_or_stays(behind, left, monkeypatch):
    plain, pictures = small_network(*behind)
    ops, said = run(in_int8(plain, pictures), pictures, True, monkeypatch)
    assert ops[0] == CONVOLUTION and ops.count(CONVOLUTION) == 2 and ops.count(LAYER) == 1
    assert len(ops) == 5 + left, ops
    assert 0 < np.abs(said - compare.probabilities(*plain, pictures)).max() < 0.01


@pytest.mark.parametrize("options", [{"dilate": (2, 2)}, {"num_filter": 3}])
def test_convolutions_that_stay_mxnets(options, monkeypatch):
    plain, pictures = small_network(**options)
    ops, _ = run(in_int8(plain, pictures), pictures, True, monkeypatch)
    assert (ops[1] == "_sg_mkldnn_conv") == ("dilate" in options), ops


def test_what_else_is_read_stays_mxnets(monkeypatch):
    plain, pictures = small_network(("Pooling", MAX))
    symbol, *params = in_int8(plain, pictures)
    inner = symbol.get_internals()
    (name, *_) = [one for one in inner.list_outputs() if one.startswith("quantized_sg_mkldnn_conv")]
    group = mx.sym.Group([symbol, inner[name]])
    ops, _ = run((group, *params), pictures, True, monkeypatch)
    assert ops.count(CONVOLUTION) == 2 and "_contrib_quantized_pooling" in ops


def test_threads_and_batches_change_nothing(monkeypatch):
    plain, pictures = plain_network("alexnet")
    int8 = in_int8(plain, pictures)
    _, together = run(int8, pictures, True, monkeypatch)
    for picture, said in zip(pictures, together):
        assert np.array_equal(run(int8, picture[None], True, monkeypatch)[1][0], said)
