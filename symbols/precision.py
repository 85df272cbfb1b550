"""Half precision: the same network between two casts, as MXNet's example has it."""

import mxnet as mx

from symbols.graph import rewrite


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
