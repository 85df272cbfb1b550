"""int8 networks by operators of ours, on a CPU with VNNI or AMX.

They compute MXNet's int8 convolutions and fully connected layers, with the relu, LRN and max
pooling behind them. Weights are 8-bit integers, with a scale for each filter of a convolution; what
flows between layers is uint8, of the ranges that calibration found.
"""

from typing import NamedTuple, Tuple

import numpy as np

from common.runtime.mxnet import mx

from . import dequantize
from .graph import Graph, Node, Output
from .native_operators import is_plain_max, is_relu, said_of

_CONVOLUTION, _FULLY_CONNECTED = "_alexnet_int8_convolution", "_alexnet_int8_fully_connected"
_QUANTIZE, _POOLING = "_contrib_quantize_v2", "_contrib_quantized_pooling"
_AS_BEFORE = (_POOLING, "_contrib_quantized_flatten")  # have the range of what they read
_PRODUCERS = (_QUANTIZE, _CONVOLUTION, _FULLY_CONNECTED)
_ROWS = (
    [_POOLING],
    ["_contrib_dequantize", "LRN", _QUANTIZE],
    ["_contrib_dequantize", "LRN", "Pooling", _QUANTIZE],
    ["_contrib_dequantize", "Pooling", "LRN", _QUANTIZE],
)
_SETTINGS = {
    "Convolution": {"kernel", "num_filter", "num_group", "stride", "pad", "no_bias"},
    "FullyConnected": {"num_hidden", "no_bias"},
}
_FILTERS, _FOURS = 32, 16  # of a block of weights, of a tile: native/int8_product.h
_UINT8, _INT8 = 255.5, 127  # integers of a range: native/int8_outputs.h and int8_convolution.h
_LONGEST = 2**16  # sums of so many products of 8 bits fit 32


def use_int8_operators(
    symbol: mx.sym.Symbol, arg_params: dict, images: int
) -> Tuple[mx.sym.Symbol, dict]:
    """Replace the layers that ours can compute: the symbol, and its arguments.

    ``symbol`` is what lowering.for_cpu has made of MXNet's int8 network for so many ``images`` a
    device, ``arg_params`` are its arguments, which are not to change. A layer stays MXNet's if
    calibration has not found the range of what it reads or makes, if it makes integers below zero,
    or if it has an unusual attribute.
    """
    graph, arg_params = Graph(symbol), dict(arg_params)
    readers = graph.readers()
    for node in graph.nodes:
        op, settings, relu = _float32_layer(node, arg_params)
        if op == "Convolution" and relu:
            _replace_convolution(node, settings, readers, arg_params)
        elif op == "FullyConnected":
            _replace_fully_connected(node, settings, relu, readers, arg_params, images)
    graph = Graph(graph.symbol())  # without the layers that were replaced
    _let_channels_come_last(graph)
    symbol = graph.symbol()
    return symbol, {name: arg_params[name] for name in {*symbol.list_arguments()} & {*arg_params}}


def _float32_layer(node, arg_params):
    """What MXNet has made an int8 operator of: the layer's operator, its settings, and whether a
    relu is behind it. The operator is None if there is more, or something unusual.
    """
    if node.attrs.get("quantized", "").lower() != "true" or "subgraphs" not in node.other:
        return None, {}, False
    (layers,) = node.other["subgraphs"]
    layer, *behind = (
        Node(one["op"], one["name"], attrs=one.get("attrs", {}))
        for one in layers["nodes"]
        if one["op"] != "null"
    )
    settings, relu = layer.settings, [*map(is_relu, behind)] == [True]
    known = said_of(settings) <= _SETTINGS.get(layer.op, set()) and relu == bool(behind)
    weights = [source.node.name for source in node.inputs[1 : 2 if _has_no_bias(settings) else 3]]
    axes = {"Convolution": 4, "FullyConnected": 2}.get(layer.op)
    own = {*weights} <= {*arg_params} and arg_params[weights[0]].ndim == axes
    return layer.op if known and own else None, settings, relu


def _has_no_bias(settings):
    return settings.get("no_bias", "False") in ("True", "1")


class _Input(NamedTuple):
    """What an operator of ours reads; 1 of its uint8 stands for ``step``, above ``zero``."""

    output: Output
    step: float
    zero: int
    attrs: dict


