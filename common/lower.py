"""Passes over the graph before it is bound on the CPU: LRN with right gradients, faster layers.

In MXNet 1.9.1's MKL-DNN build the gradient of LRN is wrong wherever another layer follows it: the
incoming gradient is read in the wrong memory layout (mkldnn_lrn-inl.h has an open TODO on it,
MXNET-846). In AlexNet that puts the gradient of conv1 off by 2 to 24%; tests/test_gradients.py
shows it. The forward pass is right, so inference needs no lowering, and is faster without. GPUs
and builds without MKL-DNN run other code: bind the plain symbol there.

The lowered symbol is for binding only. It has the arguments, auxiliary states and outputs of the
plain one, so parameters move freely between the two; save the plain one.
"""

import ast
import collections
import json

import mxnet as mx

from symbols.graph import rewrite
from symbols.scope import own_scope

MANY = 8  # images from which on our fully connected layers are the faster ones
_WINDOW = {"kernel", "stride"}


def lower_native(symbol: mx.sym.Symbol, images: int = MANY) -> mx.sym.Symbol:
    """For training: put our C++ operators, which `native.load` must have loaded, into the graph.

    Each LRN is replaced, together with the relu before and the max pooling after it where nothing
    else reads what lies between; the one operator has the last one's name. Fully connected layers
    are replaced as in :func:`lower_fully_connected`. Bind with ``grad_req="write"``: the operators
    do not add to gradients.

    Args:
        symbol: any float32 graph.
        images: how many of a batch a device computes.
    """
    symbol = lower_fully_connected(symbol, images)
    graph = json.loads(symbol.tojson())
    sources = [source for node in graph["nodes"] for source in node["inputs"]] + graph["heads"]
    uses = collections.Counter(graph["nodes"][at]["name"] for at, *_ in sources)

    def put(node, nodes):
        before = nodes[node["inputs"][0][0]] if node["inputs"] else None
        join = (
            (node["op"] == "LRN" and _is_relu(before))
            or (_is_plain_max_pooling(node) and before["op"] == "_alexnet_lrn")
        ) and uses[before["name"]] == 1
        if node["op"] == "LRN" or join:
            node["op"] = "_alexnet_lrn"
        if join:
            nodes.pop()  # it is `before`: MXNet writes a node directly after what it alone reads
            node["inputs"] = before["inputs"]
            node["attrs"] = {**_attributes(before), **node["attrs"]}
        nodes.append(node)
        return len(nodes) - 1

    return rewrite(symbol, put)


def _is_relu(node):
    return node["op"] == "Activation" and _attributes(node) == {"act_type": "relu"}


def _is_plain_max_pooling(node):
    attrs = _attributes(node)
    if node["op"] != "Pooling" or set(attrs) - {"pool_type", "pooling_convention"} != _WINDOW:
        return False
    kernel, stride = (ast.literal_eval(attrs[name]) for name in ("kernel", "stride"))
    return (
        len(kernel) == len(stride) == 2
        and all(step <= side for step, side in zip(stride, kernel))  # else 'full' has empty windows
        and attrs.get("pool_type", "max") == "max"
        and attrs.get("pooling_convention", "valid") in ("valid", "full")
    )


def lower_fully_connected(symbol: mx.sym.Symbol, images: int) -> mx.sym.Symbol:
    """For training and inference: our C++ operator in place of each plain FullyConnected.

    Below ``MANY`` images a device the symbol is returned as it is. A layer stays MXNet's, too,
    if it has no bias or does not flatten, or its weight or bias is no variable of its own.
    """
    graph = json.loads(symbol.tojson())
    nodes = graph["nodes"]
    layers = [node for node in nodes if _is_plain_fully_connected(node)]
    if images < MANY or not layers:
        return symbol
    uses = collections.Counter(at for node in nodes for at, *_ in node["inputs"])
    uses.update(at for at, *_ in graph["heads"])
    for node in layers:
        own = [at for at, *_ in node["inputs"][1:]]
        if any(nodes[at]["op"] != "null" or uses[at] > 1 for at in own):
            continue
        outputs = node["attrs"]["num_hidden"]
        # MXNet asks an operator of an extension about shapes only if all ranks are known.
        for at, shape in zip(own, (f"({outputs}, 0)", f"({outputs},)")):
            nodes[at].setdefault("attrs", {}).setdefault("__shape__", shape)
        node["op"] = "_alexnet_fully_connected"
    return mx.sym.load_json(json.dumps(graph))


