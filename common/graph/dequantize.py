"""int8 networks in float32, for CPUs on which that is faster.

An operator of MXNet's int8 networks has the float32 layers that it was made of as a subgraph, or is
the int8 form of one operator. An integer q of a tensor whose largest magnitude is r means q * r /
127. So the weights are those that were rounded to 8 bits; what flows between layers is not rounded.
"""

import json
import os
from typing import Dict, Tuple

import numpy as np

from common.io import cpus
from common.runtime.mxnet import mx

from .graph import Graph
from .inference_weights import Integers

KEEP = "ALEXNET_INT8_OPERATORS"  # environment variable: 1 computes in int8 on any CPU
_CONVERSIONS = ("_contrib_quantize_v2", "_contrib_requantize", "_contrib_dequantize")
_FLOAT32 = {
    "_contrib_quantized_act": "Activation",
    "_contrib_quantized_batch_norm": "BatchNorm",
    "_contrib_quantized_concat": "Concat",
    "_contrib_quantized_elemwise_add": "elemwise_add",
    "_contrib_quantized_elemwise_mul": "elemwise_mul",
    "_contrib_quantized_flatten": "Flatten",
    "_contrib_quantized_pooling": "Pooling",
}
_INT8_ONLY = ("min_calib_range", "max_calib_range", "enable_float_output")  # attributes


def is_quantized(symbol: mx.sym.Symbol) -> bool:
    """Whether any layer of the network computes in int8."""
    nodes = Graph(symbol).nodes
    return any(node.attrs.get("quantized", "").lower() == "true" for node in nodes)


def needed(symbol: mx.sym.Symbol) -> bool:
    """Whether :func:`dequantized` makes a faster network of this one here.

    It does without VNNI, whatever the batch size, so that answers do not depend on that. A network
    with an int8 operator that has no float32 form here stays as it is.
    """
    if os.environ.get(KEEP, "0") != "0" or cpus.has_int8() or not is_quantized(symbol):
        return False
    ops = {node.op for node in Graph(symbol).nodes if "subgraphs" not in node.other}
    return not any(op.startswith(("_contrib_quantized_", "_sg_")) for op in ops - {*_FLOAT32})


def dequantized(symbol: mx.sym.Symbol, arg_params: dict) -> Tuple[mx.sym.Symbol, dict]:
    """The float32 form of a network that MXNet's ``quantize_model_mkldnn`` has made, and its
    arguments; the auxiliary states are the same.
    """
    graph = Graph(symbol)
    for node in graph.nodes:
        if "subgraphs" in node.other:  # its inputs, then ends of ranges
            (layers,) = node.other["subgraphs"]
            graph.expand(node, mx.sym.load_json(json.dumps({**layers, "attrs": graph.version})))
        elif node.op in _CONVERSIONS:
            graph.replace(node, node.inputs[0])
        elif node.op in _FLOAT32:
            # Each tensor of integers has two ends of a range, which come last.
            tensors = 5 if node.op.endswith("batch_norm") else len(node.inputs) // 3
            node.op, node.inputs = _FLOAT32[node.op], node.inputs[:tensors]
            node.attrs = {key: text for key, text in node.attrs.items() if key not in _INT8_ONLY}
    plain = graph.symbol()
    names = set(plain.list_arguments()) & set(arg_params)
    return plain, {name: float32(name, arg_params) for name in names}


def integers(arg_params: dict) -> Dict[str, Integers]:
    """The arguments that are 8-bit integers."""
    return {
        name: Integers(array, scale(name, arg_params))
        for name, array in arg_params.items()
        if array.dtype == np.int8
    }


def float32(name: str, arg_params: dict) -> mx.nd.NDArray:
    """An argument as float32, the 8-bit integers times what 1 of them stands for."""
    array = arg_params[name]
    if array.dtype != np.int8:
        return array
    return array.astype("float32") * scale(name, arg_params)


def scale(name: str, arg_params: dict) -> float:
    """What 1 of the 8-bit integers with this name stands for."""
    ends = (arg_params[f"{name}_{end}"].asscalar() for end in ("min", "max"))
    return float(max(map(abs, ends)) / 127)