def _input(node, readers):
    """What MXNet's int8 operator reads, as ours does; None if ours cannot.

    A network's data, which may be below 0, stays float32; the first convolution makes it uint8.
    """
    source = producer = node.inputs[0].node
    while producer.op in _AS_BEFORE:
        producer = producer.inputs[0].node
    ends = _ends(producer)
    if producer.op not in _PRODUCERS or not ends:
        return None
    if _are_uint8(ends):
        return _Input(node.inputs[0], ends[1] / _UINT8, 0, {})
    if source.op == _QUANTIZE and readers[source] == {node} and ends[0] < 0:
        most = max(map(abs, ends))
        return _Input(source.inputs[0], most / _INT8, 128, {"input_range": repr(most)})
    return None


def _ends(node):
    """The range of what an operator makes, as calibration has found it; None if it has not."""
    ends = [node.attrs.get(f"{end}_calib_range", "None") for end in ("min", "max")]
    known = "None" not in ends and node.attrs.get("out_type", "auto") == "auto"
    return [*map(float, ends)] if known else None


def _are_uint8(ends):
    """Whether that is a range of which MXNet makes uint8, and not all 0."""
    return ends is not None and ends[0] >= 0 and ends[1] > 0


def _replace_convolution(node, settings, readers, arg_params):
    read = _input(node, readers)
    if not read or not _are_uint8(_ends(node)):
        return
    weights, scale = _integers(node.inputs[1].node.name, arg_params)
    filters, channels, height, width = weights.shape
    if channels * height * width > _LONGEST:
        return
    found, rows = blocks_of_kernels(weights, int(settings.get("num_group", 1)))
    bias = _bias(node, settings, filters, arg_params)
    attrs = {key: text for key, text in settings.items() if key != "no_bias"}
    last = _fuse_next(node, readers, attrs)
    most = _ends(last if last.op == _QUANTIZE else node)[1]
    attrs.update(read.attrs, min_calib_range="0", max_calib_range=repr(most))
    _become(last, _CONVOLUTION, attrs, read, (found, scale, bias, rows), arg_params)


def _fuse_next(node, readers, attrs):
    """Add to ``attrs`` the nodes behind a convolution that ours can compute, too; the last of them.

    Each alone reads the one before. Without such nodes it is the convolution.
    """
    row = _row_behind(node, readers)
    ops = [one.op for one in row]
    lrn = [one.settings for one in row if one.op == "LRN"]
    pooling = [one.settings for one in row if one.op in ("Pooling", _POOLING)]
    ours = ops in _ROWS and all(map(_is_alexnets, lrn)) and all(map(is_plain_max, pooling))
    if not ours or (row[-1].op == _QUANTIZE and not _are_uint8(_ends(row[-1]))):
        return node
    for said in pooling:
        attrs.update(pool_kernel=said["kernel"], pool_stride=said["stride"])
        attrs.update({key: said[key] for key in {"pooling_convention"} & said.keys()})
    for said in lrn:
        attrs.update({key: said[key] for key in {"nsize", "alpha", "knorm"} & said.keys()})
    if ops[1:3] == ["Pooling", "LRN"]:
        attrs["map_range"] = node.attrs["max_calib_range"]
    return row[-1]


def _row_behind(node, readers):
    row = [node]
    while row[-1] is node or row[-1].op in ("_contrib_dequantize", "LRN", "Pooling"):
        if len(readers[row[-1]]) != 1 or None in readers[row[-1]]:
            break
        row += readers[row[-1]]
    return row[1:]


def _is_alexnets(lrn):
    """Whether an LRN with these settings has a window of five channels and the power 3/4."""
    numbers = {key: float(text) for key, text in lrn.items()}
    usual = numbers["nsize"] == 5 and numbers.get("beta", 0.75) == 0.75
    return usual and numbers.get("knorm", 2) > 0 and numbers.get("alpha", 1e-4) >= 0


