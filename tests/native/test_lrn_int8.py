"""LRN of int8 networks in C++ against MXNet's own operators in a row."""

import mxnet as mx
import numpy as np
import pytest
from conftest import operators

import symbols
from common.convert import quantization
from common.graph.native_operators import use_native_operators
from common.runtime import native

pytestmark = pytest.mark.skipif(not native.load(), reason="no C++ compiler")
LRN = {"nsize": 5, "alpha": 0.01, "beta": 0.75, "knorm": 2}
POOL = {"kernel": (3, 3), "stride": (2, 2)}
RANGE = {"min_calib_range": 0, "max_calib_range": 20}
ENDS = {"uint8": (0, 30), "int8": (-20, 30)}


def row(data, ends, pooling, **end):
    """The outputs of dequantize, LRN, max pooling and quantize, of a symbol or an array."""
    of = mx.sym if isinstance(data, mx.sym.Symbol) else mx.nd
    net = of.LRN(of.contrib.dequantize(data, *ends, name="floats"), name="lrn", **LRN)
    net = of.Pooling(net, name="pool", **{"pool_type": "max", **pooling}) if pooling else net
    return of.contrib.quantize_v2(net, **{"out_type": "auto", **RANGE, **end})


@pytest.mark.parametrize("shape", [(2, 96, 55, 55), (3, 7, 9, 14), (1, 40, 3, 3), (2, 2, 3, 7)])
@pytest.mark.parametrize("dtype", ENDS)
@pytest.mark.parametrize(
    "pooling",
    [{}, POOL, {**POOL, "pooling_convention": "full"}, {"kernel": (2, 3), "stride": (1, 1)}],
)
def test_int8_lrn_equals_mxnets_operators_in_a_row(shape, dtype, pooling):
    limits = np.iinfo(dtype)
    integers = np.random.RandomState(0).randint(limits.min, limits.max + 1, shape)
    data, ends = mx.nd.array(integers, dtype=dtype), [mx.nd.array([end]) for end in ENDS[dtype]]
    expected = [one.asnumpy() for one in row(data, ends, pooling)]
    settings = {**LRN, **pooling, **RANGE}
    found = [one.asnumpy() for one in mx.nd._internal._alexnet_int8_lrn(data, *ends, **settings)]
    assert found[0].dtype == expected[0].dtype == np.uint8
    steps = np.abs(found[0].astype(int) - expected[0])
    assert steps.max() <= 1 and np.mean(steps) < 1e-3  # rounded up here, down there
    assert [one.tolist() for one in found[1:]] == [one.tolist() for one in expected[1:]]


def fused(pooling, also_read=(), **end):
    """The operators of a row in our graph, where something else reads layers ``also_read``."""
    data, *ends = map(mx.sym.Variable, ("data", "low", "high"))
    net = row(data, ends, pooling, **end)
    others = [net.get_internals()[f"{layer}_output"] for layer in also_read]
    ours = use_native_operators(mx.sym.Group([net, *others]), (2, 3, 9, 9), for_training=False)
    return [*operators(ours).values()]


def test_a_row_becomes_one_operator():
    assert fused(POOL) == fused({}) == ["_alexnet_int8_lrn"]


@pytest.mark.parametrize(
    "more",
    [
        {"also_read": ["floats"]},
        {"also_read": ["lrn"]},
        {"also_read": ["pool"]},
        {"pooling": {**POOL, "pool_type": "avg"}},
        {"min_calib_range": -1},
        {"out_type": "int8"},
        {"min_calib_range": None, "max_calib_range": None},
    ],
)
def test_other_rows_stay_mxnets(more):
    assert fused(**{"pooling": POOL, **more}) == [
        "_contrib_dequantize",
        "LRN",
        "Pooling",
        "_contrib_quantize_v2",
    ]


def test_both_normalisations_of_a_quantised_alexnet_are_ours():
    symbol = symbols.get_symbol("alexnet", 3)
    module = mx.mod.Module(symbol)
    module.bind([("data", (1, 3, 67, 67))], [("softmax_label", (1,))], for_training=False)
    module.init_params(mx.init.Xavier())
    images = np.random.RandomState(0).randn(2, 3, 67, 67).astype(np.float32)
    quantized, _, _ = quantization.quantize(symbol, *module.get_params(), images, (3, 67, 67))
    ours = operators(use_native_operators(quantized, (8, 3, 67, 67), for_training=False))
    assert [*ours.values()].count("_alexnet_int8_lrn") == 2 and "LRN" not in ours.values()
