"""Half precision: the same network between two casts, as MXNet's example has it."""

import json

import mxnet as mx


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
    nodes, place = [], []  # place[i]: where the old node i, or what stands for it, is in nodes
    graph = json.loads(symbol.tojson())
    for node in graph["nodes"]:
        node["inputs"] = [[place[source], *rest] for source, *rest in node["inputs"]]
        if node["op"] == "SoftmaxOutput":
            nodes.append(_cast(node["name"], node["inputs"][0], "float32"))
            node["inputs"][0] = [len(nodes) - 1, 0, 0]
            if loss_scale != 1:
                node.setdefault("attrs", {})["grad_scale"] = repr(float(loss_scale))
        nodes.append(node)
        if node["name"] == "data":
            nodes.append(_cast("data", [len(nodes) - 1, 0, 0], dtype))
        place.append(len(nodes) - 1)
    graph["nodes"] = nodes
    graph["arg_nodes"] = [i for i, node in enumerate(nodes) if node["op"] == "null"]
    graph["heads"] = [[place[source], *rest] for source, *rest in graph["heads"]]
    del graph["node_row_ptr"]  # derived from the nodes; MXNet makes it again
    return mx.sym.load_json(json.dumps(graph))


def _cast(name, source, dtype):
    return {"op": "Cast", "name": f"{name}_cast", "attrs": {"dtype": dtype}, "inputs": [source]}
