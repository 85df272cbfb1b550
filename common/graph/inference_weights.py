"""Weights that are set once, as inference on the CPU reads them fastest.

With few images a batch, reading weights takes most of the time. So those of fully connected layers
may be int8 or bfloat16, and for one image those of an input lie side by side: the weights of inputs
that are zero, as most are behind a relu, are then not read. Convolutions need not compare theirs
with those that they know. The sums are of float32.
"""

from types import MappingProxyType
from typing import Mapping, NamedTuple, Tuple

import numpy as np

from common.runtime.mxnet import mx

from .graph import Graph

_UNIT = 64  # such rows have a multiple of so many weights, the last ones 0: native/narrow_weights.h

# Layers whose output is zero where their input is, or where all inputs of a window are.
_PASS_ZEROS = ("Dropout", "Flatten", "LRN", "Pooling", "_alexnet_lrn", "_alexnet_max_pool")


class Integers(NamedTuple):
    """Weights as 8-bit integers, each of which stands for itself times ``scale``."""

    array: mx.nd.NDArray
    scale: float


def use_inference_weights(
    symbol: mx.sym.Symbol,
    arg_params: dict,
    images: int,
    integers: Mapping[str, Integers] = MappingProxyType({}),
    dtype: str = "float32",
) -> Tuple[mx.sym.Symbol, dict]:
    """Let our layers read such weights: the symbol and its arguments, which are not to change.

    ``symbol`` is what lowering.for_cpu has made for so many ``images`` a device, ``arg_params`` are
    its arguments. In fully connected layers, weights that ``integers`` has become those; with the
    ``dtype`` 'bfloat16' the others are rounded, to nearest, ties to even.
    """
    graph, arg_params = Graph(symbol), dict(arg_params)
    for node in graph.nodes:
        if node.op == "_alexnet_keeping_convolution":
            node.attrs["constant"] = "1"
        if node.op != "_alexnet_fully_connected":
            continue
        weight = node.inputs[1].node
        array, scale = integers.get(weight.name, (arg_params[weight.name], 1))
        by_inputs = images == 1 and _has_zeros(node)
        if by_inputs:
            array = array.T
            node.attrs["by_inputs"] = "1"
        if weight.name in integers:
            node.attrs.update(weights="int8", scale=repr(scale))
            array = mx.nd.array(_padded(array.asnumpy()), dtype=np.int8)
        elif dtype == "bfloat16":
            node.attrs.update(weights="bfloat16")
            array = _pairs(_padded(array.asnumpy()))
        elif by_inputs and array.shape[1] % _UNIT:
            array = mx.nd.array(_padded(array.asnumpy()))
        arg_params[weight.name], weight.attrs["__shape__"] = array, str(array.shape)
        weight.attrs.pop("__dtype__", None)
    return graph.symbol(), arg_params


def _has_zeros(layer):
    """Whether what a layer reads comes from a relu."""
    node = layer.inputs[0].node
    while node.op in _PASS_ZEROS and node.settings.get("act_type") != "relu":
        node = node.inputs[0].node
    return node.settings.get("act_type") == "relu"


def _padded(weights):
    return np.pad(weights, ((0, 0), (0, -weights.shape[1] % _UNIT)))


def _pairs(weights):
    """An array of int32, each of which holds two of bfloat16: MXNet hands none to an extension."""
    bits = weights.view(np.uint32)
    rounded = ((bits + (0x7FFF + (bits >> 16 & 1))) >> 16).astype(np.uint16)
    rounded[np.isnan(weights)] = 0x7FC0
    return mx.nd.array(rounded.view(np.int32), dtype=np.int32)
