"""Types of a network's numbers, for binding: half precision between two casts, 8-bit images."""

from typing import Sequence

import numpy as np

from common.runtime.mxnet import mx

from .graph import rewrite

SHIFT = "data_shift"  # the second input of a network that takes 8-bit images


def cast(symbol: mx.sym.Symbol, dtype: str, loss_scale: float = 1) -> mx.sym.Symbol:
    """A copy of ``symbol`` that computes in ``dtype`` from ``data`` up to the softmax.

    ``data``, the label, the softmax and the names are as they were; MXNet infers that the weights
    are of ``dtype``, too.

    Args:
        symbol: a plain network, which ends in a SoftmaxOutput.
        dtype: such as 'float16'.
        loss_scale: the gradient is multiplied by it, so that ``dtype`` does not lose small values;
            the optimizer has to divide by it.
    """

    def put(node, nodes):
        if node["op"] == "SoftmaxOutput":
            nodes.append(_cast(node["name"], node["inputs"][0], "float32"))
            node["inputs"][0] = [len(nodes) - 1, 0, 0]
            if loss_scale != 1:
                node.setdefault("attrs", {})["grad_scale"] = repr(float(loss_scale))
        nodes.append(node)
        if node["name"] == "data":
            nodes.append(_cast("data", [len(nodes) - 1, 0, 0], dtype))
        return len(nodes) - 1

    return rewrite(symbol, put)


def _cast(name, source, dtype):
    return {"op": "Cast", "name": f"{name}_cast", "attrs": {"dtype": dtype}, "inputs": [source]}


def normalise(symbol: mx.sym.Symbol, std: Sequence[float]) -> mx.sym.Symbol:
    """A copy of ``symbol`` whose input ``data`` takes 8-bit images, and a shift beside them.

    Where ``data`` was read, there is (data + SHIFT) / ``std`` in float32, the same to the last bit
    as common/input/prefetch.py makes it; the rest and its names are as they were.

    Args:
        symbol: any network; its ``data`` becomes uint8 (N, C, H, W), SHIFT is float32 (N, C).
        std: of the C channels.
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
