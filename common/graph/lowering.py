"""Passes over the graph before it is bound on the CPU: LRN with right gradients, faster layers.

In MXNet 1.9.1's MKL-DNN build the gradient of LRN is wrong wherever another layer follows it: the
incoming gradient is read in the wrong memory layout (mkldnn_lrn-inl.h has an open TODO on it,
MXNET-846). In AlexNet that puts the gradient of conv1 off by 2 to 24%;
tests/graph/test_gradients.py shows it. The forward pass is right. Convolutions and fully connected
layers are right, too; ours are faster with many images, in training and inference. GPUs and builds
without MKL-DNN run other code: bind the plain symbol there.

The lowered symbol is for binding only. It has the arguments, auxiliary states and outputs of the
plain one, so parameters move freely between the two; save the plain one.
"""

import ast
import collections
import json
import math

from common.runtime.mxnet import mx
from symbols.scope import own_scope

from .graph import rewrite

MANY = 8  # images from which on our convolutions and fully connected layers are the faster ones
_WINDOW = {"kernel", "stride"}
_DEFAULTS = {
    "no_bias": ("False", "0"),
    "flatten": ("True", "1"),
    "stride": ("(1, 1)", "[1, 1]"),
    "dilate": ("(1, 1)", "[1, 1]"),
}


def lower_native(symbol: mx.sym.Symbol, data: tuple, for_training: bool = True) -> mx.sym.Symbol:
    """Put our C++ operators, which `native.load` must have loaded, into the graph.

    Layers are replaced as in :func:`lower_layers`, and each LRN; for inference only an LRN that
    follows our convolution: MXNet's is fast on the layout that its own convolution leaves. A relu
    after our convolution, and a relu before and a max pooling after an LRN, become part of it where
    nothing else reads what lies between; the one operator has the last one's name. Bind with
    ``grad_req="write"``: the operators do not add to gradients.

    Args:
        symbol: any float32 graph.
        data: shape of the input ``data`` as one device sees it.
        for_training: whether gradients are wanted.
    """
    symbol = lower_layers(symbol, data)
    graph = json.loads(symbol.tojson())
    uses = _uses(graph)

    def put(node, nodes):
        before = nodes[node["inputs"][0][0]] if node["inputs"] else {"op": "null", "name": ""}
        after_ours = before["op"] == "_alexnet_convolution"
        is_lrn = node["op"] == "LRN" and (for_training or after_ours)
        joined = (
            (is_lrn and _is_relu(before))
            or (_is_relu(node) and after_ours)
            or (_is_plain_max_pooling(node) and _is_unpooled_lrn(before))
        ) and uses[before["name"]] == 1
        if is_lrn:
            node["op"] = "_alexnet_lrn"
        elif joined:
            node["op"] = before["op"]
        elif _is_plain_max_pooling(node) and after_ours:
            node["op"] = "_alexnet_max_pool"  # MXNet's is slow on the layout that ours leaves
        if joined:
            nodes.pop()  # it is `before`: MXNet writes a node directly after what it alone reads
            node["inputs"] = before["inputs"]
            node["attrs"] = {**_attributes(before), **node["attrs"]}
        nodes.append(node)
        return len(nodes) - 1

    return rewrite(symbol, put)


def _uses(graph):
    """Name of a node -> how many inputs and outputs of the graph it is."""
    sources = [source for node in graph["nodes"] for source in node["inputs"]] + graph["heads"]
    return collections.Counter(graph["nodes"][at]["name"] for at, *_ in sources)


def _is_relu(node):
    return node["op"] == "Activation" and _attributes(node) == {"act_type": "relu"}


def _is_unpooled_lrn(node):
    return node["op"] == "_alexnet_lrn" and "kernel" not in node["attrs"]


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


