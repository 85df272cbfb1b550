"""Types of a network's numbers, for binding: half precision between two casts, 8-bit images."""

from typing import Sequence

import numpy as np

from common.runtime.mxnet import mx

from .graph import Graph, Node, Output

SHIFT = "data_shift"  # the second input of a network that takes 8-bit images


def cast(symbol: mx.sym.Symbol, dtype: str, loss_scale: float = 1) -> mx.sym.Symbol:
    """A copy of the plain network ``symbol`` that computes in ``dtype`` from ``data`` to softmax.

    ``data``, the label, the softmax and all names stay; MXNet infers ``dtype`` for the weights. The
    gradient is multiplied by ``loss_scale``, so that ``dtype``, such as 'float16', does not lose
    small values; the optimizer has to divide by it.
    """
    graph = Graph(symbol)
    for node in graph.nodes:
        if "__dtype__" in node.attrs:  # a weight whose type MXNet cannot infer
            node.attrs["__dtype__"] = mx.sym.Variable("x", dtype=dtype).attr("__dtype__")
        if node.op == "SoftmaxOutput":
            node.inputs[0] = _cast(node.name, node.inputs[0], "float32")
            if loss_scale != 1:
                node.attrs["grad_scale"] = repr(float(loss_scale))
        if node.name == "data":
            graph.replace(node, _cast("data", Output(node), dtype))
    return graph.symbol()


def _cast(name, source, dtype):
    return Output(Node("Cast", f"{name}_cast", [source], {"dtype": dtype}))


def normalise(symbol: mx.sym.Symbol, std: Sequence[float]) -> mx.sym.Symbol:
    """A copy of ``symbol`` with uint8 images (N, C, H, W) as ``data``, and SHIFT, float32 (N, C).

    Nodes that read ``data`` then read (data + SHIFT) / ``std``, which is of the C channels, in
    float32, bit for bit what common/input/prefetch.py computes. All names stay.
    """
    images = mx.sym.cast(mx.sym.var("data"), "float32", name="data_float32")
    shift = mx.sym.reshape(mx.sym.var(SHIFT), (0, 0, 1, 1), name="data_shift_map")
    channels = [
        mx.sym.full((1, 1, 1, 1), float(np.float32(value)), name=f"data_std{i}")
        for i, value in enumerate(std)
    ]
    shifted = mx.sym.broadcast_add(images, shift, name="data_shifted")
    divisor = mx.sym.concat(*channels, dim=1, name="data_std")
    return symbol(data=mx.sym.broadcast_div(shifted, divisor, name="data_normalised"))