def _is_plain_fully_connected(node):
    attrs = _attributes(node)
    return (
        node["op"] == "FullyConnected"
        and attrs.pop("no_bias", "False") in ("False", "0")
        and attrs.pop("flatten", "True") in ("True", "1")
        and set(attrs) == {"num_hidden"}
    )


def _attributes(node):
    return {key: value for key, value in node.get("attrs", {}).items() if key[:2] != "__"}


def lower(symbol: mx.sym.Symbol, data: tuple, **inputs: tuple) -> mx.sym.Symbol:
    """Replace each LRN by stock operators that compute the same and differentiate right.

    Slower than :func:`lower_native`, but it needs no compiler.

    Args:
        symbol: any float32 graph; one without LRN is returned as it is.
        data: shape of the input ``data`` as it will be bound; the batch size does not matter.
        inputs: shapes of further inputs, where ``data`` does not determine all shapes.

    Raises:
        ValueError: the shapes do not determine an LRN's number of channels.
    """
    graph = json.loads(symbol.tojson())
    if all(node["op"] != "LRN" for node in graph["nodes"]):
        return symbol
    channels = _channels(symbol, dict(inputs, data=data))
    names = {node["name"] for node in graph["nodes"]}

    def put(node, nodes):
        if node["op"] == "LRN":
            nodes += _stand_in(node, channels.get(node["name"] + "_output"), len(nodes), names)
            names.update(new["name"] for new in nodes)
        else:
            nodes.append(node)
        return len(nodes) - 1

    return rewrite(symbol, put)


def _channels(symbol, inputs):
    """Output name -> its channels, as far as ``inputs`` determine them."""
    internals = symbol.get_internals()
    _, shapes, _ = internals.infer_shape_partial(**inputs)
    outputs = zip(internals.list_outputs(), shapes)
    return {name: shape[1] for name, shape in outputs if len(shape) == 4}


def _stand_in(lrn, channels, start, names):
    """The nodes, to be numbered from ``start``, that replace the node ``lrn``.

    The last takes its name, the others names that are not among ``names``. All take its hidden
    attributes, such as the device group.
    """
    if not channels:
        raise ValueError(f"the shapes given do not determine the channels of {lrn['name']}")
    hidden = {key: value for key, value in lrn["attrs"].items() if key.startswith("__")}
    prefix = lrn["name"] + "_"
    while any(name.startswith(prefix) for name in names):
        prefix += "_"
    nodes, place = [], []
    for node in json.loads(_normalise(lrn["attrs"], channels).tojson())["nodes"]:
        if node["op"] == "null":  # the variable x
            place.append(lrn["inputs"][0])
            continue
        node["name"] = prefix + node["name"]
        node["attrs"] = {**node.get("attrs", {}), **hidden}
        node["inputs"] = [place[source] for source, *_ in node["inputs"]]
        place.append([start + len(nodes), 0, 0])
        nodes.append(node)
    nodes[-1]["name"] = lrn["name"]
    return nodes


def _normalise(attrs, channels):
    """x / (knorm + alpha / nsize * sum of x**2 over nsize channels) ** beta, of a variable x.

    The sum is a 1x1 convolution with a constant band matrix. MXNet computes that faster than sums
    of slices or a pooling over channels, and exp(log) faster than a power.
    """
    nsize, alpha = int(attrs["nsize"]), float(attrs.get("alpha", 1e-4))
    beta, knorm = float(attrs.get("beta", 0.75)), float(attrs.get("knorm", 2))
    with own_scope():
        x = mx.sym.Variable("x")
        at = mx.sym.arange(0, channels)
        distance = mx.sym.abs(mx.sym.broadcast_sub(at.reshape((-1, 1)), at.reshape((1, -1))))
        band = (distance <= (nsize - 1) // 2) * (alpha / nsize)
        scale = mx.sym.Convolution(
            mx.sym.square(x),
            weight=mx.sym.BlockGrad(band.reshape((channels, channels, 1, 1))),
            bias=mx.sym.BlockGrad(mx.sym.full((channels,), knorm)),
            kernel=(1, 1),
            num_filter=channels,
        )
        return x * mx.sym.exp(mx.sym.log(scale) * -beta)