def lower_layers(symbol: mx.sym.Symbol, data: tuple) -> mx.sym.Symbol:
    """Our C++ operators in place of fully connected layers, and of convolutions if they are faster.

    With less than ``MANY`` images the symbol is returned as it is. A layer stays MXNet's, too, if
    it has no bias or an unusual attribute, or its weight or bias is no variable of its own.

    Args:
        symbol: any float32 graph with an input ``data``.
        data: shape of the input ``data`` as one device sees it.
    """
    if data[0] < MANY:
        return symbol
    graph = json.loads(symbol.tojson())
    nodes = graph["nodes"]
    shapes = _shapes(symbol, {"data": data})
    uses = _uses(graph)
    for node in nodes:
        own = [nodes[at] for at, *_ in node["inputs"][1:]]  # weight and bias
        known = [shapes.get(variable["name"], ()) for variable in own]
        op = _replacement(node, known, shapes.get(node["name"] + "_output", ()))
        if not op or any(one["op"] != "null" or uses[one["name"]] > 1 for one in own):
            continue
        # MXNet asks an operator of an extension about shapes only if all ranks are known.
        for variable, shape in zip(own, known):
            variable.setdefault("attrs", {}).setdefault("__shape__", str(shape))
        node["op"] = op
    return mx.sym.load_json(json.dumps(graph))


def _replacement(node, own, output):
    """Our operator for ``node``, with weight and bias of the shapes ``own``, or None."""
    attrs = _attributes(node)
    said = {key for key, value in attrs.items() if value not in _DEFAULTS.get(key, ())}
    if len(own) != 2 or not all(shape and all(shape) for shape in own):
        return None  # no bias, or shapes that `data` does not determine
    if node["op"] == "FullyConnected" and said == {"num_hidden"}:
        return "_alexnet_fully_connected"
    if node["op"] == "Convolution" and said <= {"kernel", "num_filter", "num_group", "pad"}:
        group = int(attrs.get("num_group", 1))
        return "_alexnet_convolution" if _suits(own[0], group, output) else None
    return None


def _suits(weight, group, output):
    """Whether Winograd's method is the faster one (measured: benchmarks/NOTES.md)."""
    filters, channels, *kernel = weight
    if kernel not in ([3, 3], [5, 5]) or len(output) != 4 or not all(output):
        return False
    images, _, *size = output
    tiles = math.prod(-(-n // (8 - kernel[0])) for n in size)  # as native/winograd.h does
    saving = math.prod(kernel) * math.prod(size) / (49 * tiles)  # multiplications, by a factor
    fewer, more = sorted((channels, filters // group))
    fits = tiles * more <= 2**18  # all values of an image in some 50 MB
    return fewer >= 48 and saving >= 2.5 and images * tiles >= 64 and fits


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
    shapes = _shapes(symbol, dict(inputs, data=data))
    names = {node["name"] for node in graph["nodes"]}

    def put(node, nodes):
        if node["op"] == "LRN":
            nodes += _stand_in(node, shapes.get(node["name"] + "_output", ()), len(nodes), names)
            names.update(new["name"] for new in nodes)
        else:
            nodes.append(node)
        return len(nodes) - 1

    return rewrite(symbol, put)


def _shapes(symbol, inputs):
    """Name of an output or a variable -> its shape, as far as ``inputs`` determine them."""
    internals = symbol.get_internals()
    _, shapes, _ = internals.infer_shape_partial(**inputs)
    return dict(zip(internals.list_outputs(), shapes))


def _stand_in(lrn, shape, start, names):
    """The nodes, to be numbered from ``start``, that replace the node ``lrn``.

    The last takes its name, the others names that are not among ``names``. All take its hidden
    attributes, such as the device group.
    """
    if len(shape) != 4 or not shape[1]:
        raise ValueError(f"the shapes given do not determine the channels of {lrn['name']}")
    hidden = {key: value for key, value in lrn["attrs"].items() if key.startswith("__")}
    prefix = lrn["name"] + "_"
    while any(name.startswith(prefix) for name in names):
        prefix += "_"
    nodes, place = [], []
    for node in json.loads(_normalise(lrn["attrs"], shape[1]).tojson())["nodes"]:
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
