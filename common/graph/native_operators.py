"""Our C++ operators in place of MXNet's, put into a graph before it is bound on the CPU.

They compute the same values, or those of rounded ones with bfloat16. LRN's gradient is right, where
MXNet's is wrong on the CPU (common/graph/stock_lrn.py says why); convolutions and fully connected
layers are faster with many images. Arguments, auxiliary states and outputs stay, so weights move
freely between the two symbols. Stock MXNet cannot load the new one: save the plain one.
"""

import ast
import math

from common.runtime import native
from common.runtime.mxnet import mx

from .graph import Graph, Node, Output

# In training, with fewer images a device MXNet's convolutions and fully connected layers are the
# faster ones.
MIN_IMAGES = 8

_CONVOLUTION, _FULLY_CONNECTED = "_alexnet_convolution", "_alexnet_fully_connected"
_KEEPING_CONVOLUTION = "_alexnet_keeping_convolution"
_FIRST_CONVOLUTION = "_alexnet_first_convolution"
_CONVOLUTIONS = (_CONVOLUTION, _FIRST_CONVOLUTION)
_LRN, _MAX_POOLING = "_alexnet_lrn", "_alexnet_max_pool"
_OWN_LAYOUT = ("Convolution", "Pooling", "Activation")  # where MKL-DNN lays out what MXNet makes
_DEFAULTS = {
    "no_bias": ("False", "0"),
    "flatten": ("True", "1"),
    "stride": ("(1, 1)", "[1, 1]"),
    "dilate": ("(1, 1)", "[1, 1]"),
}


def use_native_operators(
    symbol: mx.sym.Symbol,
    data: tuple,
    for_training: bool = True,
    input_gradient: bool = True,
    dtype: str = "float32",
) -> mx.sym.Symbol:
    """Replace what our C++ operators compute, which are loaded; arguments: those of for_cpu.

    - Convolutions and fully connected layers, as :func:`use_native_layers` does.
    - Each LRN; for inference only an LRN that follows our convolution: MXNet's LRN is fast on the
      memory layout that MXNet's own convolution leaves.
    - A max pooling that follows our convolution: MXNet's is slow on the layout that ours leaves.

    Then neighbours are fused, where nothing else reads what lies between them: a relu into our
    convolution before it, a relu into our LRN after it, a max pooling into our LRN before it. The
    one operator has the name of the last.

    For inference our convolutions keep the values of their weights. In training a reshape
    NAME_plain keeps a plain copy of what MXNet's operator NAME leaves for ours.
    """
    graph = Graph(use_native_layers(symbol, data, for_training, input_gradient, dtype))
    _fuse(graph, lambda first, second: first.op in _CONVOLUTIONS and is_relu(second))
    for node in graph.nodes:
        after_ours = bool(node.inputs) and node.inputs[0].node.op in _CONVOLUTIONS
        if node.op == "LRN" and (for_training or after_ours):
            node.op = _LRN
        elif _is_plain_max_pooling(node) and after_ours:
            node.op = _MAX_POOLING
    _fuse(graph, lambda first, second: is_relu(first) and second.op == _LRN)
    _fuse(graph, lambda first, second: _is_unpooled_lrn(first) and _is_plain_max_pooling(second))
    if for_training:
        _keep_plain_copies(graph)
        return graph.symbol()
    for node in graph.nodes:
        if node.op == _CONVOLUTION:
            node.op = _KEEPING_CONVOLUTION
    return graph.symbol()


def _keep_plain_copies(graph):
    """Let our operators read what MXNet's leave in its own layout through a reshape to itself.

    Without it MXNet makes a plain copy for each of them, and once more for their gradients, in
    memory that it asks the system for anew each time.
    """
    copies = {}
    for node in graph.nodes:
        if node.op.startswith("_alexnet") and node.inputs[0].node.op in _OWN_LAYOUT:
            source = node.inputs[0]
            attrs = {"shape": "(-2,)", **source.node.hidden}  # all sides as they are
            copy = Node("Reshape", f"{source.node.name}_plain", [source], attrs)
            node.inputs[0] = Output(copies.setdefault(source, copy))


def _fuse(graph, can_be_fused):
    """Make one node of each two neighbours of which only the second reads the first."""
    uses = graph.uses()
    for second in graph.nodes:
        if not second.inputs or second.is_variable:
            continue
        first = second.inputs[0].node
        if uses[first] == 1 and can_be_fused(first, second):
            second.op = first.op if first.op.startswith("_alexnet") else second.op
            second.attrs = {**first.settings, **second.attrs}
            second.inputs = first.inputs


def is_relu(node: Node) -> bool:
    """Whether it is a relu and nothing more."""
    return node.op == "Activation" and node.settings == {"act_type": "relu"}


def _is_unpooled_lrn(node):
    return node.op == _LRN and "kernel" not in node.attrs


def _is_plain_max_pooling(node):
    return node.op == "Pooling" and is_plain_max(node.settings)


def is_plain_max(said: dict) -> bool:
    """Whether a pooling with these settings is a max pooling with a window and a stride in both
    directions, nothing more.
    """
    names = {"kernel", "stride", "pool_type", "pooling_convention"}
    if not {"kernel", "stride"} <= said.keys() <= names:
        return False
    kernel, stride = (ast.literal_eval(said[name]) for name in ("kernel", "stride"))
    return (
        len(kernel) == len(stride) == 2
        and all(step <= side for step, side in zip(stride, kernel))  # else 'full' has empty windows
        and said.get("pool_type", "max") == "max"
        and said.get("pooling_convention", "valid") in ("valid", "full")
    )


