"""Fully connected layers that read their weights as int8 or bfloat16, for inference on the CPU.

With few images a batch, reading weights takes most of the time. The sums are of float32.
"""

from typing import Callable, Dict, NamedTuple, Optional, Tuple

import numpy as np

from common.runtime.mxnet import mx

from .graph import Graph

_UNIT = 64  # a row has a multiple of so many weights, the last ones 0: native/narrow_weights.h


class Integers(NamedTuple):
    """Weights as 8-bit integers, each of which stands for itself times ``scale``."""

    array: mx.nd.NDArray
    scale: float


def use_int8(
    symbol: mx.sym.Symbol, arg_params: dict, integers: Dict[str, Integers]
) -> Tuple[mx.sym.Symbol, dict]:
    """Let our fully connected layers read those of their weights that ``integers`` has.

    ``symbol`` is what lowering.for_cpu has made, ``arg_params`` are its arguments.
    """

    def narrow(name, _):
        if name in integers:
            array, scale = integers[name]
            rows = mx.nd.array(_padded(array.asnumpy()), dtype=np.int8)
            return {"weights": "int8", "scale": repr(scale)}, rows
        return None

    return _use(symbol, arg_params, narrow)


def use_bfloat16(symbol: mx.sym.Symbol, arg_params: dict) -> Tuple[mx.sym.Symbol, dict]:
    """The same with all weights of those layers, rounded to bfloat16 (to nearest, ties to even)."""
    return _use(
        symbol, arg_params, lambda _, array: ({"weights": "bfloat16"}, _pairs(array.asnumpy()))
    )


def _use(symbol, arg_params, narrow: Callable[[str, mx.nd.NDArray], Optional[tuple]]):
    graph, arg_params = Graph(symbol), dict(arg_params)
    for node in graph.nodes:
        if node.op != "_alexnet_fully_connected":
            continue
        weight = node.inputs[1].node
        found = narrow(weight.name, arg_params[weight.name])
        if found:
            attrs, arg_params[weight.name] = found
            node.attrs.update(attrs)
            weight.attrs["__shape__"] = str(arg_params[weight.name].shape)
            weight.attrs.pop("__dtype__", None)
    return graph.symbol(), arg_params


def _padded(weights):
    return np.pad(weights, ((0, 0), (0, -weights.shape[1] % _UNIT)))


def _pairs(weights):
    """An array of int32, each of which holds two of bfloat16: MXNet hands none to an extension."""
    weights = _padded(weights)
    bits = weights.view(np.uint32)
    rounded = ((bits + (0x7FFF + (bits >> 16 & 1))) >> 16).astype(np.uint16)
    rounded[np.isnan(weights)] = 0x7FC0
    return mx.nd.array(rounded.view(np.int32), dtype=np.int32)