def _replace_fully_connected(node, settings, relu, readers, arg_params, images):
    read, ends = _input(node, readers), _ends(node)
    floats = not relu and node.attrs.get("enable_float_output", "").lower() == "true"
    if not read or read.zero or not (floats or relu and _are_uint8(ends)):
        return
    weights, scale = _integers(node.inputs[1].node.name, arg_params)
    if weights.shape[1] % 4 or weights.shape[1] > _LONGEST:
        return
    attrs = {"num_hidden": settings["num_hidden"]}
    if relu:
        attrs.update(min_calib_range="0", max_calib_range=repr(ends[1]))
    if images == 1:  # weights of inputs that are zero are then not read
        attrs["by_inputs"] = "1"
    found = by_inputs(weights) if images == 1 else blocks(weights)
    bias = _bias(node, settings, len(weights), arg_params)
    _become(node, _FULLY_CONNECTED, attrs, read, (found, scale, bias, weights), arg_params)


def _integers(name, arg_params):
    """Weights as 8-bit integers, and what 1 of each filter's stands for."""
    array = arg_params[name].asnumpy()
    if array.dtype == np.int8:
        return array, np.full(len(array), dequantize.scale(name, arg_params), np.float32)
    largest = np.abs(array).reshape(len(array), -1).max(1)
    scale = np.where(largest > 0, largest, 1) / _INT8
    return np.rint(array / scale.reshape(-1, *[1] * (array.ndim - 1))).astype(np.int8), scale


def _bias(node, settings, filters, arg_params):
    if _has_no_bias(settings):
        return np.zeros(filters, np.float32)
    return dequantize.float32(node.inputs[2].node.name, arg_params).asnumpy()


def blocks_of_kernels(weights: np.ndarray, groups: int) -> Tuple[np.ndarray, np.ndarray]:
    """(filters, channels, height, width) as :func:`blocks` has them, group by group; and as rows of
    a filter each, in which channels come last and a kernel's row has a multiple of four weights.
    """
    filters, channels, height, width = weights.shape
    rows = weights.transpose(0, 2, 3, 1).reshape(filters, height, width * channels)
    rows = np.pad(rows, ((0, 0), (0, 0), (0, -rows.shape[2] % 4))).reshape(filters, -1)
    return np.concatenate([blocks(group) for group in np.split(rows, groups)]), rows


def blocks(rows: np.ndarray) -> np.ndarray:
    """(filters, values) as native/int8_product.h reads it, (blocks, values / 4, 128).

    With zeros up to whole blocks, and to whole tiles of fours of values.
    """
    rows = np.pad(rows, ((0, -len(rows) % _FILTERS), (0, -rows.shape[1] % (4 * _FOURS))))
    fours = rows.reshape(-1, _FILTERS, rows.shape[1] // 4, 4).transpose(0, 2, 1, 3)
    return fours.reshape(*fours.shape[:2], 4 * _FILTERS)


def by_inputs(weights: np.ndarray) -> np.ndarray:
    """(filters, inputs) as native/int8_one_image.h reads it: (inputs, filters and zeros)."""
    return np.pad(weights, ((0, -len(weights) % 64), (0, 0))).T


def _become(node, op, attrs, read, weights, arg_params):
    """Make the node an operator of ours, with arguments of its own.

    weights: the blocks, the scale and bias of each filter, and its integers in rows. A sum of ours
    has ``zero`` times each of these too many.
    """
    found, scale, bias, rows = weights
    scale = scale * read.step
    bias = bias - read.zero * scale * rows.sum(1, dtype=np.int64)
    node.op, node.attrs, node.other = op, {**attrs, **node.hidden}, {}
    node.inputs = [read.output]
    for key, array in (("weight", found), ("scale", scale), ("bias", bias)):
        variable = Node("null", f"{node.name}_{key}", attrs={"__shape__": str(array.shape)})
        node.inputs.append(Output(variable))
        dtype = np.int8 if key == "weight" else np.float32
        arg_params[variable.name] = mx.nd.array(array, dtype=dtype)


def _let_channels_come_last(graph):
    """Between two convolutions of ours, since neither then changes the layout."""
    readers = graph.readers()
    for node in graph.nodes:
        ours = [one for one in readers[node] if one and one.op == _CONVOLUTION]
        if node.op == _CONVOLUTION and ours and len(ours) == len(readers[node]):
            node.attrs["out_layout"] = "NHWC"
            for reader in ours:
                reader.attrs["layout"] = "NHWC"
