"""Operators of int8 networks against float64."""

import mxnet as mx
import numpy as np
import pytest
import reference

from common.graph import int8_operators
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
    """Values in steps of uint8 of a range up to ``end``, not rounded."""
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