def use_native_layers(
    symbol: mx.sym.Symbol,
    data: tuple,
    for_training: bool = True,
    input_gradient: bool = True,
    dtype: str = "float32",
) -> mx.sym.Symbol:
    """Replace fully connected layers, and the convolutions at which ours are faster.

    ``dtype``: 'float32', or 'bfloat16' for products of such values, with float32 sums. For float32
    training with fewer than ``MIN_IMAGES`` images the symbol is returned as it is. A layer also
    stays MXNet's if it has an unusual attribute, or if something else reads its weight or bias. One
    without bias gets a constant one of zeros. In training, a convolution with a larger stride stays
    MXNet's, too, unless it reads ``data`` and ``input_gradient`` is False.
    """
    narrow = dtype == "bfloat16"
    if for_training and data[0] < MIN_IMAGES and not narrow:
        return symbol
    graph = Graph(symbol)
    in_tiles = narrow and (for_training or native.has_amx())
    shapes, uses = graph.shapes(data=data), graph.uses()
    for node in graph.nodes:
        weights = [source.node for source in node.inputs[1:]]  # weight and bias
        known = [shapes.get(variable.name, ()) for variable in weights]
        source = node.inputs[0].node if node.inputs else node
        first = not input_gradient and source.is_variable and source.name == "data"
        output = shapes.get(node.name + "_output", ())
        op = _native_layer(node, known, output, for_training, first, in_tiles)
        if op and all(one.is_variable and uses[one] == 1 for one in weights):
            _replace(node, op, weights, known)
            if narrow:
                node.attrs["dtype"] = dtype
    return graph.symbol()


def _replace(node, op, weights, shapes):
    """Make it our operator; ``weights``: the variables, weight and bias, of such ``shapes``."""
    node.op = op
    if len(weights) == 1:
        del node.attrs["no_bias"]
        attrs = {"shape": f"({shapes[0][0]},)", "dtype": "float32"}
        node.inputs.append(Output(Node("_zeros", f"{node.name}_no_bias", attrs=attrs)))
    # MXNet infers shapes through an extension's operator only if all ranks are known.
    for variable, shape in zip(weights, shapes):
        variable.attrs.setdefault("__shape__", str(shape))


def _native_layer(node, weights, output, for_training, first, in_tiles):
    """Our operator for ``node``, with weight and bias of the shapes ``weights``, or None.

    first: its input needs no gradient. in_tiles: choose for AMX.
    """
    settings = node.settings
    said = said_of(settings)
    if not weights or not all(shape and all(shape) for shape in weights):
        return None  # shapes that `data` does not determine
    if len(weights) == 1:
        said.discard("no_bias")
    if node.op == "FullyConnected" and said == {"num_hidden"}:
        return _FULLY_CONNECTED
    if node.op == "Convolution" and said <= {"kernel", "num_filter", "num_group", "pad", "stride"}:
        pays = _amx_pays if in_tiles else _winograd_pays
        if not pays(weights[0], output, settings, for_training):
            return None
        if for_training and "stride" in said:
            return _FIRST_CONVOLUTION if first else None
        return _CONVOLUTION
    return None


def said_of(settings: dict) -> set:
    """The names of settings that differ from what MXNet takes where nothing is said."""
    return {key for key, value in settings.items() if value not in _DEFAULTS.get(key, ())}


def _winograd_pays(weight, output, settings, for_training):
    """Whether Winograd's method is the faster one (measured: benchmarks/NOTES.md), for these shapes
    of a convolution's weight and output, and its settings.
    """
    groups, strides = int(settings.get("num_group", 1)), _pair(settings, "stride", 1)
    if not _can_be_ours(weight, output, strides):
        return False
    filters, channels, *kernel = weight
    images, _, *size = output
    side, places = -(-kernel[0] // strides[0]), math.prod(strides)  # as native/tiled_layout.h
    whole_map = kernel == size == [3, 3] and _pair(settings, "pad", 0) == strides == (1, 1)
    tiles = math.prod(-(-n // (8 - side)) for n in size)
    plain = math.prod(kernel) // places * math.prod(size)  # multiplications an image and weight
    ours = 16 if whole_map else math.prod(_points(n, side) for n in size)
    of_weight = 16 if whole_map else math.prod(7 if n > 6 - side else 5 for n in size)
    fewer, more = sorted((channels * places, filters // groups))
    fits = tiles * more <= 2**18  # all values of an image in some 50 MB
    # A weight's value takes as long as so many multiplications.
    of_value = (48 if for_training else 12) * (2 / 3 if whole_map else 1)
    enough = images * (plain - ours) >= of_value * of_weight
    return fewer >= 48 and plain >= 2.2 * ours and enough and fits


def _amx_pays(weight, output, settings, _):
    """Whether AMX is worth it: its tiles hold 16 filters and 32 channels.

    Training does so without AMX, too: what it rounds does not depend on the CPU.
    """
    groups, strides = int(settings.get("num_group", 1)), _pair(settings, "stride", 1)
    filters, channels = weight[0] // groups, weight[1] * math.prod(strides)
    return _can_be_ours(weight, output, strides) and min(filters, channels) >= 16


def _pair(settings, name, default):
    """A setting of two integers."""
    return tuple(ast.literal_eval(settings.get(name, f"({default}, {default})")))


def _can_be_ours(weight, output, strides):
    """Whether native/convolution.h has such a convolution."""
    kernel = weight[2:]
    if len({*kernel}) > 1 or len({*strides}) > 1 or len(output) != 4 or not all(output):
        return False
    return -(-kernel[0] // strides[0]) in (3, 5)


def _points(outputs, side):
    """Of all tiles of a row of outputs, divided as native/tiled_layout.h does it."""
    tiles, left = divmod(outputs, 8 - side)
    return 7 * tiles + (0 if not left else 5 if left <= 6 - side else 7)
